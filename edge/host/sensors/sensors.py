"""Sensor readings of the machine, one per telemetry period; None for what is not measured."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import psutil

from edge.core.clock import now_ns
from edge.host.board import read_board
from edge.host.sensors.condition_sampler import ConditionSampler
from edge.host.sensors.conditions import Conditions, averaged, throttled_by
from edge.host.sensors.energy import Energy
from edge.host.sensors.energy_counters import find_nvml, find_rapl
from edge.host.sensors.energy_ledger import EnergyLedger, EnergyPeriod
from edge.host.sensors.jetson_rails import find_buses
from edge.host.sensors.rail_sampler import STOP_S, RailSampler, RailSource
from edge.host.sensors.rail_table import Rail, Total, rail_of, total_of

log = logging.getLogger(__name__)

# An idle power measured over less says little.
SHORTEST_IDLE_S = 1.0
# The fraction of an idle period that may lack readings.
IDLE_GAP = 0.01
# All readings this far back have arrived.
SETTLED_NS = 2_000_000_000
# If no rails are found, their driver may load later.
SEARCH_PERIOD_NS = 5_000_000_000
# A rail that has read the same for longer is reported: its sensor may be frozen.
UNCHANGED_S = 10.0


@dataclass(frozen=True, slots=True)
class PowerNow:
    """Power and throttling at this moment; None if not measured or if the newest reading is too old."""

    power_w: float | None
    throttled: bool | None


@dataclass(frozen=True, slots=True)
class SensorReading:
    """Measurements of one period."""

    name: str
    cpu_load: float | None  # 0…1 of all cores
    memory_mb: float  # resident memory of this process, 10⁶ bytes
    power_mode: str | None = None
    period: EnergyPeriod = field(default_factory=lambda: EnergyPeriod(0, 0))
    total: Total | None = None
    idle_w: float | None = None
    images: int | None = None
    conditions: Conditions = field(default_factory=Conditions)
    slowed_by: tuple[str, ...] | None = None

    @property
    def power_w(self) -> float | None:
        """Mean of the period, without its gaps."""
        return self.period.total.power_w if self.period.total else None

    @property
    def energy_j(self) -> float | None:
        return self.period.total.energy_j if self.period.total else None

    @property
    def throttled(self) -> bool | None:
        return None if self.slowed_by is None else bool(self.slowed_by)

    @property
    def over_current_events(self) -> int | None:
        """Events of all comparators since the start."""
        events = self.conditions.over_current
        return None if events is None else sum(events.values())

    @property
    def images_per_s_per_w(self) -> float | None:
        if self.images is None or not self.power_w or not self.period.seconds:
            return None
        return self.images / self.period.seconds / self.power_w

    def to_json(self) -> dict[str, Any]:
        """Return the `board` object of a telemetry message; null for what is not measured."""
        now, total, other = self.conditions, self.period.total, self.period.alternative
        return {
            "name": self.name,
            "power_mode": self.power_mode,
            "power_w": _rounded(self.power_w),
            "power_w_alt": _rounded(other.power_w) if other else None,
            "power_rail": self.total.name if self.total else None,
            "rails_w": {rail: _rounded(each.power_w) for rail, each in self.period.rails.items()},
            "rails_j": {rail: _rounded(each.energy_j) for rail, each in self.period.rails.items()},
            "rails_unchanged_s": _frozen(self.period.unchanged_s),
            "energy_j": _rounded(self.energy_j),
            "gap_s": _rounded(total.gap_s) if total else None,
            "idle_w": _rounded(self.idle_w),
            "images_per_s_per_w": _rounded(self.images_per_s_per_w),
            "temperature_c": {zone: _rounded(each_c) for zone, each_c in now.temperature_c.items()},
            "gpu_load": _rounded(now.gpu_load),
            "gpu_mhz": _rounded(now.gpu_mhz),
            "emc_load": _rounded(now.emc_load),
            "emc_mhz": _rounded(now.emc_mhz),
            "dla_active": now.dla_active,
            "fan_duty": _rounded(now.fan_duty),
            "fan_rpm": _rounded(now.fan_rpm),
            "throttled": self.throttled,
            "throttled_by": None if self.slowed_by is None else list(self.slowed_by),
            "over_current_events": self.over_current_events,
            "cpu_load": self.cpu_load,
            "memory_mb": self.memory_mb,
        }


class Sensors:
    """Measures the machine, period by period.

    `start` looks for the sensors and starts one thread for each sensor bus and one for the conditions. No other method
    waits for a sensor. Without `start`, only load and memory are measured.
    """

    def __init__(self, rate_hz: float | None = None) -> None:
        self._rate_hz = rate_hz
        self._process = psutil.Process()
        self._name = read_board().name
        self._samplers: dict[str, RailSampler] = {}  # by rail
        self._conditions = ConditionSampler(self._tick)
        self._ledger = EnergyLedger((), None, now_ns())
        self._searched_ns = 0
        self._is_stopped = False
        self._previous = Conditions()
        self._power_mode: str | None = None
        self._idle_w: float | None = None
        self.total: Total | None = None
        self.rails: tuple[Rail, ...] = ()
        psutil.cpu_percent()  # measures the load from one call to the next

    def start(self) -> None:
        nvml = find_nvml()
        self._search(nvml)
        self._conditions.start(nvml[0] if nvml else None)

    def stop(self) -> None:
        """End the threads; one that hangs in a driver is abandoned and named in the log."""
        self._is_stopped = True
        threads: list[RailSampler | ConditionSampler] = [*set(self._samplers.values()), self._conditions]
        for thread in threads:
            thread.stop()
        until_ns = now_ns() + int(STOP_S * 1e9)
        hung = [thread.name for thread in threads if not thread.join(max((until_ns - now_ns()) / 1e9, 0.0))]
        if hung:
            log.warning("%s did not stop within %g s and is abandoned: its driver hangs", ", ".join(hung), STOP_S)

    def latest(self) -> PowerNow:
        """Return power and throttling at this moment; takes no lock."""
        newest = [self._samplers[rail].newest(rail) for rail in self.total.rails] if self.total else []
        known = [watts for watts in newest if watts is not None]
        slowed_by = self._conditions.slowed_by()
        return PowerNow(
            sum(known) if known and len(known) == len(newest) else None,
            None if slowed_by is None else bool(slowed_by),
        )

    def read(self, images: int | None = None, power_mode: str | None = None) -> SensorReading:
        """Return the period since the last call, or since the start; for one caller.

        `images` is the number inferred in it. The power of a period without images and without gaps is the idle power,
        until the power mode changes.
        """
        period = self._ledger.close_period(now_ns())
        conditions = self._conditions.drain()
        slowed_by = throttled_by(self._previous, conditions)
        self._previous = conditions[-1] if conditions else self._previous
        self._note_idle(period, images, power_mode)
        load = psutil.cpu_percent()
        return SensorReading(
            name=self._name,
            cpu_load=round(load / 100, 4),
            memory_mb=round(self._process.memory_info().rss / 1e6, 1),
            power_mode=power_mode,
            period=period,
            total=self.total,
            idle_w=self._idle_w,
            images=images,
            conditions=averaged(self._conditions.newest(), conditions),
            slowed_by=slowed_by,
        )

    def _note_idle(self, period: EnergyPeriod, images: int | None, power_mode: str | None) -> None:
        # A mode that cannot be read now is not a change.
        has_changed = None not in (power_mode, self._power_mode) and power_mode != self._power_mode
        self._power_mode = power_mode or self._power_mode
        if has_changed:
            self._idle_w = None
        elif images == 0 and period.total is not None and _is_whole(period.total):
            self._idle_w = period.total.power_w

    def _search(self, more: Sequence[RailSource] = ()) -> None:
        """Look for rails and begin to sample them."""
        self._searched_ns = now_ns()
        sources: list[RailSource] = [*find_buses(), *find_rapl(), *more]
        samplers = [RailSampler(source, self._rate_hz) for source in sources if source.rails]
        names = [rail for sampler in samplers for rail in sampler.rails]
        total = total_of(names)
        self._ledger = EnergyLedger(samplers, total, now_ns())
        self._samplers = {rail: sampler for sampler in samplers for rail in sampler.rails}
        self.rails = tuple(rail_of(name, names) for name in names)
        self.total = total
        for sampler in samplers:
            sampler.start()

    def _tick(self) -> None:
        """Settle the ledger or look for rails, once a second in the thread of the conditions."""
        if self._samplers:
            self._ledger.settle(now_ns() - SETTLED_NS)
        elif not self._is_stopped and now_ns() - self._searched_ns >= SEARCH_PERIOD_NS:
            self._search()


def _is_whole(total: Energy) -> bool:
    return total.period_ns >= SHORTEST_IDLE_S * 1e9 and total.gap_s * 1e9 <= IDLE_GAP * total.period_ns


def _frozen(unchanged_s: Mapping[str, float]) -> dict[str, float]:
    return {rail: round(each_s, 1) for rail, each_s in unchanged_s.items() if each_s >= UNCHANGED_S}


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 4)
