"""Stretch of measured queries with its sensor readings, and the row of a report made from stretches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from typing import Protocol

from edge.core.clock import now_ns
from edge.host.sensors.energy import Energy
from edge.host.sensors.sensors import SensorReading
from edge.perf.bench.load_generator import Query, Scenario
from edge.perf.bench.row import BenchRow, Block, ratio, significant, speed_of
from edge.perf.bench.stability import assess_stability

# Blocks of a run: one per second, at least this many, at most one per query.
LEAST_BLOCKS = 10
# Rails that feed only the GPU: VDD_GPU_SOC and VDD_CPU_GPU_CV feed more; gpu0 is NVML's.
GPU_RAILS = ("VDD_SYS_GPU", "POM_5V_GPU", "GPU", "VDD_GPU", "gpu0")
MOST_GAP = 0.1  # fraction of the measured time for which the power may be missing
_INSTANT_S = 1e-9
_DECIMALS_MS = 4  # a tenth of a microsecond


class RowSensors(Protocol):
    """Sensors of the machine."""

    def read(self, images: int | None = None, power_mode: str | None = None) -> SensorReading:
        """Return the readings since the last call."""


@dataclass(frozen=True)
class RowSetting:
    """Setting that a row measures."""

    device: str
    power_mode: str | None
    precision: str
    network: str
    batch: int
    lanes: int
    scenario: Scenario


@dataclass
class Stretch:
    """Queries without a gap between them, and the sensor readings at both ends."""

    queries: list[Query] = field(default_factory=list)
    start_ns: int = 0
    start: SensorReading | None = None
    end: SensorReading | None = None

    def begin(self, sensors: RowSensors, mode: str | None) -> None:
        self.start = sensors.read(power_mode=mode)
        self.start_ns = now_ns()

    def finish(self, sensors: RowSensors, mode: str | None) -> None:
        self.end = sensors.read(sum(query.images for query in self.queries), mode)

    def blocks(self, least: int = LEAST_BLOCKS) -> tuple[Block, ...]:
        return blocks_of(self.queries, self.start_ns, least)

    def meets(self, target_p99_ms: float) -> bool:
        p99_ms = speed_of(self.blocks()).latency_p99_ms
        return p99_ms is not None and p99_ms <= target_p99_ms


def row_of(setting: RowSetting, stretches: Sequence[Stretch]) -> BenchRow:
    """Return the row of finished stretches."""
    starts = [each.start for each in stretches if each.start is not None]
    ends = [each.end for each in stretches if each.end is not None]
    if not ends or len(starts) < len(stretches) or len(ends) < len(stretches):
        raise RuntimeError("a stretch has no reading at one of its ends")
    least = -(-LEAST_BLOCKS // len(stretches))
    blocks = tuple(block for each in stretches for block in each.blocks(least))
    speed, power_w = speed_of(blocks), power_of(ends)
    rails = _rails(ends)
    gpu_w = next((rail.power_w for name in GPU_RAILS if (rail := rails.get(name))), None)
    start_c, end_c = starts[0].conditions.hottest_c, ends[-1].conditions.hottest_c
    throttled = _any([each.throttled for each in ends])
    stability = assess_stability(
        blocks,
        scenario=setting.scenario,
        is_throttled=throttled,
        temperature_start_c=start_c,
        temperature_end_c=end_c,
    )
    return BenchRow(
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
        spread=significant(stability.spread),
        valid=stability.valid,
        why=stability.why,
        rails_w={name: significant(rail.power_w) for name, rail in rails.items()},
        cpu_load=_mean(ends, [each.cpu_load for each in ends]),
        gpu_load=_mean(ends, [each.conditions.gpu_load for each in ends]),
        memory_mb=max(each.memory_mb for each in ends),
        temperature_start_c=start_c,
        temperature_end_c=end_c,
        throttled=throttled,
        samples=blocks,
    )


def blocks_of(queries: Sequence[Query], start_ns: int, least: int = LEAST_BLOCKS) -> tuple[Block, ...]:
    """Cut a run into blocks of nearly equal numbers of queries, from its start to its last query."""
    ordered = sorted(queries, key=lambda query: query.end_ns)
    seconds = (ordered[-1].end_ns - start_ns) / 1e9 if ordered else 0.0
    count = min(max(least, int(seconds)), len(ordered))
    blocks = []
    for number in range(count):
        part = ordered[number * len(ordered) // count : (number + 1) * len(ordered) // count]
        latencies_ms = tuple(round(query.latency_ms, _DECIMALS_MS) for query in part)
        seconds = (part[-1].end_ns - start_ns) / 1e9
        blocks.append(Block(latencies_ms, sum(query.images for query in part), seconds))
        start_ns = part[-1].end_ns
    return tuple(blocks)


def power_of(readings: Sequence[SensorReading]) -> float | None:
    """Return the mean power over all readings; None if it was read for too little of the time."""
    totals = [each.period.total for each in readings if each.period.total is not None]
    if len(totals) < len(readings):
        return None
    total = reduce(add, totals)
    return None if total.gap_s > MOST_GAP * sum(each.period.seconds for each in readings) else total.power_w


def _rails(readings: Sequence[SensorReading]) -> dict[str, Energy]:
    """Return the energy of each rail that all readings have."""
    names = [name for name in readings[0].period.rails if all(name in each.period.rails for each in readings)]
    return {name: reduce(add, (each.period.rails[name] for each in readings)) for name in names}


def _mean(readings: Sequence[SensorReading], values: Sequence[float | None]) -> float | None:
    """Return the mean weighted by the duration of each reading; None if a value is unknown."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return None
    seconds = [max(each.period.seconds, _INSTANT_S) for each in readings]
    return significant(sum(value * each for value, each in zip(known, seconds, strict=True)) / sum(seconds))


def _any(values: Sequence[bool | None]) -> bool | None:
    """Return whether a value is true; None if none is and one is unknown."""
    if True in values:
        return True
    return None if None in values else False
