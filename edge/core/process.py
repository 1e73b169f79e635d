"""This process: the cores that it may use, and signals heard by one handler for a while."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


@contextlib.contextmanager
def heard_by(handler: Handler, numbers: Iterable[signal.Signals]) -> Iterator[None]:
    """Let a handler hear these signals, and put back those that were there before."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former)
