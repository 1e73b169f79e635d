"""Resources and signals of this process."""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import FrameType

Handler = Callable[[int, FrameType | None], None] | signal.Handlers

M_ARENA_MAX = -8  # parameter of mallopt, as glibc numbers them


def usable_cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0))


def usable_memory_bytes() -> int:
    """Return the memory that this process may use: the machine's, or less by a limit of its group or of its own."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    with contextlib.suppress(OSError, ValueError, IndexError):
        group = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()[-1].partition("::")[2]
        limits.append(int(Path(f"/sys/fs/cgroup{group}/memory.max").read_text(encoding="utf-8")))  # "max": no limit
    own_limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if own_limit != resource.RLIM_INFINITY:
        limits.append(own_limit)
    return min(limits)


def use_one_heap() -> None:
    """Have all threads allocate from one heap of the C library; call it before threads start.

    By itself, glibc gives up to eight threads a core a heap each, and `trim_heap` shortens none but the first. As
    cameras come and go, each heap in turn would keep the most that any of them needs at once.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
    if mallopt is not None and "MALLOC_ARENA_MAX" not in os.environ:
        mallopt(M_ARENA_MAX, 1)


def trim_heap() -> None:
    """Return freed memory that the C library keeps to the system; takes milliseconds."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has it
    if trim is not None:
        trim(ctypes.c_size_t(0))


@contextlib.contextmanager
def signal_handler(
    handler: Handler, numbers: Iterable[signal.Signals], *, after: Handler | None = None
) -> Iterator[None]:
    """Handle these signals for a while, then restore the handlers before, or leave them to another one."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, former in before.items():
            signal.signal(number, former if after is None else after)
