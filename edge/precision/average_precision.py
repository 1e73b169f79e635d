"""Mean average precision of boxes against ground truth, by COCO's protocol: pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.core.records import Detections
from edge.inference.decode.boxes import iou

_IOUS = np.linspace(0.5, 0.95, 10)
_RECALLS = np.linspace(0, 1, 101)
_MOST_DETECTIONS = 100  # of each class in an image, the best first


@dataclass(frozen=True)
class TrueBoxes:
    """Labelled boxes of one image."""

    boxes: NDArray[np.float64]  # N×4: x1, y1, x2, y2 in pixels
    class_ids: NDArray[np.int64]  # N
    crowd: NDArray[np.bool_]  # N: a region with many objects; detections in it count neither way


@dataclass(frozen=True)
class MeanPrecision:
    """Mean average precision over classes."""

    map50: float  # at an IoU of 0.5 or more
    map50_95: float  # mean over thresholds of IoU from 0.5 to 0.95


def mean_average_precision(truth: Sequence[TrueBoxes], found: Sequence[Detections]) -> MeanPrecision | None:
    """Score detections against ground truth; return None if no image has a labelled object."""
    pairs = list(zip(truth, found, strict=True))
    class_ids = {int(each) for true in truth for each in true.class_ids[~true.crowd]}
    if not class_ids:
        return None
    by_iou = np.mean([_average_precision(list(_of_class(pairs, class_id))) for class_id in sorted(class_ids)], axis=0)
    return MeanPrecision(float(by_iou[0]), float(by_iou.mean()))


@dataclass(frozen=True)
class _Matched:
    """Detections of one class in one image, matched with the ground truth."""

    scores: NDArray[np.float64]  # D, best first
    hit: NDArray[np.bool_]  # 10×D: matches a true box, at each threshold of IoU
    ignored: NDArray[np.bool_]  # 10×D: lies in a crowd
    positives: int  # true boxes


def _of_class(pairs: Sequence[tuple[TrueBoxes, Detections]], class_id: int) -> Iterator[_Matched]:
    for true, found in pairs:
        of_class = true.class_ids == class_id
        order = np.flatnonzero(found.class_ids == class_id)
        order = order[np.argsort(-found.scores[order], kind="stable")][:_MOST_DETECTIONS]
        if of_class.any() or order.size:
            yield _matched(true.boxes[of_class], true.crowd[of_class], found.boxes[order], found.scores[order])


def _matched(
    truth: NDArray[np.float64], crowd: NDArray[np.bool_], boxes: NDArray[np.float32], scores: NDArray[np.float32]
) -> _Matched:
    """Match each box, best first, with the free true box that it overlaps most; ignore the rest if in a crowd."""
    hit = np.zeros((len(_IOUS), len(boxes)), np.bool_)
    overlaps = iou(boxes, truth[~crowd])
    if overlaps.shape[1]:
        free = np.ones((len(_IOUS), overlaps.shape[1]), np.bool_)
        rows = np.arange(len(_IOUS))
        for column, overlap in enumerate(overlaps):
            reached = np.where(free, overlap, -1.0)
            # The last of equals, as in COCO's own evaluation.
            best = reached.shape[1] - 1 - reached[:, ::-1].argmax(axis=1)
            hit[:, column] = reached[rows, best] >= _IOUS
            free[rows, best] &= ~hit[:, column]
    in_crowd = _inside(boxes.astype(np.float64), truth[crowd]).max(axis=1, initial=0.0)
    ignored = (in_crowd >= _IOUS[:, None]) & ~hit
    return _Matched(scores.astype(np.float64), hit, ignored, int((~crowd).sum()))


def _inside(boxes: NDArray[np.float64], regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the fraction of each box (N×4) that lies in each region (M×4): N×M."""
    a, b = boxes[:, None], regions[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    shared = np.clip(sides, 0, None).prod(axis=-1)
    areas = np.broadcast_to((a[..., 2:] - a[..., :2]).clip(0, None).prod(axis=-1), shared.shape)
    fraction: NDArray[np.float64] = np.divide(shared, areas, out=np.zeros_like(shared), where=areas > 0)
    return fraction


def _average_precision(images: Sequence[_Matched]) -> NDArray[np.float64]:
    """Return the mean precision over 101 steps of recall, for each threshold of IoU: 10."""
    positives = sum(each.positives for each in images)
    order = np.argsort(-np.concatenate([each.scores for each in images]), kind="stable")
    hit = np.concatenate([each.hit for each in images], axis=1)[:, order]
    ignored = np.concatenate([each.ignored for each in images], axis=1)[:, order]
    true = np.cumsum(hit, axis=1, dtype=np.float64)
    false = np.cumsum(~hit & ~ignored, axis=1, dtype=np.float64)
    recall = true / positives
    precision = np.divide(true, true + false, out=np.zeros_like(true), where=true + false > 0)
    # The precision at a recall is the best at this recall or a higher one.
    precision = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return np.array([_interpolated(*each) for each in zip(recall, precision, strict=True)])


def _interpolated(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> float:
    places = np.searchsorted(recall, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(places, len(precision))].mean())
