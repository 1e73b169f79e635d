"""`edge engines verify`: a model's form of less precision held against FP32 on the same frames, here.

Both go the way that serves: the model's own preprocessing, the engine, the decoder. What was measured is kept in
precision.json, by which the daemon admits the form or does not.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from edge.cli.engines.frame_source import DEFAULT_COUNT, Frames, LabelledFrame, labelled_frames, open_frames
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError
from edge.core.manifest import find_model
from edge.core.state_dir import default_state_dir
from edge.host.board import board_name
from edge.inference.admission import MIN_FRAMES, ModelFiles, Precision, record, why_not
from edge.inference.engine_provider import EngineEnvironment, EngineProvider
from edge.pipeline.served_model import Served, ServedModel
from edge.precision.comparison import Comparison, entry_of
from edge.precision.ground_truth import accuracy
from edge.precision.verification import VerificationResult, VerificationTally, page, show, to_json
from edge.precision.verification_report import write_report

NOT_ADMITTED = 4  # exit code
MOST_FRAMES = 100_000
# Boxes down to this score count for mean average precision, whose curve goes on below the model's own threshold.
FLOOR = 0.01


@dataclass(frozen=True)
class VerifyRequest:
    """What is to be verified, and on what."""

    model: str
    precision: Precision
    against: Precision
    frames: str | None
    count: int | None  # None: all that are labelled, else the default
    truth: Path | None
    state_dir: Path


@dataclass(frozen=True)
class Side:
    """One of the two forms, ready to run."""

    form: ModelFiles
    file: Path
    served: Served


def run(
    model: str,
    *,
    precision: Precision,
    against: Precision,
    frames: str | None,
    count: int | None,
    truth: Path | None,
    report: Path | None,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Verify, keep and tell what was measured; return 4 where that is not good enough."""
    if precision == against:
        raise ConfigError(f"--against: found {against}, as --precision; wanted another one to hold it against")
    if count is not None and not 1 <= count <= MOST_FRAMES:
        raise ConfigError(f"--count: found {count}, wanted 1 to {MOST_FRAMES}")
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: folder {report.parent} does not exist; make it first")
    verified = verify(VerifyRequest(model, precision, against, frames, count, truth, state_dir or default_state_dir()))
    if report is not None:
        write_report(report, page(verified))
    if as_json:
        print(json.dumps(to_json(verified), allow_nan=False))  # noqa: T201 -- the command's output
    else:
        show(verified, report)
    return NOT_ADMITTED if verified.reason else 0


def verify(order: VerifyRequest) -> VerificationResult:
    """Run both forms over the frames; keep what was measured."""
    folder = find_model(order.model)
    cpu = {"backend": "onnxruntime", "device": "cpu", "max_batch": 1}
    settings = ModelSettings.model_validate({"path": str(folder), **cpu})
    model = ServedModel(order.model, settings, EngineEnvironment(order.state_dir, board_name(), EnginesSettings()))
    if "fp16" in (order.precision, order.against):
        model.supply.check_ranges(_inputs(order, model))
    frames = _frames(order, model)
    floor = FLOOR if order.truth is not None and model.manifest.task == "detect" else None
    seen = VerificationTally()
    with _opened(order, model) as (supply, against, side):
        with Comparison(against.served, side.served, floor) as comparison:
            for shown in _tracked(frames, f"{folder.resolve().name} {order.precision}"):
                seen.add(shown, *comparison.look(shown.picture))
            measured = comparison.finish()
        entry = entry_of(supply.onnx, side.form, side.file, supply.here, order.against, measured, _truth(order, seen))
    kept = record(entry, model.supply.onnx, order.state_dir) if entry.frames >= MIN_FRAMES else None
    bound = model.manifest.min_agreement
    return VerificationResult(folder.resolve().name, entry, why_not(entry, bound), bound, kept, model.labels, seen)


def _inputs(order: VerifyRequest, model: ServedModel) -> Iterator[dict[str, NDArray[Any]]]:
    """Yield what the model is given of the frames, one picture at a time."""
    pictures = (shown.picture for shown in _frames(order, model).frames)
    for rows in model.served.inputs(pictures):
        yield {model.served.input.name: rows}


def _frames(order: VerifyRequest, model: ServedModel) -> Frames:
    if order.truth is None:
        if order.frames is None:
            raise ConfigError(
                "no frames to verify on; give --frames with a video, a folder of pictures or a camera's URL"
            )
        return open_frames(order.frames, order.count or DEFAULT_COUNT, "--frames")
    return labelled_frames(order.truth, order.frames, order.count, model.manifest.task, model.labels)


@contextlib.contextmanager
def _opened(order: VerifyRequest, model: ServedModel) -> Iterator[tuple[EngineProvider, Side, Side]]:
    """Open both forms on the backend of this machine."""
    supply = model.supply.on(backend="auto", device="auto")
    with contextlib.ExitStack() as opened:

        def opened_side(precision: Precision) -> Side:
            form, file = supply.form(precision)
            engine = supply.make(precision)
            opened.callback(engine.close)
            return Side(form, file, Served(engine, model))

        yield supply, opened_side(order.against), opened_side(order.precision)


def _tracked(frames: Frames, title: str) -> Iterable[LabelledFrame]:
    """Draw a progress bar on standard error, where it is a terminal."""
    console = Console(stderr=True)
    return track(frames.frames, title, frames.count, console=console, transient=True, disable=not console.is_terminal)


def _truth(order: VerifyRequest, seen: VerificationTally) -> dict[str, dict[str, float]] | None:
    """Return the accuracy of each form by the labels; None where there are none."""
    if not seen.true:
        return None
    names = (order.against, order.precision)
    return {name: accuracy(seen.true, found) for name, found in zip(names, seen.found, strict=True)}
