"""Mean average precision of boxes against the truth, after the protocol of COCO: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.core.records import Detections
from edge.precision.agreement import iou

_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST_FOUND = 100  # of each class in a picture, the best first


@dataclass(frozen=True)
class TrueBoxes:
    """What stands in one picture."""

    boxes: NDArray[np.float64]  # N×4: x1, y1, x2, y2 in pixels
    class_ids: NDArray[np.int64]  # N
    crowd: NDArray[np.bool_]  # N: a region with many; what is found in it counts neither way


@dataclass(frozen=True)
class MeanPrecision:
    """The mean over classes."""

    map50: float  # boxes overlapping by 0.5 or more count as found
    map50_95: float  # mean over such bounds from 0.5 to 0.95


def mean_average_precision(truth: Sequence[TrueBoxes], found: Sequence[Detections]) -> MeanPrecision | None:
    """Judge what was found in pictures by what stands in them; None where nothing does."""
    pairs = list(zip(truth, found, strict=True))
    class_ids = {int(each) for true in truth for each in true.class_ids[~true.crowd]}
    if not class_ids:
        return None
    by_iou = np.mean([_average_precision(list(_of_class(pairs, class_id))) for class_id in sorted(class_ids)], axis=0)
    return MeanPrecision(float(by_iou[0]), float(by_iou.mean()))


@dataclass(frozen=True)
class _Matched:
    """One class in one picture."""

    scores: NDArray[np.float64]  # D, best first
    hit: NDArray[np.bool_]  # 10×D: stands for a true box, by the overlap that is asked
    ignored: NDArray[np.bool_]  # 10×D: lies in a crowd
    wanted: int


def _of_class(pairs: Sequence[tuple[TrueBoxes, Detections]], class_id: int) -> Iterator[_Matched]:
    for true, found in pairs:
        of_class = true.class_ids == class_id
        order = np.flatnonzero(found.class_ids == class_id)
        order = order[np.argsort(-found.scores[order], kind="stable")][:_MOST_FOUND]
        if of_class.any() or order.size:
            yield _matched(true.boxes[of_class], true.crowd[of_class], found.boxes[order], found.scores[order])


def _matched(
    wanted: NDArray[np.float64], crowd: NDArray[np.bool_], boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> _Matched:
    """Give each box, best first, the free true box that it overlaps most; where there is none, see whether a crowd."""
    hit = np.zeros((len(_IOUS), len(boxes)), np.bool_)
    overlaps = iou(boxes, wanted[~crowd])
    if overlaps.shape[1]:
        free = np.ones((len(_IOUS), overlaps.shape[1]), np.bool_)
        rows = np.arange(len(_IOUS))
        for place, overlap in enumerate(overlaps):
            reached = np.where(free, overlap, -1.0)
            # The last of equals, as COCO's own evaluation has it.
            best = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
            hit[:, place] = reached[rows, best] >= _IOUS
            free[rows, best] &= ~hit[:, place]
    in_crowd = _inside(boxes.astype(np.float64), wanted[crowd]).max(axis=1, initial=0.0)
    ignored = (in_crowd >= _IOUS[:, None]) & ~hit
    return _Matched(scores.astype(np.float64), hit, ignored, int((~crowd).sum()))


def _inside(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the share of each box (N×4) that lies in each region (M×4): N×M."""
    a, b = boxes[:, None], regions[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas = np.broadcast_to((a[..., 2:] - a[..., :2]).clip(0, None).prod(axis=-1), shared.shape)
    share: NDArray[np.float64] = np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
    return share


def _average_precision(pictures: Sequence[_Matched]) -> NDArray[np.float64]:
    """Return the mean precision over 101 steps of recall, by overlap: 10."""
    wanted = sum(each.wanted for each in pictures)
    order = np.argsort(-np.concatenate([each.scores for each in pictures]), kind="stable")
    hit = np.concatenate([each.hit for each in pictures], axis=1)[:, order]
    ignored = np.concatenate([each.ignored for each in pictures], axis=1)[:, order]
    true = np.cumsum(hit, axis=1, dtype=np.float64)
    false = np.cumsum(~hit & ~ignored, axis=1, dtype=np.float64)
    recall = true / wanted
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
    # The precision at a recall is the best that is had at this recall or a higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.array([_interpolated(*each) for each in zip(recall, precision, strict=True)])


def _interpolated(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
