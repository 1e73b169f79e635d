"""Exponential back-off."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.backoff import Backoff, bound_after


def test_bounds_double_up_to_the_longest_and_begin_anew() -> None:
    backoff = Backoff(0.5, 5.0, uniform=lambda _, high: high)
    assert [backoff.next_s() for _ in range(6)] == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]
    assert backoff.failures == 6
    backoff.reset()
    assert backoff.failures == 0
    assert backoff.next_s() == 0.5


def test_a_pause_lies_between_half_its_bound_and_its_bound() -> None:
    asked: list[tuple[float, float]] = []

    def middle(low: float, high: float) -> float:
        asked.append((low, high))
        return (low + high) / 2

    backoff = Backoff(1.0, 60.0, uniform=middle)
    assert [backoff.next_s() for _ in range(3)] == [0.75, 1.5, 3.0]
    assert asked == [(0.5, 1.0), (1.0, 2.0), (2.0, 4.0)]


def test_devices_that_fail_together_do_not_return_together() -> None:
    assert len({Backoff(1.0, 60.0).next_s() for _ in range(20)}) > 15


@given(st.integers(0, 10_000), st.floats(0.01, 60.0))
def test_no_number_of_failures_goes_beyond_the_longest(doublings: int, first_s: float) -> None:
    assert first_s <= bound_after(doublings, first_s, 300.0) <= 300.0
    assert bound_after(doublings, first_s, 300.0) <= bound_after(doublings + 1, first_s, 300.0)
    assert bound_after(100, first_s, 300.0) == pytest.approx(300.0)
