"""Calibration frames: spread over what has an end, now and then of what has none, kept small for later."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import RtspServer, real_data
from hypothesis import given
from hypothesis import strategies as st

from edge.errors import ConfigError, EdgeError, SourceError
from edge.frames import (
    KEPT_FRAMES,
    Picture,
    _spread,
    are_blank,
    digest,
    hold_back,
    read_frames,
    store_frames,
    stored_folder,
)


class Counting:
    """A source of so many pictures, each of its number."""

    def __init__(self, count: int) -> None:
        self._count, self._number = count, -1

    def grab(self) -> float | None:
        self._number += 1
        return None if self._number >= self._count else self._number / 10

    def retrieve(self, _buffer: Picture | None) -> Picture:
        return np.full((1, 1, 3), self._number % 256, np.uint8)

    def ending(self) -> str | None:
        return None

    def close(self) -> None:
        pass


@given(st.integers(1, 250), st.integers(1, 40))
def test_frames_are_spread_over_all_of_a_source_whose_length_is_not_known(count: int, wanted: int) -> None:
    numbers = [int(frame[0, 0, 0]) for frame in _spread(Counting(count), wanted, lambda _count: None)]
    assert len(numbers) == min(count, wanted)
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0
    if wanted > 1:
        assert numbers[-1] >= count - 1 - 2 * count / wanted


def pictures(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        cv2.imwrite(str(folder / f"{number:03}.png"), np.full((8, 8, 3), number, np.uint8))
    return folder


def test_a_folder_a_picture_and_a_scene_give_frames(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 9)
    assert [int(frame[0, 0, 0]) for frame in read_frames(str(folder), 3)] == [0, 4, 8]
    assert len(read_frames(str(folder / "004.png"), 3)) == 1
    ended = read_frames("synthetic://conveyor?frames=30&size=160x120", 5)
    assert [frame.shape for frame in ended] == [(120, 160, 3)] * 5


def test_an_endless_scene_is_followed_for_a_while() -> None:
    frames = read_frames("synthetic://conveyor?size=320x240", 6)
    assert len(frames) == 6
    assert len({digest([frame]) for frame in frames}) == 6


def test_a_video_is_read_to_its_end(tmp_path: Path) -> None:
    told: list[int] = []
    frames = read_frames(str(real_data("person.mp4")), 4, told.append)
    assert len(frames) == 4
    assert told[-1] == 4
    assert not np.array_equal(frames[0], frames[3])


@pytest.mark.rtsp
def test_a_camera_gives_frames(rtsp_server: RtspServer) -> None:
    assert len(read_frames(rtsp_server.secret_url, 3)) == 3


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nowhere.mp4", "does not exist"), ("ftp://host/x", "scheme 'ftp' is not known"), ("empty", "holds no picture")],
)
def test_what_gives_no_frames_is_told_in_a_sentence(
    source: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    pictures(tmp_path / "empty", 0)
    with pytest.raises((ConfigError, SourceError), match=reason):
        read_frames(source, 4)


def test_a_source_without_a_frame_is_told_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.frames.open_source", lambda _address: Counting(0))
    with pytest.raises(ConfigError, match=r"/x gave no frame; wanted a picture, a folder"):
        read_frames("/x", 4)


def test_every_second_frame_is_held_back_and_one_serves_as_both() -> None:
    frames = [np.full((1, 1, 3), number, np.uint8) for number in range(5)]
    calibrating, held_back = hold_back(frames)
    assert [int(frame[0, 0, 0]) for frame in calibrating] == [0, 2, 4]
    assert [int(frame[0, 0, 0]) for frame in held_back] == [1, 3]
    assert hold_back(frames[:1]) == (frames[:1], frames[:1])


def test_pictures_of_one_colour_are_blank() -> None:
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 90, np.uint8)
    assert are_blank([black, grey])
    spotted = black.copy()
    spotted[1, 2, 0] = 1
    assert not are_blank([black, spotted])


def test_frames_are_kept_as_they_are_and_replace_those_before(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    frames = [random.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(KEPT_FRAMES + 40)]
    folder = stored_folder(tmp_path / "model.onnx", tmp_path / "state")
    store_frames(folder, frames)
    kept = read_frames(str(folder), 100)
    assert len(kept) == KEPT_FRAMES
    assert np.array_equal(kept[0], frames[0])
    assert np.array_equal(kept[-1], frames[-1])
    store_frames(folder, frames[:3])
    assert len(list(folder.iterdir())) == 3


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EdgeError, match=r"calibration frames cannot be kept in .*; see the folder's rights"):
        store_frames(tmp_path / "file" / "frames", [np.zeros((4, 4, 3), np.uint8)])


def test_the_digest_tells_pictures_apart() -> None:
    one, other = np.zeros((2, 3, 3), np.uint8), np.zeros((3, 2, 3), np.uint8)
    assert digest([one]) == digest([one.copy()])
    assert len({digest([one]), digest([other]), digest([one, one]), digest([])}) == 4
