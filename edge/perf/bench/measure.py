"""Measurement of one setting: warm-up, then every query recorded, in one stretch or several interleaved ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from edge.core.clock import now_ns
from edge.perf.bench.load_generator import ClosedLoop, Length, Query, System, poisson, serve
from edge.perf.bench.row import LEAST_SAMPLES, BenchRow
from edge.perf.bench.stretch import RowSensors, RowSetting, Stretch, row_of

# A board is warm once its hottest sensor rises by no more than this from one stretch of warm-up to the next.
STEADY_C = 0.5
STRETCH_S = 3.0
LONGEST_WARM_UP_S = 120.0
# The search for the highest rate that meets a target ends within this ratio, or after this many probes.
RATE_WITHIN = 1.04
MOST_PROBES = 8
_DONE = object()
_MARGIN = 1.1  # above the measured capacity, as that measurement is short


@dataclass(frozen=True)
class Effort:
    """Effort for a setting: its length, warm-up and target."""

    length: Length
    warm_up_s: float
    is_thorough: bool  # warm up until the temperature is steady
    target_p99_ms: float | None
    seed: int


class LatencyTarget:
    """Early detection, from the queries as they end, that a p99 target will be missed."""

    def __init__(self, target_p99_ms: float, queries: int) -> None:
        """Set the target and the minimum number of queries."""
        self._target_ms = target_p99_ms
        self._allowed = (queries - 1) // LEAST_SAMPLES + 1  # np.percentile interpolates between two samples
        self._over = 0

    @property
    def is_missed(self) -> bool:
        """True once too many queries exceed the target, whatever follows."""
        return self._over > self._allowed

    def is_missed_by(self, query: Query) -> bool:
        """Count a query, and return whether the target is now missed."""
        self._over += query.latency_ms > self._target_ms
        return self.is_missed


class InterruptedRunError(KeyboardInterrupt):
    """Ctrl-C during measurements, with the rows measured so far."""

    def __init__(self, rows: list[BenchRow]) -> None:
        super().__init__()
        self.rows = rows


class RoundRobin:
    """Round-robin measurement, one stretch of each setting in turn, so that drift affects all alike."""

    def __init__(self) -> None:
        self._members: list[Measurement] = []
        self._steps: dict[Measurement, Iterator[None]] = {}  # of the unfinished ones

    def __bool__(self) -> bool:
        return bool(self._members)

    def join(self, member: Measurement) -> None:
        """Add a measurement and warm its system up; raise InterruptedRunError on Ctrl-C, or the system's failure."""
        self._members.append(member)
        self._steps[member] = member.steps()
        self._step(member)

    def rows(self) -> list[BenchRow]:
        """Measure all; raise InterruptedRunError on Ctrl-C with the rows so far, or a system's failure."""
        while self._steps:
            for member in tuple(self._steps):
                self._step(member)
        return [member.row() for member in self._members]

    def _step(self, member: Measurement) -> None:
        try:
            if next(self._steps[member], _DONE) is _DONE:
                del self._steps[member]
        except KeyboardInterrupt:
            rows = [each.interrupted_row() if each in self._steps else each.row() for each in self._members]
            raise InterruptedRunError([row for row in rows if row is not None]) from None


class Measurement:
    """Measurement of one setting on one system; between several stretches, others may be measured."""

    def __init__(
        self, system: System, sensors: RowSensors, setting: RowSetting, effort: Effort, stretches: int = 1
    ) -> None:
        self._system = system
        self._sensors = sensors
        self._setting = setting
        self._effort = effort
        self._count = stretches
        self.stretches: list[Stretch] = []  # of the row; the last one may be unfinished
        self._hopeless: str | None = None  # the reason that no valid row is possible

    def measure(self) -> BenchRow:
        """Measure the row alone; raise InterruptedRunError on Ctrl-C, or the system's failure."""
        turns = RoundRobin()
        turns.join(self)
        return turns.rows()[0]

    def steps(self) -> Iterator[None]:
        """Return the steps: the first warms up, each further one measures a stretch."""
        return self._serve() if self._setting.scenario == "server" else self._keep_busy()

    def row(self) -> BenchRow:
        """Return the row, once there are no more steps."""
        row = self._row_of(self.stretches)
        return row if self._hopeless is None else replace(row, valid=False, why=self._hopeless)

    def interrupted_row(self) -> BenchRow | None:
        """Return the row of the measurement so far; None if there is nothing."""
        kept = [each for each in self.stretches if each.queries]
        if not kept:
            return None
        if kept[-1].end is None:
            kept[-1].finish(self._sensors, self._setting.power_mode)
        why = "interrupted: only the samples until then are included"
        return replace(self._row_of(kept), valid=False, why=why)

    def _row_of(self, stretches: list[Stretch]) -> BenchRow:
        row = row_of(self._setting, stretches)
        # With other systems open at the same time, this one's part of the memory is unknown.
        return row if self._count == 1 else replace(row, memory_mb=None)

    def _keep_busy(self) -> Iterator[None]:
        target_ms = self._effort.target_p99_ms
        loop = ClosedLoop(self._system, self._setting.scenario)
        self._warm_up(loop)
        yield
        # A p99 needs its samples, but a missed one shows earlier.
        target = None if target_ms is None else LatencyTarget(target_ms, LEAST_SAMPLES)
        whole = self._effort.length
        if target is not None:
            whole = replace(whole, least_queries=LEAST_SAMPLES)
        for _ in range(self._count):
            length = whole.part(self._count)
            if target is not None and target.is_missed:
                length = replace(length, least_queries=1)
            self._warm_again(loop)
            self.stretches.append(stretch := self._begin())
            loop.run(length, stretch.queries, stretch.start_ns, target.is_missed_by if target else None)
            self._finish(stretch)
            self._leave(loop)
            yield

    def _begin(self) -> Stretch:
        stretch = Stretch()
        stretch.begin(self._sensors, self._setting.power_mode)
        return stretch

    def _finish(self, stretch: Stretch) -> None:
        stretch.finish(self._sensors, self._setting.power_mode)

    def _warm_up(self, loop: ClosedLoop) -> None:
        """Run until everything is allocated and cached, and the heat sink is warm if its temperature is measured."""
        loop.run(Length(self._effort.warm_up_s, least_queries=1), [], now_ns())
        if not self._effort.is_thorough:
            return
        before_c = self._sensors.read().conditions.hottest_c
        for _ in range(int(LONGEST_WARM_UP_S / STRETCH_S)):
            if before_c is None:
                return
            loop.run(Length(STRETCH_S, least_queries=1), [], now_ns())
            now_c = self._sensors.read().conditions.hottest_c
            if now_c is None or now_c - before_c <= STEADY_C:
                return
            before_c = now_c

    def _warm_again(self, loop: ClosedLoop) -> None:
        """Run briefly if another system has used the caches meanwhile."""
        if self._count > 1:
            loop.run(Length(self._effort.warm_up_s / self._count, least_queries=1), [], now_ns())

    def _leave(self, loop: ClosedLoop) -> None:
        """Drain the loop if others are measured next."""
        if self._count > 1:
            loop.drain()

    def _serve(self) -> Iterator[None]:
        """Find the highest rate that meets the target by bisection; each probe is a stretch."""
        target_ms = self._effort.target_p99_ms or 0.0
        loop = ClosedLoop(self._system, "offline")
        self._warm_up(loop)
        low, high = 0.0, self._capacity_per_s(loop) * _MARGIN
        yield
        best: Stretch | None = None
        for _ in range(MOST_PROBES):
            rate_per_s = (low + high) / 2
            self._warm_again(loop)
            loop.drain()
            self._probe(rate_per_s, target_ms)
            (probed,) = self.stretches
            if probed.meets(target_ms):
                low, best = rate_per_s, probed
            else:
                high = rate_per_s
            yield
            if low and high / low <= RATE_WITHIN:
                break
        if best is None:
            self._hopeless = f"no rate meets the target of {target_ms:g} ms: even {high:.3g} images/s misses it"
        else:
            self.stretches = [best]

    def _capacity_per_s(self, loop: ClosedLoop) -> float:
        queries: list[Query] = []
        start_ns = now_ns()
        loop.run(Length(self._effort.length.seconds / 2), queries, start_ns)
        loop.drain()
        return sum(query.images for query in queries) / ((queries[-1].end_ns - start_ns) / 1e9)

    def _probe(self, rate_per_s: float, target_ms: float) -> None:
        length = replace(self._effort.length, least_queries=LEAST_SAMPLES)
        planned = length.images or int(rate_per_s * length.seconds)
        target = LatencyTarget(target_ms, max(LEAST_SAMPLES, planned))
        arrivals_s = poisson(rate_per_s, self._effort.seed)
        stretch = self._begin()
        self.stretches = [stretch]
        serve(self._system, arrivals_s, length, stretch.queries, stretch.start_ns, target.is_missed_by)
        self._finish(stretch)
