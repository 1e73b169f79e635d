"""Energy from samples, compared with sums worked out by hand and with properties of any integral."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.sensors.energy import Energy, Sample, coverage, energy, intersection, segments, sum_of

S = 1_000_000_000
BOUND_NS, HOLD_NS = S // 2, S // 10

moments = st.lists(st.integers(0, 100), min_size=2, max_size=20, unique=True).map(sorted)


def even(start_s: float, end_s: float, watts: float, step_s: float = 0.25) -> list[Sample]:
    count = round((end_s - start_s) / step_s)
    return [(int((start_s + number * step_s) * S), watts) for number in range(count + 1)]


def measured(samples: list[Sample], start_s: float, end_s: float) -> Energy:
    start_ns, end_ns = int(start_s * S), int(end_s * S)
    return sum_of([segments(samples, start_ns, end_ns, BOUND_NS, HOLD_NS)], end_ns - start_ns)


def test_constant_power_is_power_times_time() -> None:
    result = measured(even(0, 10, 7.5), 0, 10)
    assert (result.energy_j, result.power_w, result.gap_s) == (75.0, 7.5, 0.0)


def test_a_ramp_is_exact_between_uneven_time_stamps_and_uneven_bounds() -> None:
    samples: list[Sample] = [(int(at * S), 2 * at) for at in (0, 0.1, 0.4, 0.5, 0.9, 1.3, 1.7, 2.0)]
    result = measured(samples, 0.25, 1.6)
    assert result.energy_j == pytest.approx(1.6**2 - 0.25**2)


def test_one_missing_reading_costs_nothing() -> None:
    result = measured([*even(0, 1, 8), *even(1.5, 2.5, 8)], 0, 2.5)
    assert (result.power_w, result.gap_s) == (8.0, 0.0)
    assert result.energy_j == pytest.approx(20.0)


def test_a_gap_is_neither_bridged_nor_a_zero() -> None:
    result = measured([*even(0, 1, 5), *even(4, 5, 15)], 0, 5)
    assert result.gap_s == pytest.approx(3.0)
    assert result.energy_j == pytest.approx(20.0)
    assert result.power_w == pytest.approx(10.0)


def test_the_newest_reading_holds_for_a_moment_and_no_longer() -> None:
    assert measured(even(0, 1, 5), 0, 1.1).gap_s == pytest.approx(0.0)
    assert measured(even(0, 1, 5), 0, 1.2).gap_s == pytest.approx(0.2)


def test_nothing_measured_is_null_and_all_gap() -> None:
    result = measured([], 0, 3)
    assert (result.energy_j, result.power_w, result.gap_s) == (None, None, 3.0)


def test_two_samples_of_one_moment_are_a_jump() -> None:
    samples: list[Sample] = [(0, 4.0), (int(0.4 * S), 4.0), (int(0.4 * S), 10.0), (int(0.8 * S), 10.0)]
    assert measured(samples, 0, 0.8).energy_j == pytest.approx(0.4 * 4 + 0.4 * 10)


def test_a_sum_counts_only_the_moments_in_which_all_rails_were_measured() -> None:
    first = segments([*even(0, 2, 3), *even(4, 6, 3)], 0, 6 * S, BOUND_NS, HOLD_NS)
    second = segments(even(1, 5, 2), 0, 6 * S, BOUND_NS, HOLD_NS)
    result = sum_of([first, second], 6 * S)
    assert result.energy_j == pytest.approx(2 * 5)
    assert result.power_w == pytest.approx(5.0)
    assert result.gap_s == pytest.approx(4.0)


@given(moments, st.integers(1, 99))
def test_a_period_cut_in_two_has_the_same_energy(times: list[int], cut: int) -> None:
    samples: list[Sample] = [(at * S // 10, float(at % 7)) for at in times]
    whole = segments(samples, 0, 10 * S, BOUND_NS, 0)
    parts = [
        segments(samples, 0, cut * S // 10, BOUND_NS, 0),
        segments(samples, cut * S // 10, 10 * S, BOUND_NS, 0),
    ]
    joules = sum(sum_of([part], 0).joules for part in parts)
    assert joules == pytest.approx(sum_of([whole], 0).joules, abs=1e-9)


@given(moments, moments)
def test_an_intersection_is_what_is_in_both(first: list[int], second: list[int]) -> None:
    def intervals(times: list[int]) -> list[tuple[int, int]]:
        return [(times[i], times[i + 1]) for i in range(0, len(times) - 1, 2)]

    one, other = intervals(first), intervals(second)
    both = intersection(one, other)
    for moment in range(101):
        inside = [any(a <= moment < b for a, b in each) for each in (one, other, both)]
        assert inside[2] == (inside[0] and inside[1])


@given(moments, st.lists(st.floats(0, 50), min_size=20, max_size=20))
def test_energy_lies_between_the_lowest_and_the_highest_power(times: list[int], watts: list[float]) -> None:
    samples: list[Sample] = [(at * S // 100, power) for at, power in zip(times, watts, strict=False)]
    known = segments(samples, 0, S, 10 * S, 0)
    joules = energy(known, coverage(known))
    seconds = (samples[-1][0] - samples[0][0]) / S
    used = watts[: len(samples)]
    assert min(used) * seconds - 1e-6 <= joules <= max(used) * seconds + 1e-6
