"""A machine without a GPU."""

from __future__ import annotations

from edge.core.errors import EngineError
from edge.inference.backends.cuda import Gpu

NO_GPU = "no GPU here"


def absent_gpu() -> Gpu:
    raise EngineError(NO_GPU)
