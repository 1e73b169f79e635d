"""`edge engines verify`: a model's INT8 or FP16 form compared with FP32 on the same frames, on this machine."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table
from rich.text import Text

from edge.cli.engines.frame_source import DEFAULT_COUNT, labelled_frames, open_frames
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ConfigError
from edge.core.manifest import find_model
from edge.core.state_dir import default_state_dir
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.model_variants import Precision
from edge.pipeline.served_model import ServedModel
from edge.precision.frames import FrameSelection, LabelledFrame
from edge.precision.verification import VerifyRequest, check_fp16_ranges, verify
from edge.precision.verification_report import VerificationPage, page_of, write_report

NOT_ADMITTED = 4  # exit code
MAX_FRAMES = 100_000
_FP32_ON_CPU = {"backend": "onnxruntime", "device": "cpu", "max_batch": 1}


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
    """Verify the form, record the measurement and print it; return 4 where the form is not admitted."""
    if precision == against:
        raise ConfigError(f"--against: found {against}, as --precision; wanted a different one to compare it with")
    if count is not None and not 1 <= count <= MAX_FRAMES:
        raise ConfigError(f"--count: found {count}, wanted 1 to {MAX_FRAMES}")
    if report is not None and not report.parent.is_dir():
        raise ConfigError(f"--report {report}: folder {report.parent} does not exist; make it first")
    folder = find_model(model)
    request = VerifyRequest(folder, precision, against, truth is not None, state_dir or default_state_dir())
    environment = EngineEnvironment(request.state_dir, board_name(), EnginesSettings())
    opened = ServedModel(model, ModelSettings.model_validate(_FP32_ON_CPU | {"path": str(folder)}), environment)
    if "fp16" in (precision, against):
        check_fp16_ranges(opened.predictor, opened.provider, _selected(frames, count, truth, opened).frames)
    selected = _selected(frames, count, truth, opened)
    shown = _tracked(selected, f"{folder.resolve().name} {precision}")
    result = verify(request, opened.predictor, opened.provider, shown)
    page = page_of(result)
    if report is not None:
        write_report(report, page)
    if as_json:
        print(json.dumps(result.to_json(), allow_nan=False))  # noqa: T201 -- the command's output
    else:
        _show(page, report)
    return NOT_ADMITTED if result.reason else 0


def _selected(frames: str | None, count: int | None, truth: Path | None, model: ServedModel) -> FrameSelection:
    if truth is not None:
        return labelled_frames(truth, frames, count, model.manifest.task, model.labels)
    if frames is None:
        raise ConfigError("no frames to verify on; give --frames with a video, a folder of pictures or a camera's URL")
    return open_frames(frames, count or DEFAULT_COUNT, "--frames")


def _tracked(selection: FrameSelection, title: str) -> Iterable[LabelledFrame]:
    """Draw a progress bar on standard error, where it is a terminal."""
    console = Console(stderr=True)
    hidden = not console.is_terminal
    return track(selection.frames, title, selection.count, console=console, transient=True, disable=hidden)


def _show(page: VerificationPage, report: Path | None) -> None:
    console = Console(highlight=False)
    console.print(page.title, style="bold", markup=False)
    for _, rows in page.tables:
        _print_rows(console, rows)
    if report is not None:
        _print_rows(console, [("report", str(report))])
    console.print(Text(page.verdict, "bold green" if page.is_good else "bold red"))


def _print_rows(console: Console, rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(show_header=False, box=None, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)
