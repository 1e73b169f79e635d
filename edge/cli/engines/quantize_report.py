"""Report of a quantization as tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from edge.core.console import output_console, print_table

_MB = 1e6
_LAYERS_SHOWN = 20  # in the table; the report file has all


def print_report(report: Mapping[str, Any]) -> None:
    """Print the variants with their scores, and the layers that lose most in INT8."""
    console = output_console()
    _print_variants(console, report)
    _print_layers(console, report["forms"]["tensorrt"]["table"])
    for name in report["forms"]:
        file = report["files"][name] or f"no layer can be quantized within the tolerance of {report['tolerance']:g}"
        console.print(f"{name}: {file}", soft_wrap=True)
    console.print(f"report written to {report['report']}\nplot written to {report['plot']}", soft_wrap=True)


def _print_variants(console: Console, report: Mapping[str, Any]) -> None:
    frames = report["frames"]
    title = (
        f"{frames['calibration']} frames for the ranges ({report['method']}), "
        f"{frames['held_back']} held back, on which FP32 finds {report['found_by_fp32']}"
    )
    fp32 = report["fp32"]
    rows = [("fp32", "1.000", "1.000", "0%", "", f"{fp32['ms']:.1f}", f"{fp32['bytes'] / _MB:.1f}")]
    for name, variant in report["forms"].items():
        layers = f"{variant['layers'] - variant['kept']} of {variant['layers']}"
        scores = (f"{variant['agreement']:.3f}", f"{variant['f1']:.3f}", f"{variant['int8_share']:.0%}")
        rows.append((f"int8 {name}", *scores, layers, f"{variant['ms']:.1f}", f"{variant['bytes'] / _MB:.1f}"))
    naive = report["naive"]
    scores = (f"{naive['agreement']:.3f}", f"{naive['f1']:.3f}", "100%")
    rows.append(("naive int8", *scores, "", f"{naive['ms']:.1f}", ""))
    print_table(console, ("variant", "agreement", "F1", "in INT8", "layers", "ms here", "MB"), rows, title=title)


def _print_layers(console: Console, layers: list[dict[str, Any]]) -> None:
    rows = [
        (f"{each['harm']:.4f}", f"{each['share']:.1%}", "yes" if each["kept"] else "", each["layer"])
        for each in layers[:_LAYERS_SHOWN]
    ]
    title = f"most sensitive of {len(layers)} layers (for TensorRT)"
    print_table(console, ("sensitivity", "of the work", "kept in FP32", "layer"), rows, title=title)
