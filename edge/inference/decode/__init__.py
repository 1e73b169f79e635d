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
from edge.core.manifest import Manifest, Task
from edge.core.records import Classes, Detections, Findings, Geometry
from edge.core.suggestion import did_you_mean
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.classifier import ClassReader
from edge.inference.decode.contract import Options, Outputs, best_first
from edge.inference.decode.custom import CustomReader, describe, is_interrupt
from edge.inference.decode.families import ALIASES, CLASSIFIER, FAMILIES, NAMES
from edge.inference.decode.guard import OutputGuard
from edge.inference.decode.placement import place_parts
from edge.inference.decode.reader import Reader
from edge.inference.decode.reading import reading_from

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
        # Keys of one's own are those that the manifest's table does not know.
        self._settings = {key: getattr(settings, key) for key in settings.model_fields_set} | (
            settings.model_extra or {}
        )
        self._is_class_agnostic = False
        self.reader = self._open_reader(outputs, folder)
        has_nms = self.reader.reading.nms if isinstance(self.reader, Reader) else isinstance(self.reader, CustomReader)
        # Of the boxes, as the reading has them; None for a classifier and a decoder of one's own.
        self.units = self.reader.reading.units if isinstance(self.reader, Reader) else None
        self._nms = has_nms if settings.nms is None else settings.nms

    def decode(
        self,
        outputs: Outputs,
        geometry: Geometry,
        score_threshold: float | None = None,
        guard: OutputGuard | None = None,
    ) -> Findings:
        """Decode one picture's `outputs` (without batch axis); raise EngineError if the decoder fails.

        `geometry` is the picture's position in the input. `score_threshold` (0…1) replaces the manifest's. A `guard`
        notes implausible values.
        """
        threshold = self._score_threshold if score_threshold is None else score_threshold
        try:
            boxes, scores, class_ids = self.reader.read(outputs, threshold, guard)
        except EngineError:
            raise
        except BaseException as error:  # a custom decoder may raise anything, `sys.exit()` too
            if is_interrupt(error):
                raise
            raise EngineError(
                f"decoder {self._name!r} failed ({describe(error)}); "
                "correct it, or name another in [output] of model.toml"
            ) from error
        kept = np.flatnonzero(scores >= max(threshold, _LEAST_SCORE))
        scores, class_ids = scores[kept], class_ids[kept]
        self._check_class_ids(class_ids)
        if self.task == "classify":
            order = best_first(scores)
            return Classes(scores[order], class_ids[order])
        return self._detections(boxes[kept], scores, class_ids, geometry, guard)

    def is_whole(self, output: str) -> bool:
        """Return whether an output has no batch axis, so that a batch is one picture."""
        return self.reader.is_whole(output)

    def _open_reader(self, outputs: Sequence[TensorSpec], folder: Path) -> Reader | ClassReader | CustomReader:
        """Make the reader that the manifest names; raise ModelError where it does not fit."""
        name, settings = self._name, self._settings
        if ":" in name:
            self._is_class_agnostic = settings.get("class_agnostic") is True
            return CustomReader(name, folder, self._options, boxed=self.task == "detect")
        family = ALIASES.get(name.casefold(), name)
        if family not in NAMES:
            known, hint = ", ".join(NAMES), did_you_mean(name, NAMES)
            raise ModelError(f"[output] decoder: found {name!r}, wanted {known}, or 'package.module:function'{hint}")
        task = "classify" if family == CLASSIFIER else "detect"
        if self.task != task:
            raise ModelError(
                f"decoder {name!r}: found task {self.task!r}, wanted {task!r}; correct one of them in model.toml"
            )
        if family == CLASSIFIER:
            return ClassReader(settings, outputs, self._options)
        manifest_reading = reading_from(FAMILIES[family].reading, settings, name)
        self._is_class_agnostic = manifest_reading.class_agnostic
        reading = manifest_reading.reading
        return Reader(
            reading, place_parts(reading, manifest_reading.names, outputs, self._options), outputs, self._options
        )

    def _detections(
        self,
        boxes: NDArray[np.float32],
        scores: NDArray[np.float32],
        class_ids: NDArray[np.int64],
        geometry: Geometry,
        guard: OutputGuard | None,
    ) -> Detections:
        """Clip boxes before the suppression, so that no two published boxes overlap more than allowed.

        Of more than MOST_CANDIDATES boxes the best are suppressed, and the others dropped.
        """
        if self.units == "source":
            geometry = Geometry(geometry.source_px, 1.0, 1.0, 0.0, 0.0)
        boxes, visible = _to_source(boxes, geometry)
        if guard is not None:
            guard.see_visible(visible, scores)
        if len(visible) < len(scores):
            scores, class_ids = scores[visible], class_ids[visible]
        if self._nms and len(scores) > 1:
            most = max(MOST_CANDIDATES, self._max_detections)
            if len(scores) > most:
                best = best_first(scores)[:most]
                boxes, scores, class_ids = boxes[best], scores[best], class_ids[best]
            classes = np.zeros_like(class_ids) if self._is_class_agnostic else class_ids
            order = _suppress(boxes, scores, classes, self._iou_threshold)
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


def _to_source(boxes: NDArray[np.float32], geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Map boxes to pixels of the source picture and clip them; return those with an area, and their indices."""
    width, height = geometry.source_px
    offset = np.array((geometry.offset_x, geometry.offset_y) * 2, np.float32)
    scale = np.array((geometry.scale_x, geometry.scale_y) * 2, np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        mapped = (boxes - offset) / scale
    np.maximum(mapped, 0, out=mapped)
    np.minimum(mapped, np.array((width, height) * 2, np.float32), out=mapped)
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
