"""How well two engines agree on the same pictures: pure functions over raw outputs and over what was found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.records import Classes, Detections, Findings

MATCH_IOU = 0.5


@dataclass(frozen=True)
class OutputError:
    """How far raw outputs lie from those wanted, in parts of the wanted outputs' spread (their standard deviation)."""

    max: float
    mean: float


def output_error(wanted: Mapping[str, NDArray[Any]], got: Mapping[str, NDArray[Any]]) -> OutputError:
    """Compare one picture's outputs by name; the worst counts. Infinite where one is missing or not finite."""
    errors = [_array_error(array, got.get(name)) for name, array in wanted.items()]
    return OutputError(max(error.max for error in errors), max(error.mean for error in errors))


def _array_error(wanted: NDArray[Any], got: NDArray[Any] | None) -> OutputError:
    if got is None or got.shape != wanted.shape or not np.isfinite(got).all():
        return OutputError(np.inf, np.inf)
    if not wanted.size:
        return OutputError(0.0, 0.0)
    exact = wanted.astype(np.float64)
    difference = np.abs(got.astype(np.float64) - exact)
    spread = float(exact.std()) or 1.0
    return OutputError(float(difference.max()) / spread, float(difference.mean()) / spread)


def agreement(wanted: Sequence[Findings], got: Sequence[Findings]) -> float | None:
    """Return how well what was found agrees, 0…1, over pictures; None where neither found anything.

    For boxes it is F1 (2·TP / (2·TP + FP + FN)) with `wanted` as the truth: of the same class, overlapping by
    `MATCH_IOU` or more, each matched once, best first. For classes it is the share of pictures whose best class is the
    same.
    """
    pairs = list(zip(wanted, got, strict=True))
    if any(isinstance(findings, Classes) for findings in wanted):
        same = [_best_class(one) == _best_class(other) for one, other in pairs]
        return sum(same) / len(same)
    matched = sum(len(matches(one, other)) for one, other in pairs)
    found = sum(len(findings.scores) for findings in (*wanted, *got))
    return 2 * matched / found if found else None


def _best_class(findings: Findings) -> int | None:
    return int(findings.class_ids[0]) if len(findings.class_ids) else None


def matches(wanted: Findings, got: Findings) -> list[tuple[int, int]]:
    """Return which box of `wanted` each box of `got` stands for, as pairs of their places; best boxes choose first."""
    if not isinstance(wanted, Detections) or not isinstance(got, Detections):
        return []
    overlaps = iou(wanted.boxes, got.boxes)
    overlaps[wanted.class_ids[:, None] != got.class_ids[None]] = 0.0
    pairs = []
    for column in range(len(got.scores)):
        if len(overlaps) and overlaps[:, column].max() >= MATCH_IOU:
            row = int(overlaps[:, column].argmax())
            pairs.append((row, column))
            overlaps[row] = 0.0
    return pairs


def iou(one: NDArray[np.float32], other: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return intersection over union of each box of `one` (N×4: x1, y1, x2, y2) with each of `other` (M×4): N×M."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    union = _area(a) + _area(b) - shared
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0, None).prod(axis=-1))
