"""Boxes of all forms as corners: x1, y1, x2, y2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.grids import cells_of
from edge.inference.decode.reading import Form

Floats = NDArray[np.float32]
_HALF = np.float32(0.5)


def _from_centers(boxes: Floats) -> Floats:
    centers, halves = boxes[:, :2], boxes[:, 2:] * _HALF
    return np.concatenate((centers - halves, centers + halves), axis=1)


def _from_sizes(boxes: Floats) -> Floats:
    return np.concatenate((boxes[:, :2], boxes[:, :2] + boxes[:, 2:]), axis=1)


TO_CORNERS: dict[Form, Callable[[Floats], Floats]] = {
    "cxcywh": _from_centers,
    "xyxy": lambda boxes: boxes,
    "xywh": _from_sizes,
    "yxyx": lambda boxes: boxes[:, (1, 0, 3, 2)],
}


def iou(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return intersection over union of each box of `one` (N×4: x1, y1, x2, y2) with each of `other` (M×4): N×M."""
    a, b = one.astype(np.float64)[:, None], other.astype(np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    union = _area(a) + _area(b) - shared
    overlap: NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return overlap


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((boxes[..., 2:] - boxes[..., :2]).clip(0, None).prod(axis=-1))


def decode_yolox(boxes: Floats, rows: NDArray[np.intp], input_px: tuple[int, int]) -> Floats:
    """Decode offsets over strides 8, 16 and 32, in place: the centre is (xy + cell)·stride, the size exp(wh)·stride."""
    cells, strides_px = cells_of(*input_px)
    with np.errstate(over="ignore", invalid="ignore"):
        boxes[:, :2] += cells[rows]
        np.exp(boxes[:, 2:], out=boxes[:, 2:])
        boxes *= strides_px[rows]
    return boxes
