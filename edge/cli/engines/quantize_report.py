"""Report of a quantization as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

_MB = 1e6
_LAYERS_SHOWN = 20  # in the table; the report file has all


def print_report(report: Mapping[str, Any]) -> None:
    """Print the variants with their scores, and the layers that lose most in INT8."""
    console = Console(soft_wrap=True, highlight=False)
    _print_variants(console, report)
    _print_layers(console, report["forms"]["tensorrt"]["table"])
    for name in report["forms"]:
        file = report["files"][name] or f"no layer can be quantized within the tolerance of {report['tolerance']:g}"
        console.print(f"{name}: {file}", markup=False)
    console.print(f"report: {report['report']}\nplot: {report['plot']}", markup=False)


def _print_variants(console: Console, report: Mapping[str, Any]) -> None:
    frames = report["frames"]
    table = Table(
        title=f"{frames['calibration']} frames for the ranges ({report['method']}), "
        f"{frames['held_back']} held back, on which FP32 finds {report['found_by_fp32']}"
    )
    for column in ("variant", "agreement", "F1", "in INT8", "layers", "ms here", "MB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    table.add_row(
        "fp32", "1.000", "1.000", "0 %", "", f"{report['fp32']['ms']:.1f}", f"{report['fp32']['bytes'] / _MB:.1f}"
    )
    for name, variant in report["forms"].items():
        layers = f"{variant['layers'] - variant['kept']} of {variant['layers']}"
        table.add_row(
            f"int8 {name}",
            f"{variant['agreement']:.3f}",
            f"{variant['f1']:.3f}",
            f"{variant['int8_share']:.0%}",
            layers,
            f"{variant['ms']:.1f}",
            f"{variant['bytes'] / _MB:.1f}",
        )
    naive = report["naive"]
    table.add_row(
        "naive int8", f"{naive['agreement']:.3f}", f"{naive['f1']:.3f}", "100 %", "", f"{naive['ms']:.1f}", ""
    )
    console.print(table)


def _print_layers(console: Console, layers: list[dict[str, Any]]) -> None:
    table = Table(title=f"most sensitive of {len(layers)} layers (for TensorRT)")
    for column in ("layer", "sensitivity", "fraction of the work", "kept in FP32"):
        table.add_column(column)
    for each in layers[:_LAYERS_SHOWN]:
        table.add_row(each["layer"], f"{each['harm']:.4f}", f"{each['share']:.1%}", "yes" if each["kept"] else "")
    console.print(table)
