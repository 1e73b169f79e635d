"""Picture files: one with all its frames, or a folder in the order of the names."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from edge.capture.picture_header import (
    SIGNATURE_BYTES,
    TAIL_BYTES,
    PictureHeader,
    has_end,
    is_motion_jpeg,
    is_whole,
    picture_format,
    read_header,
)
from edge.capture.source import Source, SourceLimits
from edge.core.errors import SourceError, error_text
from edge.core.records import IMAGE_SUFFIXES, Image
from edge.core.source_address import SourceAddress

log = logging.getLogger(__name__)

# Stills have no time stamps; played live, they come at this rate unless the stream's `fps` is lower.
PICTURES_PER_S = 10.0
# Files that somebody takes for pictures by their names: where they are none, it is said.
PICTURE_SUFFIXES = (
    *IMAGE_SUFFIXES,
    ".jpe",
    ".jfif",
    ".gif",
    ".apng",
    ".heic",
    ".heif",
    ".avif",
    ".jp2",
    ".mjpg",
    ".mjpeg",
)
VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".ts", ".m4v", ".h264", ".h265")
# No picture needs more: 16 bits for each of four channels, uncompressed, and its metadata.
MAX_BYTES_PER_PIXEL = 8
MAX_METADATA_BYTES = 64 << 20
# Frames of an animation in memory at once: it is decoded from its beginning for each such part.
ANIMATION_PART_BYTES = 128 << 20
MAX_SHOWN_REASONS = 3


def is_picture(path: Path) -> bool:
    """Return whether the file is a picture, judged by its first bytes."""
    if not path.is_file():
        return False
    try:
        with path.open("rb") as file:
            return picture_format(file.read(SIGNATURE_BYTES)) is not None
    except OSError:
        return False


def open_picture(path: Path, limits: SourceLimits) -> Source:
    """Open one picture or animation.

    Raises SourceError if it is larger than the limit, cut off, or of a format that cannot be decoded here.
    """
    try:
        header, content = _read(path, limits)
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror})") from None
    is_moving = header.frames > 1 and header.format in ("GIF", "PNG")
    if is_moving or (header.format == "JPEG" and is_motion_jpeg(content)):
        from edge.capture.video import VideoSource  # noqa: PLC0415 -- needed for these alone

        # By the content alone: FFmpeg also goes by the name, which may be that of a still picture.
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL_BYTES))
            fault = None if has_end(header, file.read()) else f"{path} is cut off: its last frames are missing"
            return VideoSource(SourceAddress("file", str(path)), limits, f"/proc/self/fd/{file.fileno()}", fault)
    if not is_whole(header, content):
        raise SourceError(f"{path} is cut off: its end is missing; copy it again", permanent=True)
    return PictureSource(path, header, content)


def _read(path: Path, limits: SourceLimits) -> tuple[PictureHeader, bytes]:
    """Read a file once its header says that it fits the limits."""
    with path.open("rb") as file:
        if picture_format(file.read(SIGNATURE_BYTES)) == "HEIC":
            raise SourceError(
                f"{path} is a HEIC picture, which cannot be decoded here; convert it to JPEG "
                f"(heif-convert {path.name} OUT.jpg), or set the phone to JPEG",
                permanent=True,
            )
        header = read_header(file)
        if header is None:
            raise SourceError(f"{path} is no picture: {_fault(file)}", permanent=True)
        limits.check_size(str(path), header.width, header.height)
        most = MAX_BYTES_PER_PIXEL * header.width * header.height + MAX_METADATA_BYTES
        file.seek(0)
        return header, file.read(most)


def _fault(file: io.BufferedReader) -> str:
    file.seek(0)
    start = file.read(SIGNATURE_BYTES)
    if not start:
        return "the file is empty"
    name = picture_format(start)
    return f"its {name} header is cut off or damaged" if name else "its first bytes are those of no known format"


class PictureSource:
    """One picture file: a still, the pages of a TIFF, or an animation that FFmpeg does not read."""

    def __init__(self, path: Path, header: PictureHeader, content: bytes) -> None:
        self._path = path
        self._header = header
        self._frames = _decoded(path, header, content)
        self._shown = 0
        self._has_ended = False
        self._picture: Image | None = None

    def grab(self) -> float | None:
        try:
            media_s, picture = next(self._frames)
        except StopIteration:
            if not self._shown:
                raise self._undecodable() from None
            self._has_ended = True
            return None
        except cv2.error as error:
            raise self._undecodable(f": {error_text(error)}") from None
        self._picture = picture
        self._shown += 1
        return media_s

    def _undecodable(self, why: str = "") -> SourceError:
        return SourceError(f"{self._path} cannot be decoded as {self._header.format}{why}", permanent=True)

    def retrieve(self, buffer: Image | None) -> Image:  # noqa: ARG002 -- the decoder makes its own
        if self._picture is None:
            raise RuntimeError("retrieve before grab")
        return self._picture

    def ending(self) -> str | None:
        if self._has_ended and self._shown < self._header.frames:
            return f"delivered {self._shown} of {self._header.frames} frames: {self._path} may be damaged"
        return None

    def close(self) -> None:
        self._picture = None
        self._frames = iter(())  # the file's content goes with them


def _decoded(path: Path, header: PictureHeader, content: bytes) -> Iterator[tuple[float, Image]]:
    """Yield time and picture of each frame, as many as can be decoded."""
    data = np.frombuffer(content, np.uint8)
    if header.frames == 1:
        picture = cv2.imdecode(data, cv2.IMREAD_COLOR)
        if picture is not None:
            yield 0.0, np.asarray(picture, np.uint8)
    elif header.format == "TIFF":
        for page in range(header.frames):
            for picture in cv2.imdecodemulti(data, cv2.IMREAD_COLOR, None, (page, page + 1))[1]:
                yield page / PICTURES_PER_S, np.asarray(picture, np.uint8)
    else:
        yield from _animation(path, header)


def _animation(path: Path, header: PictureHeader) -> Iterator[tuple[float, Image]]:
    part = max(1, ANIMATION_PART_BYTES // (4 * header.width * header.height))
    start, media_ms = 0, 0
    while header.format == "AVIF" or start < header.frames:  # an AVIF does not say how many it has
        found, animation = cv2.imreadanimation(str(path), start, part)
        if not found or not animation.frames:
            return
        for picture, duration_ms in zip(animation.frames, animation.durations, strict=True):
            yield media_ms / 1000, np.ascontiguousarray(picture[..., :3], np.uint8)
            media_ms += int(duration_ms)
        start += part


class FolderSource:
    """Pictures of a folder; those that cannot be used are left out, logged and counted."""

    def __init__(self, folder: Path, limits: SourceLimits) -> None:
        self._folder = folder
        self._limits = limits
        try:
            self._paths = sorted(each for each in folder.iterdir() if _is_meant(each))
        except OSError as error:
            raise SourceError(f"folder {folder} cannot be read ({error.strerror})") from None
        if not self._paths:
            raise SourceError(f"folder {folder} contains no pictures; wanted files such as .jpg or .png in it")
        self._waiting = iter(self._paths)
        self._current: Source | None = None
        self._shown = 0  # frames
        self._left_out = 0  # pictures
        self._reasons: list[str] = []  # of the first of these

    def grab(self) -> float | None:
        while True:
            try:
                if self._current is None:
                    path = next(self._waiting, None)
                    if path is None:
                        break
                    self._current = self._opened(path)
                if self._current.grab() is not None:
                    self._shown += 1
                    return (self._shown - 1) / PICTURES_PER_S
                fault = self._current.ending()
            except SourceError as error:
                fault = str(error)
            self._finish(fault)
        if not self._shown:
            raise SourceError(f"{self._folder} contains no decodable picture: {self._shown_reasons()}", permanent=True)
        return None

    def _opened(self, path: Path) -> Source:
        if path.suffix.lower() in VIDEO_SUFFIXES:
            raise SourceError(f"{path} is no picture; give a video as a source of its own")
        return open_picture(path, self._limits)

    def _finish(self, fault: str | None) -> None:
        """Close the present picture, and remember what was wrong with it."""
        if self._current is not None:
            self._current.close()
            self._current = None
        if fault is not None:
            log.warning("%s; left out", fault)
            self._left_out += 1
            if self._left_out <= MAX_SHOWN_REASONS:
                self._reasons.append(fault.replace(f"{self._folder}/", ""))

    def retrieve(self, buffer: Image | None) -> Image:
        if self._current is None:
            raise RuntimeError("retrieve before grab")
        return self._current.retrieve(buffer)

    def ending(self) -> str | None:
        if not self._left_out:
            return None
        return f"{self._left_out} of {len(self._paths)} pictures could not be decoded: {self._shown_reasons()}"

    def _shown_reasons(self) -> str:
        more = self._left_out - len(self._reasons)
        return "; ".join(self._reasons) + (f"; and {more} more" if more else "")

    def close(self) -> None:
        self._finish(None)


def _is_meant(path: Path) -> bool:
    """Return whether a file of a folder is a picture, or named like a picture or a video."""
    return path.is_file() and (path.suffix.lower() in (*PICTURE_SUFFIXES, *VIDEO_SUFFIXES) or is_picture(path))
