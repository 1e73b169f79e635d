"""Guard of one session's outputs: values that no reading of the model can mean, seen while they are decoded."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST_SCORE = 1.01  # of rounded probabilities
_SURE = 0.25
_MANY = 4  # boxes of which half may lie outside of the picture


class OutputGuard:
    """Notes why the outputs of a picture are implausible; it looks only at values that decoding computes anyway."""

    def __init__(self) -> None:
        self.reason: str | None = None

    def see_scores(self, scores: NDArray[Any], *, is_raw: bool = False) -> None:
        """Look at the scores of all rows; raw ones, before their activation, have no bound."""
        if not scores.size:
            return
        highest = scores.max()  # NaN if there is one
        if not highest < np.inf or not (is_raw or highest <= MOST_SCORE):
            self.reason = f"a score of {highest:.4g}, wanted 0 to 1"

    def see_boxes(self, boxes: NDArray[np.float32]) -> None:
        """Look at the boxes of the candidates."""
        if not np.isfinite(boxes).all():
            self.reason = "a box whose corners are no numbers"

    def see_visible(self, visible: NDArray[np.intp], scores: NDArray[np.float32]) -> None:
        """Look at how many of the sure boxes lie within the picture; those are the rows `visible`."""
        if len(visible) * 2 >= len(scores):
            return
        boxes, inside = int((scores >= _SURE).sum()), int((scores[visible] >= _SURE).sum())
        if boxes >= _MANY and inside * 2 < boxes:
            self.reason = f"{boxes - inside} of {boxes} boxes outside of the picture"
