"""Detection on one input: a JSON line for each frame, and the annotated frame where one is wanted."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.capture import Source, open_source
from edge.cli.frame_writer import opened_writer
from edge.core.clock import elapsed_ms, now_ns
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.manifest import find_model
from edge.core.records import Findings, Image
from edge.core.source_address import SourceAddress, parse_address
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.predictor import PredictorSession
from edge.mqtt.encode import encode_findings, to_json
from edge.pipeline.annotate import draw
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)


def detect(
    model_name: str, source: str, *, save: Path | None, max_frames: int, score: float | None, state_dir: Path
) -> None:
    """Print the detections of each frame until the input ends or Ctrl-C; 0 frames: all of them."""
    address = _address(source)
    if save is not None and address.scheme == "file" and save.exists() and save.samefile(address.location):
        raise ConfigError(f"--save {save} is the input itself; wanted another file")
    settings = ModelSettings.model_validate({"path": str(find_model(model_name)), "max_batch": 1, "lanes": 1})
    model = ServedModel(model_name, settings, EngineEnvironment(state_dir, board_name(), EnginesSettings()))
    with (
        contextlib.closing(open_source(address)) as camera,
        model.predictor.session(is_guarded=True) as session,
        opened_writer(save) as write,
        contextlib.suppress(KeyboardInterrupt),
    ):
        session.warm_up()
        number = 0
        while (media_s := _grabbed_s(camera)) is not None and not (max_frames and number >= max_frames):
            picture = camera.retrieve(None)
            if not number:  # a first picture costs more, once: its times are not the model's
                _detected(session, model.labels, picture, score)
            line, findings = _detected(session, model.labels, picture, score)
            sys.stdout.buffer.write(to_json({"frame": number, "time_s": round(media_s, 3)} | line) + b"\n")
            sys.stdout.buffer.flush()
            write(draw(picture, findings, model.labels), media_s)
            number += 1
        if (remark := camera.ending()) is not None:
            log.warning("%s", remark)


def _address(source: str) -> SourceAddress:
    try:
        address = parse_address(source, Path())
    except ValueError as error:
        raise ConfigError(f"input {error}") from None
    if address.scheme == "file" and not Path(address.location).exists():
        raise ConfigError(f"input {address.shown} does not exist; wanted a picture, a folder, a video or a URL")
    return address


def _grabbed_s(camera: Source) -> float | None:
    """Wait for the next frame; return its time in the source, None at the end."""
    try:
        return camera.grab()
    except TimeoutError:
        raise EdgeError("the input gave no frame in time; check that the camera is up") from None


def _detected(
    session: PredictorSession, labels: Sequence[str], picture: Image, score: float | None
) -> tuple[dict[str, Any], Findings]:
    """Return the JSON line of a picture, and its findings."""
    start_ns = now_ns()
    session.fill(picture)
    filled_ns = now_ns()
    times = session.run()
    inferred_ns = now_ns()
    findings = session.decode(score_threshold=score)
    latency_ms = {
        "preprocess": round(elapsed_ms(start_ns, filled_ns), 3),
        "infer": round(times.infer_ms, 3),
        "decode": round(elapsed_ms(inferred_ns, now_ns()), 3),
    }
    return {"size": session.source_px(), **encode_findings(findings, labels), "latency_ms": latency_ms}, findings
