"""Board conditions beside power: temperatures, loads, clocks and throttling."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from edge.core.clock import now_ns
from edge.host.sensors.energy_counters import Nvml
from edge.host.sensors.over_current import CAUSES, OverCurrentCounters
from edge.host.sensors.thermal import Fan, ThermalZones, ThrottlingDevices, plausible_c
from edge.host.sensors.utilization import Dlas, GpuLoad, MemoryController, valid_fraction

# Period of the search for files: modules are loaded and numbers change.
SEARCH_PERIOD_NS = 30_000_000_000
# NVML's clock of the shader cores (NVML_CLOCK_GRAPHICS) and its sensor of the die (NVML_TEMPERATURE_GPU).
_NVML_GRAPHICS = 0
_NVML_DIE = 0
# NVML's throttle reasons: power cap, hardware slow-down, thermal in software and hardware, power brake
# (nvmlClocksThrottleReasonSwPowerCap and the following; idle and user-set clocks are not among them).
_NVML_SLOWED = {0x04: "power cap", 0x08: "hardware", 0x20: "thermal", 0x40: "thermal", 0x80: "power brake"}


@dataclass(frozen=True, slots=True)
class Conditions:
    """One reading; None for what the board does not provide."""

    at_ns: int = 0  # monotonic
    temperature_c: dict[str, float | None] = field(default_factory=dict)
    gpu_load: float | None = None  # 0…1
    gpu_mhz: float | None = None
    emc_load: float | None = None  # 0…1
    emc_mhz: float | None = None
    dla_active: dict[str, bool | None] = field(default_factory=dict)
    fan_duty: float | None = None  # 0…1
    fan_rpm: float | None = None
    slowed_by: tuple[str, ...] | None = None  # causes of throttling at this moment
    over_current: dict[str, int] | None = None  # events since the start, by comparator

    @property
    def hottest_c(self) -> float | None:
        """The highest temperature of all readable zones; None if there are none."""
        return max((each for each in self.temperature_c.values() if each is not None), default=None)


def throttled_by(before: Conditions, readings: Sequence[Conditions]) -> tuple[str, ...] | None:
    """Return the causes of throttling since the reading `before`; None if nothing reports it.

    An empty tuple means that throttling is monitored and did not occur.
    """
    monitored = [each for each in readings if each.slowed_by is not None or each.over_current is not None]
    if not monitored:
        return None
    slowed = [name for each in monitored for name in each.slowed_by or ()]
    counts = before.over_current or {}
    grown = [
        name for each in monitored for name, events in (each.over_current or {}).items() if events > counts.get(name, 0)
    ]
    return tuple(dict.fromkeys([*slowed, *(CAUSES.get(name, name) for name in grown)]))


def averaged(newest: Conditions, readings: Sequence[Conditions]) -> Conditions:
    """Return the newest reading with loads and clocks averaged over a period."""
    return replace(
        newest,
        gpu_load=_mean([each.gpu_load for each in readings]),
        gpu_mhz=_mean([each.gpu_mhz for each in readings]),
        emc_load=_mean([each.emc_load for each in readings]),
        emc_mhz=_mean([each.emc_mhz for each in readings]),
    )


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


class ConditionReader:
    """Reads the conditions; for one thread, about once a second."""

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml
        self._over_current = OverCurrentCounters()
        self._find()

    def read(self) -> Conditions:
        if now_ns() - self._searched_ns > SEARCH_PERIOD_NS:
            self._close()
            self._over_current.find()
            self._find()
        gpu_load, gpu_mhz = self._gpu.read()
        emc_mhz, emc_load = self._memory.read()
        fan_duty, fan_rpm = self._fan.read()
        conditions = Conditions(
            temperature_c=self._zones.read(),
            gpu_load=gpu_load,
            gpu_mhz=gpu_mhz,
            emc_load=emc_load,
            emc_mhz=emc_mhz,
            dla_active=self._dlas.read(),
            fan_duty=fan_duty,
            fan_rpm=fan_rpm,
            slowed_by=self._throttling.read(),
            over_current=self._over_current.read(),
            at_ns=now_ns(),
        )
        return conditions if self._nvml is None else with_nvml(conditions, self._nvml)

    def close(self) -> None:
        self._close()
        self._over_current.close()

    def _find(self) -> None:
        self._searched_ns = now_ns()
        self._zones, self._throttling, self._fan = ThermalZones(), ThrottlingDevices(), Fan()
        self._gpu, self._memory, self._dlas = GpuLoad(), MemoryController(), Dlas()

    def _close(self) -> None:
        for part in (self._zones, self._throttling, self._fan, self._gpu, self._memory):
            part.close()


def with_nvml(read: Conditions, nvml: Nvml) -> Conditions:
    """Fill in what the files lack with NVML's figures of the first GPU."""
    rates = nvml.first("nvmlDeviceGetUtilizationRates") if read.gpu_load is None else None
    clock_mhz = nvml.first("nvmlDeviceGetClockInfo", _NVML_GRAPHICS) if read.gpu_mhz is None else None
    die_c = nvml.first("nvmlDeviceGetTemperature", _NVML_DIE) if "gpu" not in read.temperature_c else None
    reasons = nvml.first("nvmlDeviceGetCurrentClocksThrottleReasons")
    slowed_by = read.slowed_by
    if reasons is not None:
        slowed_by = (*(slowed_by or ()), *dict.fromkeys(name for bit, name in _NVML_SLOWED.items() if reasons & bit))
    return replace(
        read,
        gpu_load=read.gpu_load if rates is None else valid_fraction(rates.gpu / 100),
        gpu_mhz=read.gpu_mhz if clock_mhz is None else float(clock_mhz),
        temperature_c=read.temperature_c if die_c is None else read.temperature_c | {"gpu": plausible_c(float(die_c))},
        slowed_by=slowed_by,
    )
