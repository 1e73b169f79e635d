"""Counters that add up, and percentiles that can be believed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import DROP_CAUSES, STAGES, Classes, DropCause, EngineTimes, Result
from edge.pipeline.meters import LatencyHistogram, ModelMeter, PeriodStats, StreamMeter

QUANTILES = {"p50": 50, "p90": 90, "p99": 99}
NOTHING_FOUND = Classes(np.empty(0, np.float32), np.empty(0, np.int64))


def result(wait_ms: float = 1.0, infer_ms: float = 3.0, until_found_ms: float = 0.0) -> Result:
    found_ns = int(until_found_ms * 1e6)
    return Result("door", "m", "e", 0, 0, 0, found_ns, (1, 1), NOTHING_FOUND, (), wait_ms, 2.0, infer_ms, 4.0, 1)


def nearest_rank(durations_ms: list[float], percent: int) -> float:
    """Return the order statistic, its rank worked out in whole numbers."""
    return float(np.sort(durations_ms)[-(-percent * len(durations_ms) // 100) - 1])


@given(st.lists(st.floats(-3, 5), min_size=1, max_size=300).map(lambda logs: [10**each for each in logs]))
def test_percentiles_are_within_2_percent_of_the_order_statistics(durations_ms: list[float]) -> None:
    check_percentiles(durations_ms)


@pytest.mark.parametrize("count", [1, 10, 99, 100, 101, 700, 1300, 100_000])
def test_percentiles_of_log_uniform_data(count: int) -> None:
    check_percentiles((10 ** np.random.default_rng(count).uniform(-3, 5, count)).tolist())


def check_percentiles(durations_ms: list[float]) -> None:
    histogram = LatencyHistogram()
    for duration_ms in durations_ms:
        histogram.add(duration_ms)
    told = histogram.drain()
    assert told is not None
    for name, percent in QUANTILES.items():
        assert told[name] == pytest.approx(nearest_rank(durations_ms, percent), rel=0.02)
    assert told["max"] == pytest.approx(max(durations_ms), rel=1e-3)
    assert told["p50"] <= told["p90"] <= told["p99"] <= told["max"]


def test_the_maximum_is_exact() -> None:
    histogram = LatencyHistogram()
    histogram.add(12.3456)
    histogram.add(4.5)
    assert histogram.drain() == {"p50": pytest.approx(4.5, rel=0.02), "p90": 12.3456, "p99": 12.3456, "max": 12.3456}


def test_durations_beyond_the_bins_are_counted_and_the_maximum_tells_them() -> None:
    histogram = LatencyHistogram()
    for duration_ms in (0.0, 1e-9, 5e6):
        histogram.add(duration_ms)
    told = histogram.drain()
    assert told is not None
    assert told["max"] == 5e6
    assert told["p50"] < 0.002


def test_a_period_without_durations_has_no_percentiles() -> None:
    assert LatencyHistogram().drain() is None


def test_each_period_starts_anew() -> None:
    histogram = LatencyHistogram()
    histogram.add(5.0)
    histogram.drain()
    assert histogram.drain() is None


EVENTS = st.lists(st.sampled_from(["capture", "result", *DROP_CAUSES]), max_size=100)


@given(EVENTS)
def test_each_frame_is_a_result_a_drop_or_in_flight_at_any_moment(events: list[str]) -> None:
    meter, in_flight = StreamMeter(), 0
    for event in events:
        if event == "capture":
            in_flight += 1
            meter.captured()
        elif in_flight:
            in_flight -= 1
            follow(meter, event)
        told = meter.counts()
        assert told["frames"] == told["results"] + sum(told["dropped"].values()) + told["in_flight"]
        assert told["in_flight"] == meter.in_flight == in_flight


def follow(meter: StreamMeter, event: Any) -> None:
    if event == "result":
        meter.resulted(result())
    else:
        meter.dropped(event)


def test_frames_are_numbered_from_0() -> None:
    meter = StreamMeter()
    assert [meter.captured() for _ in range(3)] == [0, 1, 2]


@pytest.mark.parametrize("cause", DROP_CAUSES)
def test_drops_are_told_by_cause(cause: DropCause) -> None:
    meter = StreamMeter()
    meter.captured()
    meter.dropped(cause)
    assert meter.drops() == {each: int(each == cause) for each in DROP_CAUSES}


def test_counts_go_on_and_rates_start_anew_with_each_period() -> None:
    meter = StreamMeter()
    for _ in range(10):
        meter.captured()
        meter.resulted(result())
    first, second = meter.report(2.0), meter.report(2.0)
    assert (first["results"], second["results"]) == (10, 10)
    assert (first["results_per_s"], second["results_per_s"]) == (5.0, 0.0)
    assert set(first["latency_ms"]) == set(STAGES)
    assert first["latency_ms"]["preprocess"]["max"] == 2.0
    assert second["latency_ms"]["preprocess"] is None


def test_publishing_is_measured_by_acknowledged_results_only() -> None:
    meter = StreamMeter()
    meter.captured()
    meter.resulted(result())
    assert meter.report(1.0)["latency_ms"]["total"] is None
    meter.acknowledged(1.5, 20.25)
    latency_ms = meter.report(1.0)["latency_ms"]
    assert (latency_ms["publish"]["max"], latency_ms["total"]["max"]) == (1.5, 20.25)


def test_a_model_is_as_busy_as_the_share_of_its_lanes_time_in_the_engine() -> None:
    meter = ModelMeter(lanes=2)
    meter.inferred(4, EngineTimes(compute_ms=600.0))
    meter.inferred(1, EngineTimes(compute_ms=100.0, h2d_ms=60.0, d2h_ms=40.0))
    told = meter.report(2.0, "ort-cpu/fp32/abc")
    assert (told["engine"], told["images_per_s"], told["batch_mean"]) == ("ort-cpu/fp32/abc", 2.5, 2.5)
    assert told["busy"] == 0.2


def test_an_idle_model_has_no_mean_batch() -> None:
    told = ModelMeter(lanes=1).report(1.0, "e")
    assert (told["images_per_s"], told["busy"], told["batch_mean"]) == (0.0, 0.0, None)


def test_a_model_is_never_more_than_fully_busy() -> None:
    meter = ModelMeter(lanes=1)
    meter.inferred(1, EngineTimes(compute_ms=5000.0))
    assert meter.report(1.0, "e")["busy"] == 1.0


def test_the_pace_of_a_period_counts_what_came_late() -> None:
    meter = StreamMeter(target_ms=20.0)
    for _ in range(3):
        meter.captured()
    meter.resulted(result(until_found_ms=10.0))
    meter.resulted(result(until_found_ms=30.0))
    meter.dropped("overrun")
    meter.report(1.0)
    assert meter.period == PeriodStats(3, 2, 2, 30.0)
    meter.report(1.0)
    assert meter.period == PeriodStats(0, 0, 0, None)
