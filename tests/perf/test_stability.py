from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.perf.bench.load_generator import Query, poisson
from edge.perf.bench.row import Block
from edge.perf.bench.sample_statistics import arrivals_spread, rates_per_s, student_t
from edge.perf.bench.stability import assess_stability, drift, spread
from edge.perf.bench.stretch import blocks_of
from tests.support.bench_samples import block, engine_run, recorded, steady

STEADY = [100.0, 101.0, 99.0, 100.5, 99.5, 100.0, 101.0, 99.0]


def test_steady_blocks_are_trusted() -> None:
    found = assess_stability(steady(STEADY))
    assert found.valid
    assert found.why is None
    assert found.spread == pytest.approx(np.std(STEADY, ddof=1) / np.mean(STEADY), rel=1e-9)


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ([100.0, 99.0, 101.0], "unstable: 3 blocks of samples, wanted at least 5; measure longer"),
        ([100.0], "unstable: 1 block of samples"),
        ([], "unstable: 0 blocks of samples"),
        ([100, 60, 140, 90, 110, 80, 120], "the blocks differ by 26% (standard deviation), wanted at most 10%; stop"),
        ([100, 92, 108, 95, 105], "known only within ±8.3%, wanted ±5%; measure 10 blocks"),
        ([100, 98, 96, 94, 92, 90, 88, 86], "the last blocks are 14% slower than the first, wanted at most 5%; let"),
        ([86, 88, 90, 92, 94, 96, 98, 100], "the last blocks are 16% faster than the first, wanted at most 5%; warm"),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(rates: list[float], told: str) -> None:
    found = assess_stability(steady(rates))
    assert not found.valid
    assert told in str(found.why)


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ({"is_throttled": True}, "invalid: the board throttled"),
        (
            {"temperature_start_c": 45.0, "temperature_end_c": 52.5},
            "invalid: the temperature rose from 45.0 to 52.5 °C",
        ),
    ],
)
def test_a_throttled_or_heating_board_makes_the_row_invalid(state: dict[str, Any], told: str) -> None:
    assert str(assess_stability(steady(STEADY), **state).why).startswith(told)


@pytest.mark.parametrize(
    "state",
    [
        {"is_throttled": False},
        {"temperature_start_c": 45.0, "temperature_end_c": 50.0},
        {"temperature_start_c": 60.0, "temperature_end_c": 45.0},
        {"temperature_end_c": 80.0},
    ],
)
def test_what_is_in_order_or_not_measured_makes_nothing_invalid(state: dict[str, Any]) -> None:
    assert assess_stability(steady(STEADY), **state).valid


def test_late_queries_are_told_but_not_a_few_of_many() -> None:
    late = [block([10.0] * 38 + [35.0] * 2) for _ in range(6)]
    assert "5.0% of the queries took more than 2 times the median" in str(assess_stability(late).why)
    few = [block([10.0] * 40) for _ in range(6)]
    few[3] = replace(few[3], latency_ms=(*[10.0] * 7, 35.0, *[10.0] * 32))
    assert assess_stability(few).valid


def test_server_is_judged_by_what_random_arrivals_do_not_explain() -> None:
    def arrived(rates: list[int], medians_ms: list[float]) -> list[Block]:
        return [Block((ms,) * rate, rate, 1.0) for rate, ms in zip(rates, medians_ms, strict=True)]

    rates = [50, 70, 45, 62, 39, 66, 50, 58]  # Poisson
    kept_up = arrived(rates, [10.0, 10.1, 9.9, 10.0, 10.1, 9.9, 10.0, 10.0])
    assert assess_stability(kept_up, scenario="server").valid
    assert not assess_stability(kept_up).valid
    piling_up = arrived(rates, [10.0, 10.5, 11.0, 11.5, 12.0, 12.5, 13.0, 13.5])
    assert "queries pile up: offer a lower rate" in str(assess_stability(piling_up, scenario="server").why)
    stalled = arrived([50, 70, 45, 6, 39, 66, 50, 58], [10.0] * 8)
    assert "beyond what random arrivals explain" in str(assess_stability(stalled, scenario="server").why)


@pytest.mark.parametrize("load", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("queries", [100, 400, 2000])
def test_short_runs_of_a_server_that_never_varies_are_trusted(load: float, queries: int) -> None:
    runs = [queue(load, 0.01, queries, seed) for seed in range(100)]
    assert sum(assess_stability(run, scenario="server").valid for run in runs) >= 85
    assert sum("differ" in str(assess_stability(run, scenario="server").why) for run in runs) <= 8


def test_server_that_hangs_once_is_not_trusted() -> None:
    runs = [queue(0.5, 0.01, 2000, seed, hang_s=10.0) for seed in range(20)]
    assert not any(assess_stability(run, scenario="server").valid for run in runs)


def test_spread_of_arrivals_is_that_of_a_poisson_process() -> None:
    random = np.random.default_rng(9)
    beyond = 0
    for _ in range(1000):
        blocks = [Block((1.0,), 50, float(each)) for each in random.gamma(50, 0.01, 10)]
        beyond += (spread(rates_per_s(blocks)) or 0) > arrivals_spread(blocks)
    assert 2 <= beyond <= 30  # 10 are expected


def queue(load: float, service_s: float, queries: int, seed: int, hang_s: float = 0.0) -> list[Block]:
    """Return the blocks of a server that takes as long for each query, but for one in the middle."""
    arrivals_s, free_s, found = list(islice(poisson(load / service_s, seed), queries)), 0.0, []
    for number, at_s in enumerate(arrivals_s):
        free_s = max(free_s, at_s) + service_s + (hang_s if number == queries // 2 else 0.0)
        found.append(Query(int(at_s * 1e9), int(free_s * 1e9), 1))
    return list(blocks_of(found, 0))


def test_drift_is_hardly_ever_found_where_there_is_none() -> None:
    random = np.random.default_rng(5)
    found = sum(drift(random.normal(100, 3, 8)) is not None for _ in range(1000))
    assert found <= 30  # 10 are expected


def test_recorded_runs_beside_other_work_are_not_trusted() -> None:
    runs = recorded("equal")
    judged = [assess_stability(run) for run in runs]
    assert sum(each.valid for each in judged) <= len(runs) / 4
    warming = judged[-1]  # the rest of the machine's work ended while it ran
    assert "faster than the first" in str(warming.why)


def test_synthetic_runs_of_a_quiet_engine_are_mostly_trusted() -> None:
    random = np.random.default_rng(3)
    assert sum(assess_stability(engine_run(random, noise=0.02)).valid for _ in range(100)) >= 90


@pytest.mark.parametrize(
    ("confidence", "degrees", "quantile"),
    [(0.95, 4, 2.776), (0.95, 7, 2.365), (0.95, 30, 2.042), (0.99, 3, 5.841), (0.99, 6, 3.707), (0.998, 8, 4.501)],
)
def test_students_t_is_as_in_the_tables(confidence: float, degrees: int, quantile: float) -> None:
    assert student_t(confidence, degrees) == pytest.approx(quantile, rel=0.02)


@settings(deadline=None)
@given(st.lists(st.floats(0.1, 1e4), min_size=0, max_size=30), st.sampled_from(["single-stream", "offline", "server"]))
def test_any_samples_are_judged_and_a_doubt_always_has_its_sentence(rates: list[float], scenario: str) -> None:
    found = assess_stability(steady(rates, queries=3), scenario=scenario)
    assert found.valid == (found.why is None)
    assert (found.spread is None) == (len(rates) < 2)
    assert all(each.startswith(("unstable: ", "invalid: ")) and "; " in each for each in found.problems)


def test_empty_blocks_are_no_samples() -> None:
    empty = [Block((), 0, 0.0)] * 6
    assert "0 blocks" in str(assess_stability(empty).why)
    assert spread(rates_per_s(empty)) is None
