"""Times of a file's frames: right ones are kept, and where they are missing or jump the rate takes their place."""

from __future__ import annotations

import pytest

from edge.capture.media_clock import MediaClock

GAP_S = 10.0


def check(rate: float, reported_s: list[float], right_s: list[float], replaced: int) -> None:
    clock = MediaClock(rate, GAP_S)
    assert [clock.at(time_s) for time_s in reported_s] == pytest.approx(right_s)
    assert clock.replaced == replaced


def test_times_that_go_forward_are_kept_whatever_the_rate() -> None:
    check(25, [0, 0.04, 0.1, 5.0, 5.001], [0, 0.04, 0.1, 5.0, 5.001], 0)
    check(0, [0.08, 0.1], [0.08, 0.1], 0)


def test_missing_times_are_steps_of_the_rate() -> None:
    check(20, [0, 0, 0, 0], [0, 0.05, 0.1, 0.15], 3)


def test_a_jump_back_is_one_step() -> None:
    check(10, [0, 0.1, 0.2, 0, 0.1], [0, 0.1, 0.2, 0.3, 0.4], 1)


@pytest.mark.parametrize("jump_s", [3600, 3e7, -3600])
def test_a_jump_ahead_is_one_step(jump_s: float) -> None:
    check(10, [0, 0.1, jump_s, jump_s + 0.1], [0, 0.1, 0.2, 0.3], 1)


def test_a_file_that_begins_an_hour_late_begins_at_once() -> None:
    check(10, [3600, 3600.1], [0, 0.1], 1)


def test_a_slow_file_is_no_jump() -> None:
    check(0.02, [0, 50, 100], [0, 50, 100], 0)


@pytest.mark.parametrize("rate", [0, -1, 1e6, float("nan")])
def test_a_rate_that_cannot_be_is_a_usual_one(rate: float) -> None:
    check(rate, [0, 0], [0, 0.04], 1)


def test_what_was_replaced_is_said_with_its_number() -> None:
    clock = MediaClock(20, GAP_S)
    clock.at(0)
    assert clock.remark() is None
    clock.at(0)
    told = "was missing or jumped, and was replaced by a step of the rate of 20 frames per second"
    assert clock.remark() == f"the time of 1 frame {told}"
    clock.at(0)
    assert clock.remark() == f"the time of 2 frames {told}"
