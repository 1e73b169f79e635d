"""Headers of picture files: format, size and frames of what OpenCV writes, and of headers made by hand."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.capture.picture_header import PictureHeader, is_motion_jpeg, is_whole, picture_format, read_header

PICTURE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), np.uint8)
FORMATS = {
    ".png": "PNG", ".jpg": "JPEG", ".webp": "WebP", ".gif": "GIF", ".bmp": "BMP", ".tiff": "TIFF",
    ".jp2": "JPEG 2000", ".ppm": "PNM",
}  # fmt: skip


def encoded(suffix: str, *options: int) -> bytes:
    good, content = cv2.imencode(suffix, PICTURE, options)
    assert good
    return content.tobytes()


def header_of(content: bytes) -> PictureHeader | None:
    return read_header(io.BytesIO(content))


@pytest.mark.parametrize("suffix", FORMATS)
def test_what_opencv_writes_is_read_and_whole(suffix: str) -> None:
    content = encoded(suffix)
    header = header_of(content)
    assert header == PictureHeader(FORMATS[suffix], 64, 48)
    assert is_whole(header, content)


def test_variants_of_jpeg_and_webp_are_read() -> None:
    assert header_of(encoded(".jpg", cv2.IMWRITE_JPEG_PROGRESSIVE, 1)) == PictureHeader("JPEG", 64, 48)
    assert header_of(encoded(".jpg", cv2.IMWRITE_JPEG_RST_INTERVAL, 2)) == PictureHeader("JPEG", 64, 48)
    assert header_of(encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 50)) == PictureHeader("WebP", 64, 48)
    assert header_of(encoded(".webp", cv2.IMWRITE_WEBP_QUALITY, 101)) == PictureHeader("WebP", 64, 48)


@pytest.mark.parametrize("options", [(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1), (cv2.IMWRITE_JPEG_RST_INTERVAL, 2)])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9, 0.999])
def test_half_a_jpeg_is_not_whole(options: tuple[int, ...], kept: float) -> None:
    content = encoded(".jpg", *options)
    header = header_of(content)
    assert header is not None
    assert is_whole(header, content)
    assert is_whole(header, content + b"whatever a phone puts behind it")
    assert not is_whole(header, content[: int(len(content) * kept)])


def test_a_jpeg_whose_preview_is_whole_is_not_whole_itself() -> None:
    content = encoded(".jpg")
    preview = b"\xff\xe1" + (len(content) + 2).to_bytes(2, "big") + content
    header = header_of(content[:2] + preview + content[2:])
    assert header == PictureHeader("JPEG", 64, 48)
    assert not is_whole(header, content[:2] + preview + content[2:-20])


def test_jpegs_in_a_row_are_motion_jpeg() -> None:
    content = encoded(".jpg")
    assert is_motion_jpeg(content * 2)
    assert not is_motion_jpeg(content)
    assert not is_motion_jpeg(content + b"trailer")
    assert not is_motion_jpeg(content[:-20])


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("big", [False, True])
def test_tiffs_of_either_order_and_size_are_read(order: str, big: bool) -> None:  # noqa: FBT001
    def number(value: int, count: int) -> bytes:
        return value.to_bytes(count, "little" if order == "little" else "big")

    word = 8 if big else 4
    start = (b"II" if order == "little" else b"MM") + number(43 if big else 42, 2)
    start += number(8, 2) + number(0, 2) + number(16, 8) if big else number(8, 4)
    entries = [(256, 70_000), (257, 3)]
    body = number(len(entries), 8 if big else 2)
    for tag, value in entries:
        body += number(tag, 2) + number(4, 2) + number(1, word) + number(value, 4).ljust(word, b"\0")
    assert header_of(start + body + number(0, word)) == PictureHeader("TIFF", 70_000, 3)


def test_other_files_are_no_pictures() -> None:
    for content in (
        b"",
        b"BM",
        b"no picture",
        b"RIFF\0\0\0\0AVI LIST",
        b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom",
        bytes(64),
    ):
        assert picture_format(content) is None
        assert header_of(content) is None


@given(st.sampled_from(sorted(FORMATS)), st.data())
def test_no_damage_does_more_than_no_header(suffix: str, data: st.DataObject) -> None:
    content = bytearray(encoded(suffix))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content), 200) - 1))] = data.draw(st.integers(0, 255))
    header = header_of(bytes(content[: data.draw(st.integers(0, len(content)))]))
    if header is not None:
        assert header.frames >= 1
        is_whole(header, bytes(content))
        is_motion_jpeg(bytes(content))
