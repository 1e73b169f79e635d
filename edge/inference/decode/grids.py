"""Grids of cells in which detectors place their boxes."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

STRIDES_PX = (8, 16, 32)


@lru_cache(maxsize=16)
def cells_of(
    input_width: int, input_height: int, strides_px: tuple[int, ...] = STRIDES_PX
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return each output row's cell (N×2: column, row of its grid) and stride in pixels (N×1)."""
    cells, strides = [], []
    for stride_px in strides_px:
        rows, columns = np.indices((input_height // stride_px, input_width // stride_px), np.float32)
        cells.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides.append(np.full((rows.size, 1), stride_px, np.float32))
    return np.concatenate(cells), np.concatenate(strides)
