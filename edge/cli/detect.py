"""One model on one input: no broker, no configuration."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2

from edge.capture import open_source
from edge.core.clock import elapsed_ms, now_ns
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.manifest import find_model
from edge.core.records import Findings, Image
from edge.core.source_url import parse_address
from edge.core.state_dir import default_state_dir
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.predictor import PredictorSession
from edge.mqtt.encode import found, to_json
from edge.pipeline.annotate import draw
from edge.pipeline.served_model import ServedModel

Writer = Callable[[Image, float], None]  # a picture, and its time in the source in seconds
PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEO_SUFFIXES = (".mp4", ".avi", ".mkv", ".mov")
DEFAULT_FPS = 25.0  # where the source's times tell no rate
MOST_FPS = 240.0


def run(
    model_name: str, source: str, save: Path | None, frames: int, score: float | None, state_dir: Path | None = None
) -> int:
    """Print one JSON line a frame; with `save`, write the frames with what was found drawn in."""
    try:
        address = parse_address(source, Path())
    except ValueError as error:
        raise ConfigError(f"input {error}") from None
    if address.scheme == "file" and not Path(address.location).exists():
        raise ConfigError(f"input {address.location} does not exist; wanted a picture, a folder, a video or a URL")
    settings = ModelSettings.model_validate({"path": str(find_model(model_name)), "max_batch": 1, "lanes": 1})
    model = ServedModel(
        model_name, settings, EngineEnvironment(state_dir or default_state_dir(), board_name(), EnginesSettings())
    )
    with (
        contextlib.closing(open_source(address)) as camera,
        model.predictor.session() as session,
        _opened_writer(save) as write,
        contextlib.suppress(KeyboardInterrupt),
    ):
        session.warm_up()
        detect_one = _Detector(session, model.labels, score)
        number = 0
        while (media_s := _grab(camera)) is not None and not (frames and number >= frames):
            picture = camera.retrieve(None)
            line, findings = detect_one(picture)
            sys.stdout.buffer.write(to_json({"frame": number, "time_s": round(media_s, 3)} | line) + b"\n")
            sys.stdout.buffer.flush()
            write(draw(picture, findings, model.labels), media_s)
            number += 1
    return 0


def _grab(camera: Any) -> float | None:
    try:
        grabbed: float | None = camera.grab()
    except TimeoutError:
        raise EdgeError("the input gave no frame in time; see that the camera is up") from None
    return grabbed


class _Detector:
    """One picture → its JSON line and its findings."""

    def __init__(self, session: PredictorSession, labels: Sequence[str], score: float | None) -> None:
        self._session = session
        self._labels = labels
        self._score = score

    def __call__(self, picture: Image) -> tuple[dict[str, Any], Findings]:
        start_ns = now_ns()
        geometry = self._session.fill(picture)
        prepared_ns = now_ns()
        times = self._session.run()
        inferred_ns = now_ns()
        findings = self._session.decode(score_threshold=self._score)
        latency_ms = {
            "preprocess": round(elapsed_ms(start_ns, prepared_ns), 3),
            "infer": round(times.infer_ms, 3),
            "decode": round(elapsed_ms(inferred_ns, now_ns()), 3),
        }
        line = {"size": geometry.source_px, **found(findings, self._labels), "latency_ms": latency_ms}
        return line, findings


@contextlib.contextmanager
def _opened_writer(path: Path | None) -> Iterator[Writer]:
    """Yield a function that writes pictures into `path`: one picture, or a video."""
    if path is None:
        yield lambda _picture, _media_s: None
        return
    if not path.parent.is_dir():
        raise ConfigError(f"--save {path}: folder {path.parent} does not exist; make it first")
    if path.suffix.lower() in PICTURE_SUFFIXES:
        yield _picture_writer(path)
        return
    if path.suffix.lower() not in VIDEO_SUFFIXES:
        raise ConfigError(
            f"--save {path}: found suffix {path.suffix!r}, wanted one of {', '.join(PICTURE_SUFFIXES + VIDEO_SUFFIXES)}"
        )
    video = _VideoWriter(path)
    try:
        yield video.write
    finally:
        video.close()


def _picture_writer(path: Path) -> Writer:
    """Write the first picture; a second one needs a video to go into."""
    written = False

    def write(picture: Image, _media_s: float) -> None:
        nonlocal written
        if written:
            raise ConfigError(f"--save {path} takes one picture, and the input has more; wanted a video: out.mp4")
        if not cv2.imwrite(str(path), picture):
            raise EdgeError(f"--save {path} cannot be written; see the folder's rights and the space left")
        written = True

    return write


class _VideoWriter:
    """Writes a video of the first picture's size, at the rate that the times of the first two tell."""

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
            self._open(1 / step_s if 1 / MOST_FPS <= step_s <= 1 else DEFAULT_FPS)
            self.write(picture, media_s)

    def _open(self, fps: float) -> None:
        """Open the video and write the first picture, which waited for the second one's time."""
        if self._first is None:
            return
        picture = self._first[0]
        self._size_px = (picture.shape[1], picture.shape[0])
        code = "MJPG" if self._path.suffix.lower() == ".avi" else "mp4v"
        self._video = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*code), fps, self._size_px)
        if not self._video.isOpened():
            raise EdgeError(f"--save {self._path} cannot be written as a video; see the folder's rights")
        self._video.write(picture)

    def close(self) -> None:
        if self._video is None:
            self._open(DEFAULT_FPS)
        if self._video is not None:
            self._video.release()
