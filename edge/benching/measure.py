"""One setting measured: warmed up apart, then every query taken down, with power and temperature over the same time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from edge.benching.arrivals import poisson
from edge.benching.judge import judge
from edge.benching.row import LEAST_SAMPLES, Block, Row, ratio, significant, speed_of
from edge.benching.scenario import ClosedLoop, Length, Query, Scenario, System, serve
from edge.clock import now_ns
from edge.host.sensors import Reading

# Blocks of a run's samples: one a second, and so many of a shorter run; one a query where there are fewer.
LEAST_BLOCKS = 10
# A board is warm when its hottest sensor has risen by no more than this from one stretch of warming up to the next.
STEADY_C = 0.5
STRETCH_S = 3.0
LONGEST_WARM_UP_S = 120.0
# Rails that feed the GPU and nothing else: VDD_GPU_SOC and VDD_CPU_GPU_CV feed more; gpu0 is NVML's.
GPU_RAILS = ("VDD_SYS_GPU", "POM_5V_GPU", "GPU", "VDD_GPU", "gpu0")
MOST_GAP = 0.1  # share of the measured time of which the power may be missing
# The highest rate that meets a target is found to within this ratio, in so many probes at most.
RATE_WITHIN = 1.04
MOST_PROBES = 8
_ROOM = 1.1  # above what the lanes do when they never wait, as that is a short measurement
_DECIMALS_MS = 4  # a tenth of a microsecond


class Sensors(Protocol):
    """The machine's sensors."""

    def read(self, images: int | None = None, power_mode: str | None = None) -> Reading:
        """Return what was measured since the last call."""


@dataclass(frozen=True)
class Setting:
    """What a row is of."""

    device: str
    power_mode: str | None
    precision: str
    network: str
    batch: int
    lanes: int
    scenario: Scenario


@dataclass(frozen=True)
class Effort:
    """How long a setting is measured."""

    length: Length
    warm_up_s: float
    is_thorough: bool  # warms up until the temperature is steady
    target_p99_ms: float | None
    seed: int


class InterruptedRunError(KeyboardInterrupt):
    """Ctrl-C in the midst of a run, with the row of what was measured until then; None where that is nothing."""

    def __init__(self, row: Row | None) -> None:
        super().__init__()
        self.row = row


@dataclass
class Run:
    """The queries of one run, and what the sensors told of the same time."""

    queries: list[Query] = field(default_factory=list)
    start_ns: int = 0
    start: Reading | None = None
    end: Reading | None = None

    def begin(self, sensors: Sensors, mode: str | None) -> None:
        self.start = sensors.read(power_mode=mode)
        self.start_ns = now_ns()

    def finish(self, sensors: Sensors, mode: str | None) -> None:
        self.end = sensors.read(sum(query.images for query in self.queries), mode)

    def blocks(self) -> tuple[Block, ...]:
        return blocks_of(self.queries, self.start_ns)

    def meets(self, target_p99_ms: float) -> bool:
        p99_ms = speed_of(self.blocks()).latency_p99_ms
        return p99_ms is not None and p99_ms <= target_p99_ms


class Target:
    """Tells from the queries as they end when a p99 can only be missed."""

    def __init__(self, target_p99_ms: float, queries: int) -> None:
        """Take the target, and how many queries there will be at least."""
        self._target_ms = target_p99_ms
        self._allowed = (queries - 1) // LEAST_SAMPLES + 1  # np.percentile looks at the two samples around its place
        self._over = 0

    def is_missed_by(self, query: Query) -> bool:
        """Take one more query; tell whether those beyond the target are too many, whatever comes."""
        self._over += query.latency_ms > self._target_ms
        return self._over > self._allowed


class Measurement:
    """One setting on one system under test."""

    def __init__(self, system: System, sensors: Sensors, setting: Setting, effort: Effort) -> None:
        self._system = system
        self._sensors = sensors
        self._setting = setting
        self._effort = effort
        self._run = Run()  # the one at work

    def measure(self) -> Row:
        """Return the row; raise InterruptedRunError at Ctrl-C, and what the system failed with."""
        try:
            if self._setting.scenario == "server":
                return self._serve()
            return self._keep_busy()
        except KeyboardInterrupt:
            row = None
            if self._run.queries:
                self._run.finish(self._sensors, self._setting.power_mode)
                why = "interrupted: only what was measured until then is told"
                row = replace(row_of(self._setting, self._run), valid=False, why=why)
            raise InterruptedRunError(row) from None

    def _keep_busy(self) -> Row:
        length, target_ms = self._effort.length, self._effort.target_p99_ms
        loop = ClosedLoop(self._system, self._setting.scenario)
        self._warm_up(loop)
        self._begin()
        if target_ms is None:
            loop.run(length, self._run.queries, self._run.start_ns)
        else:
            # A p99 needs its samples, but not to tell that it is missed.
            target = Target(target_ms, LEAST_SAMPLES)
            patient = replace(length, least_queries=LEAST_SAMPLES)
            loop.run(patient, self._run.queries, self._run.start_ns, target.is_missed_by)
        self._run.finish(self._sensors, self._setting.power_mode)
        return row_of(self._setting, self._run)

    def _begin(self) -> None:
        self._run = Run()
        self._run.begin(self._sensors, self._setting.power_mode)

    def _warm_up(self, loop: ClosedLoop) -> None:
        """Run until everything is allocated and cached, and, where that is measured, the heat sink warm."""
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

    def _serve(self) -> Row:
        """Return the row of the highest rate that meets the target, found by bisection."""
        target_ms = self._effort.target_p99_ms or 0.0
        low, high = 0.0, self._capacity_per_s() * _ROOM
        best: Run | None = None
        for _ in range(MOST_PROBES):
            rate_per_s = (low + high) / 2
            self._probe(rate_per_s, target_ms)
            if self._run.meets(target_ms):
                low, best = rate_per_s, self._run
            else:
                high = rate_per_s
            if low and high / low <= RATE_WITHIN:
                break
        if best is None:
            told = f"no rate meets the target of {target_ms:g} ms: {high:.3g} images/s miss it, too"
            return replace(row_of(self._setting, self._run), valid=False, why=told)
        return row_of(self._setting, best)

    def _capacity_per_s(self) -> float:
        loop = ClosedLoop(self._system, "offline")
        self._warm_up(loop)
        queries: list[Query] = []
        start_ns = now_ns()
        loop.run(Length(self._effort.length.seconds / 2), queries, start_ns)
        loop.drain()
        return sum(query.images for query in queries) / ((queries[-1].end_ns - start_ns) / 1e9)

    def _probe(self, rate_per_s: float, target_ms: float) -> None:
        length = replace(self._effort.length, least_queries=LEAST_SAMPLES)
        planned = length.images or int(rate_per_s * length.seconds)
        target = Target(target_ms, max(LEAST_SAMPLES, planned))
        arrivals_s = poisson(rate_per_s, self._effort.seed)
        self._begin()
        serve(self._system, arrivals_s, length, self._run.queries, self._run.start_ns, target.is_missed_by)
        self._run.finish(self._sensors, self._setting.power_mode)


def row_of(setting: Setting, run: Run) -> Row:
    """Return the row of a run that has queries and readings."""
    if run.start is None or run.end is None:
        raise RuntimeError("a row of a run that has not ended")
    blocks, reading = run.blocks(), run.end
    speed, power_w = speed_of(blocks), power_of(reading)
    gpu_w = next((rail.power_w for name in GPU_RAILS if (rail := reading.period.rails.get(name))), None)
    start_c, end_c = run.start.conditions.hottest_c, reading.conditions.hottest_c
    judged = judge(
        [block.to_json() for block in blocks],
        scenario=setting.scenario,
        is_throttled=reading.throttled,
        temperature_start_c=start_c,
        temperature_end_c=end_c,
    )
    return Row(
        device=setting.device,
        power_mode=setting.power_mode,
        precision=setting.precision,
        network=setting.network,
        batch=setting.batch,
        images_per_s=speed.images_per_s,
        power_w=significant(power_w),
        images_per_s_per_w=ratio(speed.images_per_s, power_w),
        gpu_power_w=significant(gpu_w),
        gpu_images_per_s_per_w=ratio(speed.images_per_s, gpu_w),
        latency_ms=speed.latency_ms,
        latency_p90_ms=speed.latency_p90_ms,
        latency_p99_ms=speed.latency_p99_ms,
        latency_max_ms=speed.latency_max_ms,
        energy_j_per_image=ratio(power_w, speed.images_per_s),
        scenario=setting.scenario,
        lanes=setting.lanes,
        spread=significant(judged.spread),
        valid=judged.valid,
        why=judged.why,
        rails_w={name: significant(rail.power_w) for name, rail in reading.period.rails.items()},
        cpu_load=reading.cpu_load,
        gpu_load=significant(reading.conditions.gpu_load),
        memory_mb=reading.memory_mb,
        temperature_start_c=start_c,
        temperature_end_c=end_c,
        throttled=reading.throttled,
        samples=blocks,
    )


def blocks_of(queries: Sequence[Query], start_ns: int) -> tuple[Block, ...]:
    """Cut a run into blocks of nearly as many queries each, which together last from its start to its last query."""
    ordered = sorted(queries, key=lambda query: query.end_ns)
    seconds = (ordered[-1].end_ns - start_ns) / 1e9 if ordered else 0.0
    count = min(max(LEAST_BLOCKS, int(seconds)), len(ordered))
    blocks = []
    for number in range(count):
        part = ordered[number * len(ordered) // count : (number + 1) * len(ordered) // count]
        latencies_ms = tuple(round(query.latency_ms, _DECIMALS_MS) for query in part)
        seconds = (part[-1].end_ns - start_ns) / 1e9
        blocks.append(Block(latencies_ms, sum(query.images for query in part), seconds))
        start_ns = part[-1].end_ns
    return tuple(blocks)


def power_of(reading: Reading) -> float | None:
    """Return the mean power of all; None where it was read during too little of the time."""
    total = reading.period.total
    if total is None or total.gap_s > MOST_GAP * reading.period.seconds:
        return None
    return total.power_w
