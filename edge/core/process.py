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

# Parameters of mallopt, as glibc numbers them, by the variables of the environment that set them, too.
MALLOC_PARAMETERS = {"MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_MMAP_THRESHOLD_": -3, "MALLOC_ARENA_MAX": -8}
# What the C library may keep at the end of a heap, and the size from which a block gets pages of its own instead.
KEPT_BYTES = 1 << 20


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


def bound_heaps() -> None:
    """Have the C library keep little of what is freed, in one heap a core; call it before threads start.

    By itself, glibc gives up to eight threads a core a heap each, and keeps up to 64 MB at the end of each once a large
    block was freed there. As cameras come and go, each heap in turn grows to the most that any of them needs at once.
    What the environment sets stays.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # not every C library has it
    if mallopt is not None:
        for variable, parameter in MALLOC_PARAMETERS.items():
            if variable not in os.environ:
                mallopt(parameter, usable_cores() if variable == "MALLOC_ARENA_MAX" else KEPT_BYTES)


def trim_heap() -> None:
    """Return freed memory between used blocks, which the C library keeps, to the system; takes milliseconds."""
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
