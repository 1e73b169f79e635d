"""Kernels that were compiled for this machine, as libraries that run their threads one after another."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np

_ANYWHERE = ((0, 0), (2**64 - 1, 0))  # the first addresses that may be read, and those after the last


def load_letterbox(library: Path) -> Callable[..., None]:
    """Return `letterbox` out of the library that tests/kernels_host makes of it."""
    launch = ctypes.CDLL(str(library)).launch
    launch.restype = ctypes.c_longlong
    one_at_a_time = threading.Lock()  # its threads' places are global variables

    def letterbox(grid: tuple[int, ...], block: tuple[int, ...], pictures: int, target: int) -> None:
        allowed = np.array([_ANYWHERE] * grid[2], np.uint64)
        sizes = [np.array(each, np.uint32) for each in (grid, block)]
        addresses = (pictures, target, allowed.ctypes.data, *(size.ctypes.data for size in sizes))
        with one_at_a_time:
            launch(*(ctypes.c_void_p(each) for each in addresses))

    return letterbox
