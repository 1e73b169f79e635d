"""`edge engines quantize`: a model's INT8 forms, with as many layers in INT8 as keep the agreement with FP32."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import MofNCompleteColumn
from rich.table import Table

from edge.cli.engines.frame_source import open_frames
from edge.core.config import ModelSettings
from edge.core.errors import ConfigError, ModelError
from edge.core.manifest import find_model
from edge.core.progress import phase_bar
from edge.core.state_dir import default_state_dir
from edge.pipeline.served_model import ServedModel

_MOST_FRAMES = 512  # all are kept in memory
# It is FP32 that INT8 is held against, and this machine need not be the one that serves.
_SETTINGS = {"max_batch": 1, "lanes": 1, "precision": "fp32", "backend": "onnxruntime", "device": "cpu"}
_MB = 1e6
_BELOW_BOUND = 4  # exit code
_MOST_SHOWN = 20  # layers of the table; the report has all


def run(
    model: str,
    *,
    calibration: str,
    frames: int,
    method: str,
    tolerance: float,
    state_dir: Path | None,
    as_json: bool,
) -> int:
    """Write the INT8 forms and tell what they are worth; the exit code says whether there is one."""
    if not 1 <= frames <= _MOST_FRAMES:
        raise ConfigError(f"--frames: found {frames}, wanted 1 to {_MOST_FRAMES}")
    if not 0 < tolerance <= 1:
        raise ConfigError(f"--tolerance: found {tolerance:g}, wanted more than 0, up to 1: the least F1 against FP32")
    try:
        from edge.precision.quantizer import QuantizeRequest, quantize  # noqa: PLC0415 -- imports onnx, which not every device has
    except ImportError as error:
        raise ModelError(
            f"model {model!r} cannot be quantized: the Python package {error.name!r} is not installed; install it with "
            "`pip install 'edge-runtime[cpu]' onnx`"
        ) from None
    request = QuantizeRequest(method, tolerance, state_dir or default_state_dir())
    opened = ServedModel("quantized", ModelSettings.model_validate(_SETTINGS | {"path": str(find_model(model))}))
    chosen = open_frames(calibration, frames, "--calibration")
    with phase_bar(f"{opened.settings.path.name} int8", MofNCompleteColumn()) as on_progress:
        report = quantize(opened.predictor, chosen, request, on_progress)
    if as_json:
        print(json.dumps(report))  # noqa: T201 -- the command's output
    else:
        _show(report)
    return 0 if any(report["files"].values()) else _BELOW_BOUND


def _show(report: Mapping[str, Any]) -> None:
    console = Console(soft_wrap=True, highlight=False)
    _show_forms(console, report)
    _show_layers(console, report["forms"]["tensorrt"]["table"])
    for name in report["forms"]:
        told = report["files"][name] or f"no layer can be quantized within the tolerance of {report['tolerance']:g}"
        console.print(f"{name}: {told}", markup=False)
    console.print(f"report: {report['report']}\nplot: {report['plot']}", markup=False)


def _show_forms(console: Console, report: Mapping[str, Any]) -> None:
    frames = report["frames"]
    table = Table(
        title=f"{frames['calibration']} frames for the ranges ({report['method']}), "
        f"{frames['held_back']} held back, on which FP32 finds {report['found_by_fp32']}"
    )
    for column in ("form", "agreement", "F1", "INT8 share", "layers", "ms here", "MB"):
        table.add_column(column, justify="left" if column == "form" else "right")
    table.add_row(
        "fp32", "1.000", "1.000", "0 %", "", f"{report['fp32']['ms']:.1f}", f"{report['fp32']['bytes'] / _MB:.1f}"
    )
    for name, form in report["forms"].items():
        layers = f"{form['layers'] - form['kept']} of {form['layers']}"
        table.add_row(
            f"int8 {name}",
            f"{form['agreement']:.3f}",
            f"{form['f1']:.3f}",
            f"{form['int8_share']:.0%}",
            layers,
            f"{form['ms']:.1f}",
            f"{form['bytes'] / _MB:.1f}",
        )
    naive = report["naive"]
    table.add_row(
        "naive int8", f"{naive['agreement']:.3f}", f"{naive['f1']:.3f}", "100 %", "", f"{naive['ms']:.1f}", ""
    )
    console.print(table)


def _show_layers(console: Console, layers: list[dict[str, Any]]) -> None:
    table = Table(title=f"the most harmful of {len(layers)} layers (for TensorRT)")
    for column in ("layer", "harm alone", "share of the work", "kept in FP32"):
        table.add_column(column)
    for each in layers[:_MOST_SHOWN]:
        table.add_row(each["layer"], f"{each['harm']:.4f}", f"{each['share']:.1%}", "yes" if each["kept"] else "")
    console.print(table)
