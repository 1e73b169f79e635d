"""Decoding of one picture's raw outputs into findings, by built-in or custom decoders.

A decoder is a pure function: `function(outputs, options)` → boxes (N×4 float32: x1, y1, x2, y2 in pixels of the model's
input), scores (N, float32), class ids (N, integers). `outputs` holds one picture's arrays, without the batch axis.
`options` holds all keys of the manifest's `[output]`, with the effective `score_threshold`, and `input_width`,
`input_height` and `label_count`. A decoder may drop findings below the threshold. A classifier's boxes are ignored.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import MappingProxyType

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import EngineError, ModelError
from edge.core.manifest import Manifest
from edge.core.records import Classes, Detections, Findings, Geometry
from edge.core.suggestion import did_you_mean
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.builtin import (
    ALIASES,
    BUILT_IN,
    NO_BOXES,
    NOTHING,
    DecoderRow,
    Exact,
    Options,
    Outputs,
    Task,
    best_first,
)
from edge.inference.decode.custom import describe, is_interrupt, load_decoder

# The lowest score: OpenCV's suppression drops scores of 0, so every decoder does.
_LEAST_SCORE = float(np.finfo(np.float32).tiny)
# Suppression compares each box with every better one that stays. Of 200,000 it takes seconds, and a stop waits for it.
MOST_CANDIDATES = 5000


class Decoder:
    """Decoder of one model's outputs; immutable, so all lanes of the model share it."""

    task: Task

    def __init__(
        self,
        manifest: Manifest,
        labels: Sequence[str],
        outputs: Sequence[TensorSpec],
        input_px: tuple[int, int],
        folder: Path,
    ) -> None:
        """Find the decoder that the manifest names; raise ModelError if it does not fit the model's `outputs`.

        `input_px` is the width and height of the model's input; `folder` is the model's, where a custom decoder may be.
        """
        settings = manifest.output
        self.task = manifest.task
        self._name = settings.decoder
        self._label_count = len(labels)
        self._iou_threshold = settings.iou_threshold
        self._max_detections = settings.max_detections
        # A class is reported whatever its score, unless a threshold is set.
        is_unset = self.task == "classify" and "score_threshold" not in settings.model_fields_set
        self._score_threshold = 0.0 if is_unset else settings.score_threshold
        self._options: Options = MappingProxyType(
            {
                **settings.model_dump(),
                "score_threshold": self._score_threshold,
                "input_width": input_px[0],
                "input_height": input_px[1],
                "label_count": len(labels),
            }
        )
        row = _find(settings.decoder, folder, self.task)
        row.check(outputs, self._options)
        self._function = row.function
        self._nms = row.nms if settings.nms is None else settings.nms

    def decode(self, outputs: Outputs, geometry: Geometry, score_threshold: float | None = None) -> Findings:
        """Decode one picture's `outputs` (without batch axis); raise EngineError if the decoder fails.

        `geometry` is the picture's position in the input. `score_threshold` (0…1) replaces the manifest's.
        """
        threshold = self._score_threshold if score_threshold is None else score_threshold
        options = self._options if score_threshold is None else {**self._options, "score_threshold": threshold}
        try:
            found = _checked(self._function(outputs, options), self._name, boxed=self.task == "detect")
        except EngineError:
            raise
        except BaseException as error:  # a custom decoder may raise anything, `sys.exit()` too
            if is_interrupt(error):
                raise
            raise EngineError(
                f"decoder {self._name!r} failed ({describe(error)}); "
                "correct it, or name another in [output] of model.toml"
            ) from error
        boxes, scores, class_ids = found
        kept = np.flatnonzero(scores >= max(threshold, _LEAST_SCORE))
        scores, class_ids = scores[kept], class_ids[kept]
        self._check_class_ids(class_ids)
        if self.task == "classify":
            order = best_first(scores)
            return Classes(scores[order], class_ids[order])
        return self._detections(boxes[kept], scores, class_ids, geometry)

    def _detections(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int64], geometry: Geometry
    ) -> Detections:
        """Clip boxes before the suppression, so that no two published boxes overlap more than allowed.

        Of more than MOST_CANDIDATES boxes the best are suppressed, and the others dropped.
        """
        boxes, visible = _to_source(boxes, geometry)
        if len(visible) < len(scores):
            scores, class_ids = scores[visible], class_ids[visible]
        if self._nms and len(scores) > 1:
            most = max(MOST_CANDIDATES, self._max_detections)
            if len(scores) > most:
                best = best_first(scores)[:most]
                boxes, scores, class_ids = boxes[best], scores[best], class_ids[best]
            order = _suppress(boxes, scores, class_ids, self._iou_threshold)
        else:
            order = best_first(scores)
        order = order[: self._max_detections]
        return Detections(boxes[order], scores[order], class_ids[order])

    def _check_class_ids(self, class_ids: NDArray[np.int64]) -> None:
        if not class_ids.size:
            return
        low, high = int(class_ids.min()), int(class_ids.max())
        if low < 0 or (self._label_count and high >= self._label_count):
            wanted = f"0 to {self._label_count - 1}, as in the labels file" if self._label_count else "0 or more"
            found = low if low < 0 else high
            raise EngineError(f"decoder {self._name!r} returned class id {found}, wanted {wanted}; correct one of them")


def _checked(found: object, name: str, *, boxed: bool) -> Exact:
    """Check a decoder's result and convert it to the exact dtypes; without `boxed`, boxes are ignored."""
    if not isinstance(found, tuple) or len(found) != len(NOTHING):
        raise EngineError(f"decoder {name!r} returned {type(found).__name__}, wanted a tuple: boxes, scores, class ids")
    boxes, scores, class_ids = (np.asarray(each) for each in (found if boxed else (NO_BOXES, *found[1:])))
    if not (boxes.size or scores.size or class_ids.size):
        return NOTHING  # an array of an empty list has neither the shape nor the dtype
    shapes_fit = scores.ndim == 1 and class_ids.shape == scores.shape and (not boxed or boxes.shape == (len(scores), 4))
    if not shapes_fit or boxes.dtype.kind not in "fiu" or scores.dtype.kind != "f" or class_ids.dtype.kind not in "iu":
        described = ", ".join(f"{each.dtype} {'×'.join(map(str, each.shape))}" for each in (boxes, scores, class_ids))
        raise EngineError(
            f"decoder {name!r} returned {described}; wanted boxes float32 N×4, scores float32 N, class ids int64 N"
        )
    return (
        boxes.astype(np.float32, copy=False),
        scores.astype(np.float32, copy=False),
        class_ids.astype(np.int64, copy=False),
    )


def _to_source(boxes: NDArray[np.float32], geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Map boxes to pixels of the source picture and clip them; return those with an area, and their indices."""
    width, height = geometry.source_px
    offset = np.array((geometry.offset_x, geometry.offset_y) * 2, np.float32)
    scale = np.array((geometry.scale_x, geometry.scale_y) * 2, np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        mapped = (boxes - offset) / scale
    np.clip(mapped, 0, np.array((width, height) * 2, np.float32), out=mapped)
    visible = np.flatnonzero(finite & (mapped[:, 2] > mapped[:, 0]) & (mapped[:, 3] > mapped[:, 1]))
    return mapped[visible], visible


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.intp]:
    """Return the boxes, best first, that no better box of their class overlaps by more than `iou_threshold`."""
    corner_and_size = boxes.astype(np.float64)
    corner_and_size[:, 2:] -= corner_and_size[:, :2]
    kept = cv2.dnn.NMSBoxesBatched(corner_and_size.tolist(), scores.tolist(), class_ids.tolist(), 0.0, iou_threshold)
    return np.asarray(kept, np.intp)


def _check_nothing(outputs: Sequence[TensorSpec], options: Options) -> None:
    """Check nothing: a custom decoder knows its outputs."""


def _find(name: str, folder: Path, task: Task) -> DecoderRow:
    if ":" in name:
        row = DecoderRow(("classify", "detect"), nms=True, check=_check_nothing, function=load_decoder(name, folder))
    elif (built_in := ALIASES.get(name.casefold(), name)) in BUILT_IN:
        row = BUILT_IN[built_in]
    else:
        known = ", ".join(BUILT_IN)
        hint = did_you_mean(name, BUILT_IN)
        raise ModelError(f"[output] decoder: found {name!r}, wanted {known}, or 'package.module:function'{hint}")
    if task not in row.tasks:
        wanted = repr(row.tasks[0])
        raise ModelError(f"decoder {name!r}: found task {task!r}, wanted {wanted}; correct one of them in model.toml")
    return row
