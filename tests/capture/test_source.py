"""Sources of every kind, opened by their address: what they give, in which order, and how they fail."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from edge.capture import Source, open_source
from edge.capture.source import DrawnSource, SourceLimits
from edge.core.errors import SourceError
from edge.core.source_address import parse_address
from tests.support.grey_video import write_video
from tests.support.promised_png import png_of_size

SHADE_STEP = 20  # between the pictures of a test video


def opened(text: str, folder: Path = Path()) -> contextlib.closing[Source]:
    return contextlib.closing(open_source(parse_address(text, folder)))


def shade(number: int) -> int:
    return number * SHADE_STEP % 256


def write_picture(path: Path, level: int, size: tuple[int, int] = (8, 6)) -> None:
    assert cv2.imwrite(str(path), np.full((size[1], size[0], 3), level, np.uint8))


def pictures(source: Source) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    while (media_s := source.grab()) is not None:
        yield media_s, source.retrieve(None)


def failure(text: str, folder: Path) -> SourceError:
    with pytest.raises(SourceError) as raised, opened(text, folder) as source:
        list(pictures(source))
    assert len(str(raised.value).splitlines()) == 1
    return raised.value


def test_a_video_gives_its_frames_with_their_times(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 10, fps=20)
    with opened("a.avi", tmp_path) as source:
        came = list(pictures(source))
        assert source.ending() is None
    assert [media_s for media_s, _ in came] == pytest.approx([number / 20 for number in range(10)], abs=0.002)
    assert [picture.mean() for _, picture in came] == pytest.approx([shade(number) for number in range(10)], abs=3)
    assert {(picture.shape, picture.dtype.name) for _, picture in came} == {((48, 64, 3), "uint8")}


def test_a_video_fills_the_buffer_that_fits_and_leaves_one_that_does_not(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 2)
    fits, other = np.empty((48, 64, 3), np.uint8), np.full((5, 5, 3), 7, np.uint8)
    with opened("a.avi", tmp_path) as source:
        source.grab()
        assert source.retrieve(other).shape == (48, 64, 3)
        assert (other == 7).all()
        source.grab()
        assert np.shares_memory(source.retrieve(fits), fits)


def test_a_video_cut_off_gives_the_frames_before_and_says_so(tmp_path: Path) -> None:
    write_video(tmp_path / "whole.avi", 30, size=(320, 240))
    content = (tmp_path / "whole.avi").read_bytes()
    (tmp_path / "half.avi").write_bytes(content[: len(content) // 2])
    with opened("half.avi", tmp_path) as source:
        count = len(list(pictures(source)))
        ending = source.ending()
    assert 5 < count < 25
    assert ending is None or f"delivered {count} of about 30 frames" in ending


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 100, bytes(range(256)) * 64])
def test_a_file_that_is_no_video_fails_for_good(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    error = failure("a.mp4", tmp_path)
    assert error.permanent
    found = "cannot be opened" if content else "is empty"
    assert str(error).startswith(f"{tmp_path}/a.mp4 {found}; wanted a video that FFmpeg reads, or a picture")


@pytest.mark.parametrize(
    ("codec", "told"),
    [
        (b"ZZZZ", "found codec ZZZZ, wanted one that FFmpeg decodes here; convert it (ffmpeg -i IN -c:v libx264"),
        (b"H264", "contains no decodable frame of its codec H.264; it may be damaged"),
    ],
)
def test_a_codec_that_cannot_be_decoded_is_named_with_the_remedy(tmp_path: Path, codec: bytes, told: str) -> None:
    write_video(tmp_path / "a.avi", 5)
    content = (tmp_path / "a.avi").read_bytes()
    (tmp_path / "a.avi").write_bytes(content.replace(b"MJPG", codec))
    error = failure("a.avi", tmp_path)
    assert error.permanent
    assert told in str(error)


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    error = failure("gone.mp4", tmp_path)
    assert not error.permanent
    assert "does not exist; wanted a picture, a folder of pictures or a video" in str(error)


def test_a_picture_comes_once(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 99)
    with opened("a.png", tmp_path) as source:
        ((media_s, picture),) = pictures(source)
        assert source.ending() is None
    assert (media_s, picture.shape, int(picture.min())) == (0.0, (6, 8, 3), 99)


@pytest.mark.parametrize("size", [(1, 1), (8000, 6000)])
def test_a_picture_of_any_size_is_read(tmp_path: Path, size: tuple[int, int]) -> None:
    write_picture(tmp_path / "a.png", 5, size)
    with opened("a.png", tmp_path) as source:
        ((_, picture),) = pictures(source)
    assert picture.shape == (size[1], size[0], 3)


def test_a_gray_picture_and_one_with_alpha_become_three_channels(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "1.png"), np.full((6, 8), 50, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((6, 8, 4), 50, np.uint8))
    with opened(".", tmp_path) as source:
        assert [picture.shape for _, picture in pictures(source)] == [(6, 8, 3)] * 2


def test_a_folder_gives_its_pictures_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name, level in (("b.png", 20), ("a.png", 10), ("c.bmp", 30)):
        write_picture(tmp_path / name, level)
    (tmp_path / "notes.txt").write_text("no picture", encoding="utf-8")
    (tmp_path / "folder").mkdir()
    with opened(".", tmp_path) as source:
        came = list(pictures(source))
        assert source.ending() is None
    assert [int(picture.min()) for _, picture in came] == [10, 20, 30]
    times_s = [media_s for media_s, _ in came]
    assert times_s == sorted(set(times_s))


def test_a_picture_that_cannot_be_decoded_is_left_out_and_told(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 10)
    write_picture(tmp_path / "c.png", 30)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    with opened(".", tmp_path) as source:
        assert [int(picture.min()) for _, picture in pictures(source)] == [10, 30]
        assert (
            source.ending()
            == "1 of 3 pictures could not be decoded: b.png is no picture: its PNG header is cut off or damaged"
        )


def test_a_folder_without_pictures_may_get_some(tmp_path: Path) -> None:
    error = failure(".", tmp_path)
    assert not error.permanent
    assert "contains no pictures; wanted files such as .jpg or .png in it" in str(error)


def test_a_folder_of_broken_pictures_fails_for_good(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 10)
    (tmp_path / "a.png").write_bytes((tmp_path / "a.png").read_bytes()[:20])
    error = failure(".", tmp_path)
    assert error.permanent
    assert "contains no decodable picture" in str(error)


def moving_picture(path: Path, *, count: int = 5) -> None:
    """Write a moving picture of its name's format, each frame lighter than the one before."""
    frames = [np.full((48, 64, 3), shade(number), np.uint8) for number in range(count)]
    if path.suffix == ".tiff":
        assert cv2.imwritemulti(str(path), frames)
    elif path.suffix in (".mjpg", ".jpg"):
        path.write_bytes(b"".join(cv2.imencode(".jpg", frame)[1].tobytes() for frame in frames))
    else:
        animation = cv2.Animation()
        animation.frames = [cv2.cvtColor(frame, cv2.COLOR_BGR2BGRA) for frame in frames]
        animation.durations = [100] * count
        assert cv2.imwriteanimation(str(path), animation)


MOVING = ("a.gif", "a.webp", "a.png", "a.tiff", "a.mjpg", "a.jpg")


@pytest.mark.parametrize("name", MOVING)
def test_a_moving_picture_gives_all_its_frames(tmp_path: Path, name: str) -> None:
    moving_picture(tmp_path / name)
    with opened(name, tmp_path) as source:
        came = list(pictures(source))
        assert source.ending() is None
    assert [picture.mean() for _, picture in came] == pytest.approx([shade(number) for number in range(5)], abs=4)
    times_s = [media_s for media_s, _ in came]
    assert times_s == sorted(set(times_s))


def test_a_folder_gives_all_frames_of_its_moving_pictures(tmp_path: Path) -> None:
    for name in MOVING:
        moving_picture(tmp_path / name, count=3)
    with opened(".", tmp_path) as source:
        times_s = [media_s for media_s, _ in pictures(source)]
        assert source.ending() is None
    assert len(times_s) == 3 * len(MOVING)
    assert times_s == sorted(set(times_s))


@pytest.mark.parametrize("name", ["a.gif", "a.png", "a.mjpg"])
def test_a_moving_picture_that_is_cut_off_says_so(tmp_path: Path, name: str) -> None:
    moving_picture(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * 0.7)])
    with opened(name, tmp_path) as source:
        assert 0 < len(list(pictures(source))) < 6
        assert f"{name} is cut off: its last frames are missing" in str(source.ending())


def test_a_picture_of_two_in_one_file_is_one_where_the_second_is_its_depth_or_brightness(tmp_path: Path) -> None:
    jpeg = cv2.imencode(".jpg", np.full((48, 64, 3), 90, np.uint8))[1].tobytes()
    segment = b"\xff\xe2" + (8).to_bytes(2, "big") + b"MPF\0\0\0"
    (tmp_path / "phone.jpg").write_bytes(jpeg[:2] + segment + jpeg[2:] + jpeg)
    with opened("phone.jpg", tmp_path) as source:
        assert len(list(pictures(source))) == 1
        assert source.ending() is None


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.gif", "a.bmp", "a.tiff", "a.jp2", "a.ppm"])
@pytest.mark.parametrize("kept", [0.3, 0.6, 0.95])
def test_half_a_picture_is_an_error(tmp_path: Path, name: str, kept: float) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / name), noise)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * kept)])
    assert failure(name, tmp_path).permanent


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp"])
def test_a_picture_whose_copy_has_its_length_but_not_its_end_is_an_error(tmp_path: Path, name: str) -> None:
    noise = np.random.default_rng(1).integers(0, 256, (96, 128, 3), np.uint8)
    assert cv2.imwrite(str(tmp_path / name), noise)
    content = (tmp_path / name).read_bytes()
    half = len(content) // 2
    (tmp_path / name).write_bytes(content[:half] + bytes(len(content) - half))
    assert failure(name, tmp_path).permanent


def test_a_folder_tells_what_it_left_out_and_why(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 10)
    (tmp_path / "b.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    (tmp_path / "c.jpg").touch()
    (tmp_path / "d.jpg").write_text("no picture", encoding="utf-8")
    write_video(tmp_path / "e.avi", 3)
    write_picture(tmp_path / "f.png", 20)
    with opened(".", tmp_path) as source:
        assert [int(picture.min()) for _, picture in pictures(source)] == [10, 20]
        ending = source.ending()
    assert ending is not None
    assert ending.startswith("4 of 6 pictures could not be decoded: b.heic ")
    for told in ("heif-convert b.heic", "c.jpg is no picture: the file is empty", "d.jpg is no picture", "and 1 more"):
        assert told in ending


def test_a_phones_heic_is_refused_by_name_whatever_the_file_is_called(tmp_path: Path) -> None:
    size = b"\0\0\0\x14ispe\0\0\0\0" + (512).to_bytes(4, "big") * 2
    (tmp_path / "a.jpg").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + size)
    error = failure("a.jpg", tmp_path)
    assert error.permanent
    assert "is a HEIC picture" in str(error)


def test_a_picture_that_is_too_large_is_refused_before_it_is_decoded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(*_: object) -> None:
        raise AssertionError("decoded")

    monkeypatch.setattr(cv2, "imdecode", decode)
    (tmp_path / "a.png").write_bytes(png_of_size(50_000, 50_000))
    error = failure("a.png", tmp_path)
    assert error.permanent
    assert "found pictures of 50000×50000 (2500 Mpx), wanted at most 50 Mpx" in str(error)


def test_a_picture_that_is_too_large_does_not_end_its_folder(tmp_path: Path) -> None:
    write_picture(tmp_path / "a.png", 10)
    (tmp_path / "b.png").write_bytes(png_of_size(50_000, 50_000))
    write_picture(tmp_path / "c.png", 30)
    with opened(".", tmp_path) as source:
        assert [int(picture.min()) for _, picture in pictures(source)] == [10, 30]
        assert "1 of 3 pictures could not be decoded: b.png: found pictures of 50000×50000" in str(source.ending())


@pytest.mark.parametrize("name", ["a.avi", "a.mjpg", "a.gif", "a.webp"])
def test_a_video_or_animation_that_is_too_large_is_refused(tmp_path: Path, name: str) -> None:
    if name == "a.avi":
        write_video(tmp_path / name, 3)
    else:
        moving_picture(tmp_path / name)
    address = parse_address(name, tmp_path)
    with pytest.raises(SourceError, match=r"found pictures of 64×48 \(0 Mpx\), wanted at most 0\.003 Mpx"):
        open_source(address, SourceLimits(max_mpx=0.003))


def test_a_synthetic_camera_that_is_too_large_is_refused() -> None:
    error = failure("synthetic://conveyor?size=8192x8192", Path())
    assert error.permanent
    assert "found pictures of 8192×8192 (67 Mpx), wanted at most 50 Mpx" in str(error)


def test_a_synthetic_picture_drawn_later_on_another_thread_is_the_one_that_was_grabbed() -> None:
    with opened("synthetic://conveyor?size=320x240&frames=3") as source:
        assert isinstance(source, DrawnSource)
        drawings, expected = [], []
        while source.grab() is not None:
            drawings.append(source.drawing())
            expected.append(source.retrieve(None))
    with ThreadPoolExecutor(3) as threads:
        drawn = list(threads.map(lambda drawing: drawing(None), reversed(drawings)))
    for picture, right in zip(drawn, reversed(expected), strict=True):
        assert np.array_equal(picture, right)


def test_the_synthetic_camera_gives_the_wanted_number_size_and_times() -> None:
    with opened("synthetic://conveyor?fps=20&size=320x240&frames=3") as source:
        came = list(pictures(source))
    assert [media_s for media_s, _ in came] == pytest.approx([0, 0.05, 0.1])
    assert {picture.shape for _, picture in came} == {(240, 320, 3)}


def test_the_synthetic_camera_is_the_same_for_the_same_seed() -> None:
    def second_picture(seed: int) -> NDArray[np.uint8]:
        with opened(f"synthetic://conveyor?size=320x240&frames=2&seed={seed}") as source:
            return list(pictures(source))[1][1]

    assert np.array_equal(second_picture(5), second_picture(5))
    assert not np.array_equal(second_picture(5), second_picture(6))


@pytest.mark.parametrize(
    "text",
    [
        "synthetic://garden",
        "synthetic://conveyor?speed=3",
        "synthetic://conveyor?fps=0",
        "synthetic://conveyor?fps=nan",
        "synthetic://conveyor?fps=many",
        "synthetic://conveyor?frames=-1",
        "synthetic://conveyor?size=640",
        "synthetic://conveyor?size=0x0",
        "synthetic://conveyor?size=-640x480",
        "synthetic://conveyor?size=10000000x10000000",
        "synthetic://conveyor?seed=-1",
        "synthetic://conveyor?seed=x",
    ],
)
def test_a_synthetic_camera_with_wrong_options_fails_for_good_and_shows_right_ones(text: str) -> None:
    error = failure(text, Path())
    assert error.permanent
    assert str(error).startswith(text)
    assert "synthetic://conveyor?fps=30&size=640x480&seed=1" in str(error)


def test_a_camera_that_is_not_there_may_come_and_shows_no_password() -> None:
    error = failure("rtsp://viewer:S3cret@127.0.0.1:9/main", Path())
    assert not error.permanent
    assert "S3cret" not in str(error)
    assert str(error).startswith("rtsp://127.0.0.1:9 cannot be opened; wanted a reachable server")


def test_a_device_that_is_not_there_may_come() -> None:
    error = failure("v4l2:///dev/video99", Path())
    assert not error.permanent
    assert str(error).startswith("v4l2:///dev/video99 cannot be opened; wanted a camera that no other program uses")
