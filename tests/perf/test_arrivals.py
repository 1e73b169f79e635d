from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.perf.bench.arrivals import poisson

COUNT = 4000
# The distance that Kolmogorov and Smirnov's statistic exceeds once in a thousand times (Smirnov 1948), times √n.
RARE = 1.95


def _distance(samples: Sequence[float], distribution: Callable[[float], float]) -> float:
    """Return Kolmogorov and Smirnov's statistic times √n."""
    expected = [distribution(each) for each in sorted(samples)]
    n = len(expected)
    off = max(max((place + 1) / n - each, each - place / n) for place, each in enumerate(expected))
    return off * math.sqrt(n)


def _gaps(times_s: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise([0.0, *times_s])]


@pytest.mark.parametrize("rate_per_s", [0.2, 30.0, 5000.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_are_exponential_and_arrivals_uniform(rate_per_s: float, seed: int) -> None:
    times_s = list(islice(poisson(rate_per_s, seed), COUNT))
    assert _distance(_gaps(times_s), lambda gap_s: 1 - math.exp(-rate_per_s * gap_s)) < RARE
    # Given their number, the arrivals of a Poisson process lie anywhere with the same chance.
    assert _distance(times_s[:-1], lambda at_s: at_s / times_s[-1]) < RARE


def test_gaps_do_not_hang_on_the_ones_before() -> None:
    gaps = _gaps(list(islice(poisson(100.0, 7), COUNT)))
    mean = sum(gaps) / COUNT
    together = sum((a - mean) * (b - mean) for a, b in pairwise(gaps)) / sum((a - mean) ** 2 for a in gaps)
    assert abs(together) < 4 / math.sqrt(COUNT)


def test_the_test_of_gaps_sees_arrivals_that_are_none_of_a_poisson_process() -> None:
    even = [(place + 1) / 30.0 for place in range(COUNT)]
    assert _distance(_gaps(even), lambda gap_s: 1 - math.exp(-30.0 * gap_s)) > RARE
    faster = list(islice(poisson(33.0, 1), COUNT))
    assert _distance(_gaps(faster), lambda gap_s: 1 - math.exp(-30.0 * gap_s)) > RARE


@settings(deadline=None)
@given(st.floats(1e-3, 1e6), st.integers(0, 2**32))
def test_arrivals_only_ever_come_later_and_a_seed_gives_the_same(rate_per_s: float, seed: int) -> None:
    times_s = list(islice(poisson(rate_per_s, seed), 50))
    assert times_s == sorted(times_s)
    assert times_s[0] >= 0
    assert times_s == list(islice(poisson(rate_per_s, seed), 50))
    assert times_s != list(islice(poisson(rate_per_s, seed + 1), 50))


@pytest.mark.parametrize("rate_per_s", [0.0, -1.0, math.inf, math.nan])
def test_a_rate_that_is_none_is_refused_at_the_call(rate_per_s: float) -> None:
    with pytest.raises(ValueError, match="wanted a finite number above 0"):
        poisson(rate_per_s, 1)
