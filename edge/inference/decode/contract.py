"""Types of a decoder: its arguments, its result."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[Any]]
Options = Mapping[str, Any]
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, class ids
Exact = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]  # likewise

NO_BOXES = np.empty((0, 4), np.float32)
NOTHING: Exact = (NO_BOXES, np.empty(0, np.float32), np.empty(0, np.int64))


def best_first(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the indices that sort scores in descending order."""
    return np.argsort(-scores, kind="stable")
