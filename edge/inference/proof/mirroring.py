"""Boxes of a picture compared with those of its mirror image: of a right reading they are mirrored too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from edge.inference.decode.boxes import iou
from edge.inference.decode.contract import best_first
from edge.inference.decode.reader import Reader
from edge.inference.proof.views import View

Floats = NDArray[np.float32]
_SURE = 0.25
_SAME_BOX = 0.7  # intersection over union
_COMPARED = 100  # boxes
_SAME_SCORE = 0.15  # of an object in both pictures


def mirror_error(views: Sequence[View], reader: Reader, input_px: tuple[int, int]) -> float | None:
    """Return how far boxes are from the mirrored ones, as a fraction of the picture; None where nothing is found."""
    errors: list[float] = []
    best: dict[int, tuple[float, Floats]] = {}
    for view in views:
        if view.kind == "picture":
            best = _best_of_each_class(view, reader)
        elif view.kind in ("mirrored", "flipped"):
            errors += _errors(best, _best_of_each_class(view, reader), view.kind == "mirrored", input_px)
    return float(np.median(errors)) if errors else None


def _best_of_each_class(view: View, reader: Reader) -> dict[int, tuple[float, Floats]]:
    """Return score and box of the best row of each class that is surely there."""
    boxes, scores, class_ids = reader.read(view.outputs, _SURE)
    found: dict[int, tuple[float, Floats]] = {}
    for row in best_first(scores).tolist():
        found.setdefault(int(class_ids[row]), (float(scores[row]), boxes[row]))
    return found


def _errors(
    before: dict[int, tuple[float, Floats]],
    after: dict[int, tuple[float, Floats]],
    is_sideways: bool,  # noqa: FBT001 -- of two pictures one
    input_px: tuple[int, int],
) -> list[float]:
    width, height = input_px
    size = np.array((width, height) * 2, np.float32)
    errors = []
    for class_id, (score, box) in before.items():
        if class_id not in after or abs(after[class_id][0] - score) > _SAME_SCORE:
            continue
        x1, y1, x2, y2 = box.tolist()
        wanted = (width - x2, y1, width - x1, y2) if is_sideways else (x1, height - y2, x2, height - y1)
        error = np.abs(np.array(wanted, np.float32) - after[class_id][1]) / size
        if np.isfinite(error).all():
            errors.append(float(error.max()))
    return errors


def duplicates(view: View, reader: Reader) -> bool:
    """Return whether two sure boxes of one class lie on one another, so that they mark one object twice."""
    boxes, scores, class_ids = reader.read(view.outputs, _SURE)
    best = best_first(scores)[:_COMPARED]
    boxes, class_ids = boxes[best], class_ids[best]
    alike = (iou(boxes, boxes) > _SAME_BOX) & (class_ids[:, np.newaxis] == class_ids)
    np.fill_diagonal(alike, val=False)
    return bool(alike.any())
