"""One setting measured: power and energy on an emulated board, blocks, targets, Ctrl-C."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.sensors.sensors import Sensors
from edge.perf.bench.load_generator import Length, Query, poisson
from edge.perf.bench.measure import Effort, InterruptedRunError, LatencyTarget, Measurement, RoundRobin
from edge.perf.bench.row import BenchRow
from edge.perf.bench.stretch import blocks_of, row_of
from tests.support.benched import Known, setting
from tests.support.emulated_boards import boards, tree

EFFORT = Effort(Length(1.0), 0.05, is_thorough=False, target_p99_ms=None, seed=1)


def with_target(target_ms: float, seconds: float = 1.0) -> Effort:
    return Effort(Length(seconds), 0.05, is_thorough=False, target_p99_ms=target_ms, seed=1)


@pytest.fixture
def no_sensors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sensors:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    return Sensors()


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = boards.build("tx2", tmp_path / "board")
    monkeypatch.setenv("EDGE_ROOT", str(root))
    return root


@pytest.fixture
def sensors(board: Path) -> Iterator[Sensors]:
    found = Sensors()
    found.start()
    yield found
    found.stop()


def set_watts(root: Path, rail: str, watts: float) -> None:
    """Let a rail of a TX2 show so many watts, as its driver does in mW."""
    (power,) = tree.value_files(root, rail)
    tree.write(power, round(watts * 1e3))


def measure(sensors: Sensors, *, seconds: float = 0.01, batch: int = 1) -> BenchRow:
    with Known(seconds, batch=batch) as system:
        return Measurement(system, sensors, setting(batch=batch), EFFORT).measure()


def test_constant_power_gives_the_watts_and_joules_that_are_known(board: Path, sensors: Sensors) -> None:
    set_watts(board, "VDD_IN", 8.0)
    set_watts(board, "VDD_SYS_GPU", 2.5)
    row = measure(sensors, batch=4)
    assert row.images_per_s is not None
    assert row.power_w == pytest.approx(8.0, rel=0.02)
    assert row.gpu_power_w == pytest.approx(2.5, rel=0.02)
    assert row.images_per_s_per_w == pytest.approx(row.images_per_s / 8.0, rel=0.02)
    assert row.gpu_images_per_s_per_w == pytest.approx(row.images_per_s / 2.5, rel=0.02)
    assert row.energy_j_per_image == pytest.approx(8.0 / row.images_per_s, rel=0.02)
    assert row.rails_w["VDD_SYS_GPU"] == row.gpu_power_w


def test_watts_are_null_and_never_0_without_a_sensor(no_sensors: Sensors) -> None:
    row = measure(no_sensors)
    nulls = (row.power_w, row.images_per_s_per_w, row.gpu_power_w, row.gpu_images_per_s_per_w, row.energy_j_per_image)
    assert nulls == (None,) * 5
    assert (row.throttled, row.temperature_start_c, row.gpu_load) == (None, None, None)
    assert row.images_per_s is not None


def test_rate_times_mean_latency_is_1(no_sensors: Sensors) -> None:
    row = measure(no_sensors, seconds=0.004)
    latencies_ms = [each for block in row.samples for each in block.latency_ms]
    assert (row.images_per_s or 0) * float(np.mean(latencies_ms)) / 1e3 == pytest.approx(1, rel=0.02)
    assert len(row.samples) >= 5
    assert sum(block.images for block in row.samples) == len(latencies_ms)


def test_row_of_a_board_that_heats_up_is_invalid_and_says_why(board: Path, sensors: Sensors) -> None:
    zones = list(board.glob("sys/devices/virtual/thermal/thermal_zone*/temp"))
    assert zones
    with Known(0.01) as system:
        measurement = Measurement(system, sensors, setting(), EFFORT)
        measurement.measure()
        (run,) = measurement.stretches
    assert run.start is not None
    assert run.end is not None
    hot = {name: None if each is None else each + 8 for name, each in run.end.conditions.temperature_c.items()}
    run.end.conditions.temperature_c.clear()
    run.end.conditions.temperature_c.update(hot)
    row = row_of(setting(), [run])
    assert not row.valid
    assert row.why


def test_few_slow_queries_are_blocks_of_their_own(no_sensors: Sensors) -> None:
    row = measure(no_sensors, seconds=0.25)
    assert 5 <= len(row.samples) <= 10
    assert all(len(block.latency_ms) == 1 for block in row.samples)
    assert (row.latency_p90_ms, row.latency_p99_ms) == (None, None)


@given(st.lists(st.integers(1, 10**9), min_size=1, max_size=200), st.integers(1, 8))
def test_blocks_hold_every_query_once_and_last_as_long_as_the_run(gaps_ns: list[int], images: int) -> None:
    ends_ns = np.cumsum(gaps_ns).tolist()
    queries = [Query(end - gap, end, images) for gap, end in zip(gaps_ns, ends_ns, strict=True)]
    blocks = blocks_of(queries[::-1], 0)
    assert sum(block.images for block in blocks) == images * len(queries)
    assert sum(block.seconds for block in blocks) == pytest.approx(ends_ns[-1] / 1e9)
    assert len(blocks) >= min(5, len(queries))
    assert [each for block in blocks for each in block.latency_ms] == [round(gap / 1e6, 4) for gap in gaps_ns]


@given(st.lists(st.floats(0.1, 10), min_size=100, max_size=400), st.floats(1, 9))
def test_target_is_given_up_only_where_its_percentile_is_missed(latencies_ms: list[float], target_ms: float) -> None:
    target = LatencyTarget(target_ms, len(latencies_ms))
    queries = [Query(0, int(each * 1e6), 1) for each in latencies_ms]
    if any(target.is_missed_by(query) for query in queries):
        assert np.percentile([query.latency_ms for query in queries], 99) > target_ms


def queue_of_one(
    _system: object,
    arrivals_s: Iterable[float],
    length: Length,
    finished: list[Query],
    start_ns: int,
    _is_hopeless: Callable[[Query], bool],
) -> None:
    """Serve each query in 10 ms, one at a time and in order, in no time at all."""
    free_ns = start_ns
    for number, at_s in enumerate(arrivals_s):
        if length.is_reached(number, number, int(at_s * 1e9)):
            return
        due_ns = start_ns + int(at_s * 1e9)
        free_ns = max(due_ns, free_ns) + 10_000_000
        finished.append(Query(due_ns, free_ns, 1))


def test_highest_rate_within_the_target_is_found(no_sensors: Sensors, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 100 a second nothing is left, and at a few a second nearly all are done in 10 ms."""
    monkeypatch.setattr("edge.perf.bench.measure.serve", queue_of_one)
    monkeypatch.setattr(Measurement, "_capacity_per_s", lambda _self, _loop: 100.0)
    effort = with_target(80.0)
    with Known(0.010) as system:
        row = Measurement(system, no_sensors, setting("server"), effort).measure()
    assert row.valid
    assert row.images_per_s is not None
    assert row.latency_p99_ms is not None
    assert row.latency_p99_ms <= 80
    assert sum(len(block.latency_ms) for block in row.samples) >= 100
    slower, faster = (p99_ms(poisson(row.images_per_s * factor, effort.seed), effort.length) for factor in (0.95, 1.1))
    assert slower < 80 < faster


def p99_ms(arrivals_s: Iterable[float], length: Length) -> float:
    queries = list[Query]()
    queue_of_one(None, arrivals_s, replace(length, least_queries=100), queries, 0, lambda _query: False)
    return float(np.percentile([query.latency_ms for query in queries], 99))


def test_rate_is_found_on_a_system_that_really_takes_its_time(
    no_sensors: Sensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.perf.bench.measure.MOST_PROBES", 2)
    with Known(0.010) as system:
        row = Measurement(system, no_sensors, setting("server"), with_target(60_000.0, 0.1)).measure()
    assert row.images_per_s
    assert row.latency_p99_ms is not None
    assert 10 <= row.latency_p99_ms <= 60_000


def test_target_that_no_rate_meets_is_told(no_sensors: Sensors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.perf.bench.measure.MOST_PROBES", 4)
    with Known(0.010) as system:
        row = Measurement(system, no_sensors, setting("server"), with_target(5.0)).measure()
    assert not row.valid
    assert "no rate meets the target of 5 ms" in (row.why or "")


def test_run_with_a_target_has_the_samples_of_a_percentile_unless_it_is_missed(no_sensors: Sensors) -> None:
    with Known(0.010) as system:
        row = Measurement(system, no_sensors, setting(), with_target(5000.0, 0.1)).measure()
        assert row.latency_p99_ms is not None
        row = Measurement(system, no_sensors, setting(), with_target(5.0, 0.1)).measure()
        assert row.latency_p99_ms is None


class Interrupting(Known):
    """Somebody presses Ctrl-C at a query."""

    def __init__(self, at: int) -> None:
        super().__init__(0.01)
        self._at = at

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        if len(self.sizes) == self._at:
            os.kill(os.getpid(), signal.SIGINT)
        super().issue(images, finish)


def test_interrupted_run_keeps_what_was_measured_and_is_no_valid_row(no_sensors: Sensors) -> None:
    with Interrupting(40) as system, pytest.raises(InterruptedRunError) as raised:
        # Long enough that a busy machine comes to the query, too.
        Measurement(system, no_sensors, setting(), replace(EFFORT, length=Length(10.0))).measure()
    (row,) = raised.value.rows
    assert 10 < sum(block.images for block in row.samples) < 80
    assert not row.valid
    assert "interrupted" in (row.why or "")


def test_run_that_is_interrupted_while_it_warms_up_has_no_row(no_sensors: Sensors) -> None:
    with Interrupting(1) as system, pytest.raises(InterruptedRunError) as raised:
        Measurement(system, no_sensors, setting(), EFFORT).measure()
    assert raised.value.rows == []


class Recorded(Known):
    """Writes down its name for each query that it takes."""

    def __init__(self, name: str, seconds: float, taken: list[str]) -> None:
        super().__init__(seconds)
        self._name, self._taken = name, taken

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        self._taken.append(self._name)
        super().issue(images, finish)


def test_settings_that_are_compared_take_turns(no_sensors: Sensors) -> None:
    taken: list[str] = []
    turns = RoundRobin()
    with Recorded("a", 0.004, taken) as one, Recorded("b", 0.002, taken) as other:
        for system in (one, other):
            turns.join(Measurement(system, no_sensors, setting(), EFFORT, stretches=5))
        assert "".join(name for name, _ in groupby(taken)) == "ab", "each is warmed up alone"
        taken.clear()
        rows = turns.rows()
    assert "".join(name for name, _ in groupby(taken)) == "ab" * 5
    assert (rows[0].latency_ms or 0) > (rows[1].latency_ms or 0)
    for row in rows:
        assert sum(block.seconds for block in row.samples) > 0.99 * EFFORT.length.seconds
        assert len(row.samples) == 10
        assert row.memory_mb is None, "the other's is in it"


def test_turns_of_a_slow_system_hold_the_queries_of_one_run(no_sensors: Sensors) -> None:
    with Known(0.25) as system:
        row = Measurement(system, no_sensors, setting(), EFFORT, stretches=5).measure()
    assert [len(block.latency_ms) for block in row.samples] == [1] * 5


def test_power_of_turns_is_that_of_its_own_stretches(board: Path, sensors: Sensors) -> None:
    class Hungry(Known):
        def __init__(self, watts: float) -> None:
            super().__init__(0.01)
            self._watts = watts

        def issue(self, images: int, finish: Callable[[], None]) -> None:
            set_watts(board, "VDD_IN", self._watts)
            super().issue(images, finish)

    turns = RoundRobin()
    effort = replace(EFFORT, length=Length(2.0), warm_up_s=0.4)
    with Hungry(4.0) as one, Hungry(8.0) as other:
        for system in (one, other):
            turns.join(Measurement(system, sensors, setting(), effort, stretches=4))
        rows = turns.rows()
    assert [row.power_w for row in rows] == [pytest.approx(4.0, rel=0.02), pytest.approx(8.0, rel=0.02)]


def test_interrupted_turns_keep_what_each_has(no_sensors: Sensors) -> None:
    turns = RoundRobin()
    with Known(0.01) as one, Interrupting(40) as other:
        for system in (one, other):
            turns.join(Measurement(system, no_sensors, setting(), EFFORT, stretches=4))
        with pytest.raises(InterruptedRunError) as raised:
            turns.rows()
    assert [row.valid for row in raised.value.rows] == [False, False]
    assert all("interrupted" in (row.why or "") for row in raised.value.rows)
