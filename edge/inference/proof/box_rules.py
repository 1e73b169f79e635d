"""Value rules of boxes: what refutes that four numbers are boxes of a form, in certain units."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.boxes import TO_CORNERS, decode_yolox
from edge.inference.decode.grids import STRIDES_PX, cells_of
from edge.inference.decode.reading import Coding, Form, Units
from edge.inference.proof.views import View

Floats = NDArray[np.float32]

_STRAY = 0.02  # fraction of rows that may break a rule: rows of no object hold anything
_LARGEST_FRACTION = 2.0  # of the picture; fractions are smaller, and pixels larger
_SLACK = 0.002  # of the picture
_FAR, _FAR_ROWS = 0.5, 0.5  # boxes that reach half a picture beyond its edges
_BEYOND = 0.1
_WILD = 8  # pictures
_NEAR_CELL = 0.08  # of the picture, between a box's centre and the cell that it belongs to
_ANCHORS = (1, 2, 3)
_MOSTLY = 0.9  # fraction of rows that hold something


def to_corners(
    boxes: Floats, rows: NDArray[np.intp], form: Form, units: Units, coding: Coding, input_px: tuple[int, int]
) -> Floats:
    """Return boxes as corners, in fractions of the input."""
    if coding == "yolox":
        boxes = decode_yolox(boxes.copy(), rows, input_px)
    with np.errstate(over="ignore", invalid="ignore"):
        corners = TO_CORNERS[form](boxes)
        return corners if units == "unit" else np.divide(corners, np.array(input_px * 2, np.float32), dtype=np.float32)


def refutation(
    views: Sequence[View], form: Form, units: Units, coding: Coding, input_px: tuple[int, int]
) -> str | None:
    """Return why the boxes of these views cannot be of a form, in these units; None where nothing tells against it."""
    raw, rows = _live_boxes(views)
    raw = np.asfortranarray(raw)  # column by column in memory, which all that follows is many times as fast on
    if not len(raw):
        return None
    if not np.isfinite(raw).all():
        return "some box values are no numbers"
    if coding == "yolox":
        if any(each.rows != len(cells_of(*input_px)[0]) for each in views):
            return "there is not one row for each cell of strides 8, 16 and 32"
    else:
        largest = np.abs(raw).max(axis=1)
        if units == "unit" and _breaks(largest > _LARGEST_FRACTION):
            return f"box values up to {largest.max():.4g} are no fractions of the picture"
        if units != "unit" and not _breaks(largest > _LARGEST_FRACTION):
            return f"box values up to {largest.max():.3g} are no pixels of the input"
    corners = to_corners(raw, rows, form, units, coding, input_px)
    return _of_corners(corners, form, coding)


def _live_boxes(views: Sequence[View]) -> tuple[Floats, NDArray[np.intp]]:
    """Return the boxes of all rows that hold something, and the numbers of those rows."""
    boxes = np.concatenate([each.box[each.live] for each in views])
    return boxes, np.concatenate([np.flatnonzero(each.live) for each in views])


def _of_corners(corners: Floats, form: Form, coding: Coding) -> str | None:
    if coding != "none":
        wild = ~np.isfinite(corners).all(axis=1) | (np.abs(corners) > _WILD).any(axis=1)
        if _breaks(wild):
            return f"{_percent(wild)} of the boxes are many pictures large: they are decoded already"
        return None
    sizes = corners[:, 2:] - corners[:, :2]
    negative = (sizes < -_SLACK).any(axis=1)
    if _breaks(negative):
        if form in ("xyxy", "yxyx"):
            return f"in {_percent(negative)} of the boxes the second corner lies before the first: these are no corners"
        return f"{_percent(negative)} of the boxes have a negative size"
    far = _reaching(corners, _FAR)
    if far.mean() > _FAR_ROWS:
        return f"{_percent(far)} of the boxes reach more than half a picture beyond its edges"
    return None


def _reaching(corners: Floats, margin: float) -> NDArray[np.bool_]:
    return np.asarray((corners < -margin).any(axis=1) | (corners > 1 + margin).any(axis=1))


def fraction_beyond(
    views: Sequence[View], form: Form, units: Units, coding: Coding, input_px: tuple[int, int]
) -> float:
    """Return the fraction of boxes that reach beyond the picture's edges by a tenth of it."""
    raw, rows = _live_boxes(views)
    if not len(raw):
        return 0.0
    return float(_reaching(to_corners(raw, rows, form, units, coding, input_px), _BEYOND).mean())


def _breaks(broken: Any) -> bool:
    return bool(broken.mean() > _STRAY)


def _percent(which: Any) -> str:
    return f"{which.mean():.0%}"


@lru_cache(maxsize=32)
def _cell_centers(input_px: tuple[int, int], anchors: int, *, is_anchor_first: bool) -> Floats:
    """Return the centre of the cell of each row, in fractions of the input."""
    found = []
    for stride_px in STRIDES_PX:
        cells, _ = cells_of(*input_px, (stride_px,))
        centers = (cells + np.float32(0.5)) * np.float32(stride_px) / np.array(input_px, np.float32)
        found.append(np.tile(centers, (anchors, 1)) if is_anchor_first else np.repeat(centers, anchors, axis=0))
    return np.concatenate(found)


def cell_anchors(rows: int, input_px: tuple[int, int]) -> int:
    """Return how many rows there are for each cell of strides 8, 16 and 32; 0 where they do not fit."""
    cells = len(cells_of(*input_px)[0])
    return next((anchors for anchors in _ANCHORS if cells and rows == cells * anchors), 0)


def distance_to_cells(
    views: Sequence[View], form: Form, units: Units, coding: Coding, input_px: tuple[int, int]
) -> float | None:
    """Return the mean distance between the boxes' centres and their rows' cells; None where rows have no cells."""
    anchors = cell_anchors(views[0].rows, input_px)
    full = [each for each in views if each.live.mean() > _MOSTLY]
    if not anchors or not full:
        return None
    distances = []
    for view in full:
        corners = to_corners(view.box, np.arange(view.rows), form, units, coding, input_px)
        centers = (corners[:, :2] + corners[:, 2:]) / 2
        if not np.isfinite(centers).all():
            return None
        distances.append(
            min(
                float(np.abs(centers - _cell_centers(input_px, anchors, is_anchor_first=order)).mean())
                for order in (True, False)
            )
        )
    return float(np.median(distances))


def is_near_cells(distance: float | None) -> bool:
    """Return whether boxes lie so near their cells that this is no chance."""
    return distance is not None and distance < _NEAR_CELL
