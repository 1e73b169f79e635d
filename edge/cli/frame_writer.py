"""Annotated output of `edge detect`: one picture, or a video."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2

from edge.core.errors import ConfigError, EdgeError
from edge.core.records import IMAGE_SUFFIXES, Image

Writer = Callable[[Image, float], None]  # a picture, and its time in the source in seconds
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
DEFAULT_FPS = 25.0  # where the source's times give no rate
MAX_FPS = 240.0


@contextlib.contextmanager
def opened_writer(path: Path | None) -> Iterator[Writer]:
    """Yield a function that writes pictures into `path`, as its suffix says: one picture, or a video."""
    if path is None:
        yield lambda _picture, _media_s: None
        return
    if not path.parent.is_dir():
        raise ConfigError(f"--save {path}: folder {path.parent} does not exist; make it first")
    if path.suffix.lower() in IMAGE_SUFFIXES:
        yield _picture_writer(path)
        return
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ConfigError(
            f"--save {path}: found suffix {path.suffix!r}, wanted one of {', '.join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    video = _VideoWriter(path)
    try:
        yield video.write
    finally:
        video.close()


def _picture_writer(path: Path) -> Writer:
    """Return a writer of one picture; a second one raises ConfigError."""
    written = False

    def write(picture: Image, _media_s: float) -> None:
        nonlocal written
        if written:
            raise ConfigError(
                f"--save {path} takes one picture, and the input has more; wanted a video, such as out.mp4"
            )
        if not cv2.imwrite(str(path), picture):
            raise EdgeError(f"--save {path} cannot be written; check the folder's permissions and free space")
        written = True

    return write


class _VideoWriter:
    """Video of the first picture's size, at the frame rate given by the times of the first two pictures."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._video: cv2.VideoWriter | None = None
        self._first: tuple[Image, float] | None = None

    def write(self, picture: Image, media_s: float) -> None:
        if self._video is not None:
            self._video.write(cv2.resize(picture, self._size_px))
        elif self._first is None:
            self._first = picture, media_s
        else:
            step_s = media_s - self._first[1]
            self._open(1 / step_s if 1 / MAX_FPS <= step_s <= 1 else DEFAULT_FPS)
            self.write(picture, media_s)

    def _open(self, fps: float) -> None:
        """Open the video and write the first picture, which had to wait for the time of the second."""
        if self._first is None:
            return
        picture = self._first[0]
        self._size_px = (picture.shape[1], picture.shape[0])
        code = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
        self._video = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*code), fps, self._size_px)
        if not self._video.isOpened():
            raise EdgeError(f"--save {self._path} cannot be written as a video; check the folder's permissions")
        self._video.write(picture)

    def close(self) -> None:
        if self._video is None:
            self._open(DEFAULT_FPS)
        if self._video is not None:
            self._video.release()
