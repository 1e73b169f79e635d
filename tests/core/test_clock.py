"""The kinds of time."""

from __future__ import annotations

import ctypes
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core import clock
from edge.core.clock import clock_synchronised, elapsed_ms, now_ns, utc_text, wall_ns

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
YEAR_9999_NS = 253_402_300_799 * 10**9


@pytest.mark.parametrize(
    ("at_ns", "text"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1_795_242_001_123_456_789, "2026-11-21T06:20:01.123456Z"),
        (999_999_999, "1970-01-01T00:00:00.999999Z"),
        (1_709_164_800_000_000_000, "2024-02-29T00:00:00.000000Z"),
    ],
)
def test_wall_time_is_written_in_utc_with_microseconds(at_ns: int, text: str) -> None:
    assert utc_text(at_ns) == text


@given(st.integers(0, YEAR_9999_NS))
def test_any_wall_time_reads_back_to_the_microsecond(at_ns: int) -> None:
    read = datetime.strptime(utc_text(at_ns), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    assert (read - EPOCH) // timedelta(microseconds=1) == at_ns // 1000


@given(st.integers(0, YEAR_9999_NS), st.integers(0, YEAR_9999_NS))
def test_texts_are_in_the_order_of_their_times(one_ns: int, other_ns: int) -> None:
    earlier, later = sorted([one_ns, other_ns])
    assert utc_text(earlier) <= utc_text(later)


def test_the_time_zone_of_the_machine_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        patched.setenv("TZ", "XYZ-14")
        time.tzset()
        assert time.localtime(0).tm_hour == 14
        assert utc_text(0) == "1970-01-01T00:00:00.000000Z"
    time.tzset()


def test_elapsed_milliseconds() -> None:
    assert elapsed_ms(1_000_000, 3_500_000) == 2.5


def test_the_monotonic_clock_never_goes_back() -> None:
    moments_ns = [now_ns() for _ in range(1000)]
    assert moments_ns == sorted(moments_ns)


def test_wall_time_is_of_this_age() -> None:
    assert utc_text(wall_ns()) > "2025"


def test_the_kernel_says_whether_its_clock_is_synchronised_or_nothing() -> None:
    assert clock_synchronised() in (True, False, None)


class Kernel:
    """A C library whose kernel answers with what it was made with: a result and a status."""

    def __init__(self, result: int, status: int) -> None:
        self.asked = 0
        self._answer = result, status

    def adjtimex(self, reference: Any) -> int:
        self.asked += 1
        result, reference._obj.status = self._answer
        return result


@pytest.mark.parametrize(
    ("result", "status", "told"), [(0, 0x2001, True), (5, 0x0041, False), (0, 0x0040, False), (-1, 0, None)]
)
def test_the_kernel_is_asked_once_a_second_at_most(
    monkeypatch: pytest.MonkeyPatch, result: int, status: int, *, told: bool | None
) -> None:
    kernel, moment_ns = Kernel(result, status), 10**18
    monkeypatch.setattr(ctypes, "CDLL", lambda *_, **__: kernel)
    monkeypatch.setattr(clock, "now_ns", lambda: moment_ns)
    for _ in range(30):
        assert clock_synchronised() is told
        moment_ns += 10**8
    assert kernel.asked == 3
    clock._synchronised_in.cache_clear()
