"""Evidence about one arrangement of parts: the values of a model's outputs, and what they refute."""

from __future__ import annotations

from functools import cached_property, lru_cache

from edge.inference.decode.reader import Reader
from edge.inference.decode.reading import Activation, Background, Coding, Form, Reading, Units
from edge.inference.proof import box_rules, score_rules
from edge.inference.proof.pictures import Sample
from edge.inference.proof.views import view_of

_Box = tuple[Form, Units, Coding]


class Evidence:
    """Values of one arrangement's parts; each question is answered once."""

    def __init__(
        self,
        reader: Reader,
        samples: tuple[Sample, ...],
        input_px: tuple[int, int],
        label_count: int,
        *,
        is_draft: bool,
    ) -> None:
        """Take any reader of the arrangement, and what the model gave for the pictures."""
        self._is_draft = is_draft
        self.views = [view_of(sample, reader) for sample in samples]
        self._input_px = input_px
        self._label_count = label_count
        self._score_refutation = lru_cache(None)(self._refute_scores)
        self._box_refutation = lru_cache(None)(self._refute_boxes)
        self._distance = lru_cache(None)(self._measure_distance)
        self._beyond = lru_cache(None)(self._measure_beyond)

    def refutation(self, reading: Reading) -> str | None:
        """Return what refutes a reading of this arrangement by itself; None where nothing does."""
        background = reading.background or "none"
        if self._parts_refutation is not None:
            return self._parts_refutation
        if "class" in self.views[0].columns:
            reason = score_rules.class_refutation(self.views, self._label_count, background)
            if reason is not None:
                return reason
            background = "none"
        if reading.activation is not None and reading.background is not None and self.views[0].columns:
            reason = self._score_refutation(reading.activation, background)
            if reason is not None:
                return reason
        return None if reading.units == "source" else self._box_refutation(_box(reading))

    def distance_to_cells(self, reading: Reading) -> float | None:
        """Return the mean distance between boxes and the cells of their rows; None where rows have no cells."""
        return self._distance(_box(reading))

    def fraction_beyond(self, reading: Reading) -> float:
        """Return the fraction of boxes that reach beyond the picture."""
        return self._beyond(_box(reading))

    @cached_property
    def _parts_refutation(self) -> str | None:
        views = self.views
        if "picture" in views[0].columns and (reason := score_rules.picture_refutation(views)):
            return reason
        hidden = max((each.hidden_score for each in views), default=0.0)
        if hidden > score_rules.LIKELY:
            return f"rows behind the count hold scores up to {hidden:.2f}"
        return score_rules.whole_column(views) if views[0].columns else None

    def _refute_scores(self, activation: Activation, background: Background) -> str | None:
        labels = self._label_count if self._is_draft else None
        return score_rules.refutation(self.views, activation, background, labels)

    def _refute_boxes(self, box: _Box) -> str | None:
        return box_rules.refutation(self.views, *box, self._input_px)

    def _measure_distance(self, box: _Box) -> float | None:
        return box_rules.distance_to_cells(self.views, *box, self._input_px)

    def _measure_beyond(self, box: _Box) -> float:
        return box_rules.fraction_beyond(self.views, *box, self._input_px)


def _box(reading: Reading) -> _Box:
    return reading.boxes, reading.units, reading.coding
