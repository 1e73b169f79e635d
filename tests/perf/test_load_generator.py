"""The load generator, on systems whose speed is known."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import count, islice, pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.clock import now_ns
from edge.core.errors import EdgeError, EngineError
from edge.perf.bench.load_generator import QUERY_IMAGES, ClosedLoop, Length, Query, Scenario, poisson, serve
from tests.support.benched import Known

ARRIVALS = 4000
# The distance that Kolmogorov and Smirnov's statistic exceeds once in a thousand times (Smirnov 1948), times √n.
RARE = 1.95


def closed(system: Known, scenario: Scenario, length: Length) -> tuple[list[Query], float]:
    """Run a closed loop; return its queries, and how many seconds they took."""
    taken: list[Query] = []
    start_ns = now_ns()
    ClosedLoop(system, scenario).run(length, taken, start_ns)
    return taken, (taken[-1].end_ns - start_ns) / 1e9


@pytest.mark.parametrize("batch", [1, 4])
def test_rate_times_mean_latency_is_the_batch_where_one_query_comes_at_a_time(batch: int) -> None:
    with Known(0.01, batch=batch) as system:
        taken, seconds = closed(system, "single-stream", Length(0.5))
    mean_s = statistics.fmean(query.latency_ms for query in taken) / 1e3
    images_per_s = sum(query.images for query in taken) / seconds
    assert images_per_s * mean_s / batch == pytest.approx(1, rel=0.02)
    assert set(system.sizes) == {batch}
    assert system.most_in_work == 1


@pytest.mark.parametrize(("batch", "images"), [(1, QUERY_IMAGES), (3, 9), (8, 8), (20, 20)])
def test_query_of_multi_stream_is_of_whole_batches(batch: int, images: int) -> None:
    with Known(0.001, batch=batch) as system:
        taken, _ = closed(system, "multi-stream", Length(0.0))
    assert {query.images for query in taken} == {images}
    assert system.most_in_work == 1


def test_offline_keeps_a_batch_waiting_for_each_lane() -> None:
    with Known(0.02, batch=2, lanes=2) as system:
        _, seconds = closed(system, "offline", Length(0.0, images=80))
    assert system.most_in_work == 4
    assert seconds < 40 * 0.02, "one lane alone would need as long"


def test_run_lasts_until_its_time_and_its_least_queries_are_over() -> None:
    with Known(0.01) as system:
        taken, seconds = closed(system, "single-stream", Length(0.3))
        assert seconds >= 0.3
        taken, _ = closed(system, "single-stream", Length(0.0, least_queries=7))
        assert len(taken) == 7
        taken, _ = closed(system, "single-stream", Length(100.0, images=11))
        assert len(taken) == 11


def test_hopeless_run_need_not_have_more_queries_than_any() -> None:
    taken: list[Query] = []
    with Known(0.005) as system:
        loop = ClosedLoop(system, "single-stream")
        loop.run(Length(0.0, least_queries=100), taken, now_ns(), lambda _query: True)
    assert len(taken) == 5


def test_queries_of_the_run_before_are_not_counted_again() -> None:
    with Known(0.005, lanes=2) as system:
        loop = ClosedLoop(system, "offline")
        loop.run(Length(0.1), [], now_ns())
        time.sleep(0.1)  # all that is in work ends meanwhile
        taken: list[Query] = []
        start_ns = now_ns()
        loop.run(Length(0.1), taken, start_ns)
        loop.drain()
    assert all(query.end_ns >= start_ns for query in taken)


def test_latency_counts_from_the_intended_arrival_while_the_engine_stalls() -> None:
    """A load generator that waited for the engine would see one slow query; the clients would have seen fifty."""
    stall_s, rate_per_s = 0.5, 100.0
    taken: list[Query] = []
    with Known(0.001, stall=(20, stall_s)) as system:
        arrivals_s = (number / rate_per_s for number in count())
        serve(system, arrivals_s, Length(0.0, images=200), taken, now_ns(), lambda _query: False)
    late = [query for query in taken if query.latency_ms > 50]
    assert len(taken) == 200
    assert len(late) >= 0.8 * (stall_s - 0.05) * rate_per_s
    assert max(query.latency_ms for query in taken) >= stall_s * 1e3
    dues_s = [query.due_ns / 1e9 for query in taken]
    assert dues_s[-1] - dues_s[0] == pytest.approx(199 / rate_per_s, abs=1e-3), "the load went on as intended"


def test_generator_that_is_held_up_itself_still_counts_from_the_intended_arrival() -> None:
    class Inline(Known):
        """Does not come back before a query has ended."""

        def issue(self, images: int, finish: object) -> None:
            assert callable(finish)
            time.sleep(0.3 if not self.sizes else 0.001)
            self.sizes.append(images)
            finish()

    taken: list[Query] = []
    serve(Inline(0), (n / 100 for n in count()), Length(0.0, images=40), taken, now_ns(), lambda _query: False)
    assert len([query for query in taken if query.latency_ms > 50]) >= 20


def test_server_run_is_cut_short_where_it_is_hopeless_and_what_was_issued_is_waited_for() -> None:
    taken: list[Query] = []
    with Known(0.01) as system:
        serve(system, poisson(500, 1), Length(60.0), taken, now_ns(), lambda query: query.latency_ms > 100)
    assert len(taken) == len(system.sizes) < 500 * 30


def test_failure_of_the_system_is_raised_and_not_waited_out() -> None:
    with Known(60.0) as system:
        system.failure = EngineError("the engine is gone")
        with pytest.raises(EngineError, match="the engine is gone"):
            closed(system, "single-stream", Length(0.0))


def test_query_that_never_ends_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.perf.bench.load_generator.LONGEST_QUERY_S", 0.2)
    with Known(60.0) as system:
        with pytest.raises(EdgeError, match=r"no query ended within 0\.2 s"):
            closed(system, "single-stream", Length(0.0))
        with pytest.raises(EdgeError, match=r"no query ended within 0\.2 s"):
            serve(system, [0.0], Length(1.0), [], now_ns(), lambda _query: False)


def ks_distance(samples: Sequence[float], distribution: Callable[[float], float]) -> float:
    """Return Kolmogorov and Smirnov's statistic times √n."""
    expected = [distribution(each) for each in sorted(samples)]
    n = len(expected)
    off = max(max((place + 1) / n - each, each - place / n) for place, each in enumerate(expected))
    return off * math.sqrt(n)


def gaps_of(times_s: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise([0.0, *times_s])]


@pytest.mark.parametrize("rate_per_s", [0.2, 30.0, 5000.0])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_gaps_are_exponential_and_arrivals_uniform(rate_per_s: float, seed: int) -> None:
    times_s = list(islice(poisson(rate_per_s, seed), ARRIVALS))
    assert ks_distance(gaps_of(times_s), lambda gap_s: 1 - math.exp(-rate_per_s * gap_s)) < RARE
    # Given their number, the arrivals of a Poisson process lie anywhere with the same chance.
    assert ks_distance(times_s[:-1], lambda at_s: at_s / times_s[-1]) < RARE


def test_gaps_do_not_hang_on_the_ones_before() -> None:
    gaps = gaps_of(list(islice(poisson(100.0, 7), ARRIVALS)))
    mean = sum(gaps) / ARRIVALS
    together = sum((a - mean) * (b - mean) for a, b in pairwise(gaps)) / sum((a - mean) ** 2 for a in gaps)
    assert abs(together) < 4 / math.sqrt(ARRIVALS)


def test_the_test_of_gaps_sees_arrivals_that_are_none_of_a_poisson_process() -> None:
    even = [(place + 1) / 30.0 for place in range(ARRIVALS)]
    assert ks_distance(gaps_of(even), lambda gap_s: 1 - math.exp(-30.0 * gap_s)) > RARE
    faster = list(islice(poisson(33.0, 1), ARRIVALS))
    assert ks_distance(gaps_of(faster), lambda gap_s: 1 - math.exp(-30.0 * gap_s)) > RARE


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
