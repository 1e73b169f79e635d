"""Annotated output of `edge detect`: one picture, or a video."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

import cv2

from edge.core.errors import ConfigError, EdgeError
from edge.core.records import IMAGE_SUFFIXES, Image

Writer = Callable[[Image, float], None]  # a picture, and its time in the source in seconds
VIDEO_SUFFIXES = (".mp4", ".webm", ".avi", ".mkv", ".mov")
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
        with _picture_writer(path) as write:
            yield write
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


@contextlib.contextmanager
def _picture_writer(path: Path) -> Iterator[Writer]:
    """Give a writer of one picture; a second one raises ConfigError."""
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

    yield write
    if written:
        print(f"written to {path}", file=sys.stderr)


class _Encoder(Protocol):
    """Writer of one video's pictures."""

    def write(self, picture: Any) -> object:
        """Add a picture."""

    def release(self) -> object:
        """Finish the file."""


class _VideoWriter:
    """Video of the first picture's size, at the frame rate given by the times of the first two pictures."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._video: _Encoder | None = None
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
        self._video = _opened_encoder(self._path, fps, self._size_px)
        self._video.write(picture)

    def close(self) -> None:
        if self._video is None:
            self._open(DEFAULT_FPS)
        if self._video is not None:
            self._video.release()
            print(f"written to {self._path}", file=sys.stderr)


def _opened_encoder(path: Path, fps: float, size_px: tuple[int, int]) -> _Encoder:
    """Open an H.264 encoder where there is one, and say where the video will not play in a browser."""
    suffix = path.suffix.lower()
    if suffix in (".mp4", ".mov", ".mkv") and (ffmpeg := shutil.which("ffmpeg")) and _encodes_h264(ffmpeg):
        return _Ffmpeg(ffmpeg, path, fps, size_px)
    code = {".avi": "MJPG", ".webm": "VP80"}.get(suffix, "mp4v")
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*code), fps, size_px)
    if not video.isOpened():
        raise EdgeError(f"--save {path} cannot be written as a video; check the folder's permissions")
    if code == "mp4v":
        advice = "for one, install the program ffmpeg, or save as .webm"
        print(
            f"{path} is MPEG-4 Part 2, which browsers do not play: there is no H.264 encoder; {advice}", file=sys.stderr
        )
    return video


def _encodes_h264(ffmpeg: str) -> bool:
    done = subprocess.run([ffmpeg, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)  # noqa: S603 -- the user's own
    return "libx264 " in done.stdout


class _Ffmpeg:
    """H.264 by the program ffmpeg."""

    def __init__(self, ffmpeg: str, path: Path, fps: float, size_px: tuple[int, int]) -> None:
        self._path = path
        pictures = [
            "-f",
            "rawvideo",
            "-pix_fmt",
            "bgr24",
            "-s",
            "{}x{}".format(*size_px),
            "-r",
            f"{fps:.6f}",
            "-i",
            "-",
        ]
        even = ["-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2", "-pix_fmt", "yuv420p"]  # as players take it
        coded = ["-c:v", "libx264", "-preset", "veryfast", "-movflags", "+faststart"]
        command = [ffmpeg, "-loglevel", "error", "-y", *pictures, *even, *coded, f"file:{path}"]
        self._process = subprocess.Popen(  # noqa: S603 -- the user's own
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def write(self, picture: Image) -> None:
        if self._process.stdin is not None:
            try:
                self._process.stdin.write(picture.tobytes())
            except OSError:
                raise self._failure() from None

    def release(self) -> None:
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
        failed = self._process.wait() != 0
        failure = self._failure() if failed else None
        if self._process.stderr is not None:
            self._process.stderr.close()
        if failure is not None:
            raise failure

    def _failure(self) -> EdgeError:
        told = self._process.stderr.read().decode(errors="replace").strip() if self._process.stderr else ""
        reason = told.splitlines()[-1] if told else "ffmpeg gave no reason"
        return EdgeError(f"--save {self._path} cannot be written as a video ({reason}); check the folder and its space")
