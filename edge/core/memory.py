"""Memory that nobody uses any more goes back to the system."""

from __future__ import annotations

import ctypes


def give_memory_back() -> None:
    """Return what was freed but is kept for later, by the C library; takes milliseconds.

    Each camera's thread gets a heap of its own there, and pictures that were freed with their stream would stay in it.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has it
    if trim is not None:
        trim(ctypes.c_size_t(0))
