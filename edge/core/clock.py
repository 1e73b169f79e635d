"""Clocks, and the naming of times.

`*_ns`     monotonic nanoseconds: for order and durations
`*_at_ns`  wall time, nanoseconds since the epoch (UTC): for people
`*_ms`     the difference of two `*_ns`
"""

import ctypes
import time
from datetime import datetime, timezone
from functools import lru_cache

from edge.core.time_service import TimeService

now_ns = time.monotonic_ns
wall_ns = time.time_ns

_STA_UNSYNC = 0x0040  # <sys/timex.h>: the kernel's clock is not disciplined by anything


def elapsed_ms(start_ns: int, end_ns: int) -> float:
    """Return the time between two monotonic instants in milliseconds."""
    return (end_ns - start_ns) / 1e6


def utc_text(at_ns: int) -> str:
    """Return wall time as ISO 8601 in UTC with microseconds, `2026-11-21T06:20:01.123456Z`."""
    seconds, rest_ns = divmod(at_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, timezone.utc)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{rest_ns // 1000:06d}Z"


class _Timex(ctypes.Structure):
    # `struct timex` up to `status`, then room for the rest of it (208 bytes on 64-bit Linux).
    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_byte * 256),
    )


def clock_synchronised() -> bool | None:
    """Return whether the kernel considers the system clock synchronised; None if it cannot be asked.

    The kernel is asked at most once a second, so this may be called for each message.
    """
    return _synchronised_in(now_ns() // 1_000_000_000)


_time_service = TimeService()


@lru_cache(maxsize=1)
def _synchronised_in(_second: int) -> bool | None:
    """Ask the kernel (adjtimex(2)); with no modes set, that needs no privilege."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        timex = _Timex()
        if libc.adjtimex(ctypes.byref(timex)) < 0:  # the service's sandbox forbids all calls that could set the clock
            return _time_service.synchronised()
    except (OSError, AttributeError):
        return None
    return not timex.status & _STA_UNSYNC
