"""Throughput, efficiency, latency and recorded accuracy in one table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.inference.admission import PrecisionEntry, read_entries
from edge.inference.derived_files import source_sha256
from edge.perf.bench.tables import Row, Sheet

_HEADS = ("network", "precision", "batch", "images/s", "images/s/W", "p99 ms", "accuracy")
_METRICS = ("map50", "map50_95", "top1", "top5")  # the first that was measured is shown
NOT_MEASURED = "a missing accuracy was not measured here; edge engines verify records it"


def accuracies(rows: Sequence[Row], files: Mapping[str, Path], state_dir: Path) -> list[dict[str, Any]]:
    """Return the accuracy of each row, null if none is recorded for this very file.

    `files` are the ONNX files of the networks. The metric is mAP or top-1 if there were labels, else agreement with
    FP32.
    """
    accuracies_of_rows = []
    for row in rows:
        onnx = files[row["network"]]
        found = [each for each in read_entries(onnx, state_dir) if each.onnx_sha256 == source_sha256(onnx)]
        accuracies_of_rows.append(_accuracy(row["precision"], found))
    return accuracies_of_rows


def accuracy_sheet(rows: Sequence[Row], found: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return the rows with their accuracy as a table."""
    lines = []
    for row, each in zip(rows, found, strict=True):
        shown = None if each["accuracy"] is None else f"{each['metric']} {each['accuracy']:.4f}"
        figures = (row["images_per_s"], row["images_per_s_per_w"], row["latency_p99_ms"])
        lines.append((row["network"], row["precision"], row["batch"], *figures, shown))
    return Sheet("Throughput, efficiency, latency and accuracy", _HEADS, tuple(lines))


def _accuracy(precision: str, entries: Sequence[PrecisionEntry]) -> dict[str, Any]:
    """Return metric and value of a precision, from the newest entry that has them."""
    for entry in entries:
        truth = (entry.truth or {}).get(precision, {})
        metric = next((each for each in _METRICS if each in truth), None)
        if metric is not None:
            return {"metric": metric, "accuracy": truth[metric], "library": entry.library}
        if entry.precision == precision:
            return {
                "metric": f"{entry.metric} to {entry.against}",
                "accuracy": entry.agreement,
                "library": entry.library,
            }
    return {"metric": None, "accuracy": None, "library": None}
