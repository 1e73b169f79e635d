"""Reader of a detector's outputs: one parameterised, vectorised decoder for every reading."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.activations import as_float32, logit, sigmoid, softmax
from edge.inference.decode.boxes import TO_CORNERS, decode_yolox
from edge.inference.decode.contract import NOTHING, Options, Outputs, Raw
from edge.inference.decode.guard import OutputGuard
from edge.inference.decode.placement import Place
from edge.inference.decode.reading import Activation, Background, Part, Reading

ScoreT = TypeVar("ScoreT", bound=np.generic)
Rows = NDArray[np.intp]
Selected = tuple[Rows, NDArray[np.float32], NDArray[Any]]  # rows of the candidates, their scores and classes


class Reader:
    """Decodes one picture's outputs by a reading; immutable, so that threads share it.

    Candidates below the threshold are dropped before anything else is computed of them.
    """

    def __init__(
        self, reading: Reading, places: dict[Part, Place], outputs: Sequence[TensorSpec], options: Options
    ) -> None:
        """Take the place of each part in the outputs."""
        self.reading = reading
        self.places = places
        self._by_picture = frozenset(place.output for place in places.values() if not place.is_whole)
        self.is_single = any(place.is_whole for place in places.values())  # one picture at a time
        columns = self._class_columns(outputs)
        labels = options["label_count"]
        # Without settings of its own, DETR's kind is told by the number of labels: one column more is "no object".
        is_plain = reading.background is None and columns == labels
        self.activation: Activation = reading.activation or ("sigmoid" if is_plain else "softmax")
        self.background: Background = reading.background or ("none" if is_plain else "last")
        # With as many columns as labels, background has a label too.
        self._first_class = int(self.background == "first" and columns is not None and columns == labels)
        self.input_px: tuple[int, int] = (options["input_width"], options["input_height"])
        self._unit = np.array(self.input_px * 2, np.float32)
        self._select = self._choose_selection()

    def is_whole(self, output: str) -> bool:
        """Return whether an output is given as it comes: it has no batch axis, or is not used."""
        return output not in self._by_picture

    def read(self, outputs: Outputs, threshold: float, guard: OutputGuard | None = None) -> Raw:
        """Return boxes (corners in pixels of the input, or of the source if `units` says so), scores and classes."""
        rows, scores, class_ids = self._select(outputs, threshold, guard)
        if not rows.size:
            return NOTHING
        boxes = self._boxes(outputs, rows)
        if guard is not None:
            guard.see_boxes(boxes)
        return boxes, scores, class_ids

    def part(self, outputs: Outputs, part: Part) -> NDArray[Any]:
        """Return a view of one part: a row for each box, and the part's columns."""
        place = self.places[part]
        array = outputs[place.output]
        if place.is_transposed:
            array = array.T
        elif array.ndim == 1:
            array = array[:, np.newaxis]
        return array[:, place.columns]

    def _class_columns(self, outputs: Sequence[TensorSpec]) -> int | None:
        """Return the number of columns of class scores; None where there are none, or it is known only at run time."""
        place = self.places.get("scores")
        if place is None:
            return None
        shape = next(spec.shape for spec in outputs if spec.name == place.output)
        columns = shape[-2 if place.is_transposed else -1]
        return None if columns is None else len(range(*slice(place.start, place.stop).indices(columns)))

    def _column(self, outputs: Outputs, part: Part) -> NDArray[Any]:
        place = self.places[part]
        array = outputs[place.output]
        if array.ndim == 1:
            return array
        return cast("NDArray[Any]", (array.T if place.is_transposed else array)[:, place.start])

    def _choose_selection(self) -> Callable[[Outputs, float, OutputGuard | None], Selected]:
        if "kept" in self.places:
            return self._select_kept
        if "score" in self.places:
            return self._select_best
        if self.activation == "softmax":
            return self._select_softmax
        return self._select_likely if "objectness" in self.places else self._select_scores

    def _floor(self, threshold: float) -> float:
        """Return the least raw value whose activation reaches the threshold."""
        return logit(threshold) - 1e-5 if self.activation == "sigmoid" else threshold

    def _activated(self, values: NDArray[Any]) -> NDArray[np.float32]:
        values = as_float32(values)
        return sigmoid(values) if self.activation == "sigmoid" else values

    def _numbered(self, class_ids: NDArray[np.intp]) -> NDArray[np.intp]:
        return class_ids + 1 if self._first_class else class_ids

    def _class_scores(self, outputs: Outputs) -> NDArray[Any]:
        """Return the scores of the real classes, without background."""
        return without_background(self.part(outputs, "scores"), self.background)

    def _select_scores(self, outputs: Outputs, threshold: float, guard: OutputGuard | None) -> Selected:
        """Select by the best class score of each row."""
        scores = self._class_scores(outputs)
        best = scores[:, 0] if scores.shape[1] == 1 else scores.max(axis=1)
        if guard is not None:
            guard.see_scores(best, is_raw=self.activation != "none")
        rows = np.flatnonzero(best >= self._floor(threshold))
        return rows, self._activated(best[rows]), self._numbered(scores[rows].argmax(axis=1))

    def _select_likely(self, outputs: Outputs, threshold: float, guard: OutputGuard | None) -> Selected:
        """Select by objectness: a score is objectness times class score, so cannot exceed it."""
        objectness = self._column(outputs, "objectness")
        if guard is not None:
            guard.see_scores(objectness, is_raw=self.activation != "none")
        rows = np.flatnonzero(objectness >= self._floor(threshold))
        scores = as_float32(self._class_scores(outputs)[rows])
        class_ids = scores.argmax(axis=1)
        best = self._activated(objectness[rows]) * self._activated(_picked(scores, class_ids))
        return rows, best, self._numbered(class_ids)

    def _select_softmax(self, outputs: Outputs, threshold: float, guard: OutputGuard | None) -> Selected:
        """Select by the softmax of each row's class scores, background among them."""
        every = without_background(softmax(as_float32(self.part(outputs, "scores"))), self.background)
        if "objectness" in self.places:
            every = every * sigmoid(as_float32(self.part(outputs, "objectness")))
        class_ids = every.argmax(axis=1)
        scores = _picked(every, class_ids)
        if guard is not None:
            guard.see_scores(scores)
        rows = np.flatnonzero(scores >= threshold)
        return rows, scores[rows], self._numbered(class_ids[rows])

    def _select_best(self, outputs: Outputs, threshold: float, guard: OutputGuard | None) -> Selected:
        """Select among rows that hold a score and a class."""
        score = self._column(outputs, "score")
        if guard is not None:
            guard.see_scores(score, is_raw=self.activation != "none")
        rows = np.flatnonzero(score >= self._floor(threshold))
        if "count" in self.places:
            rows = rows[rows < int(outputs[self.places["count"].output].ravel()[0])]
        if "picture" in self.places:
            # Padding has a number below 0; a batch has one picture where this is in its rows.
            rows = rows[self._column(outputs, "picture")[rows] == 0]
        scores = self._activated(score[rows])
        if "objectness" in self.places:
            scores = scores * self._activated(self._column(outputs, "objectness")[rows])
        if "class" not in self.places:
            return rows, scores, np.zeros(len(rows), np.int64)
        classes = self._column(outputs, "class")[rows]
        known = (classes >= (self.background == "first")) & (classes < np.inf) & (scores < np.inf)
        rows, scores, classes = rows[known], scores[known], classes[known]
        return rows, scores, classes.astype(np.int64) - (self.background == "first")

    def _select_kept(self, outputs: Outputs, threshold: float, guard: OutputGuard | None) -> Selected:
        """Select what the graph's own suppression kept: rows of picture, class and box."""
        kept = self.part(outputs, "kept")
        kept = kept[(kept[:, 0] == 0) & (kept[:, 2] >= 0)].astype(np.intp)
        scores = self._activated(self.part(outputs, "scores")[kept[:, 2], kept[:, 1]])
        if guard is not None:
            guard.see_scores(scores)
        likely = scores >= threshold
        return kept[likely, 2], scores[likely], kept[likely, 1]

    def _boxes(self, outputs: Outputs, rows: Rows) -> NDArray[np.float32]:
        boxes = as_float32(self.part(outputs, "box")[rows])
        if self.reading.coding == "yolox":
            boxes = decode_yolox(boxes, rows, self.input_px)
        boxes = TO_CORNERS[self.reading.boxes](boxes)
        return boxes * self._unit if self.reading.units == "unit" else boxes


def without_background(scores: NDArray[ScoreT], background: Background) -> NDArray[ScoreT]:
    """Leave out the column of the background."""
    if background == "none":
        return scores
    return scores[:, 1:] if background == "first" else scores[:, :-1]


def _picked(rows: NDArray[np.float32], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return one value of each row."""
    return rows[np.arange(len(rows)), columns]
