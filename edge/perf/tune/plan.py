"""Plan of `edge tune`, and the defaults of its axes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.host.sensors.utilization import Dlas
from edge.perf.tune.setting import Axes

SECONDS = 20.0
BATCHES = (1, 2, 4, 8)
GPU_LANES = (1, 2, 3)


@dataclass(frozen=True)
class TunePlan:
    """Model to tune and the values of each axis; an empty axis stands for all sensible values on this machine."""

    config: Path
    model: str | None = None
    target_p99_ms: float | None = None
    seconds: float = SECONDS  # a setting, without those in which the board throttled
    power_modes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    lanes: tuple[int, ...] = ()
    saturate: bool = False
    allow_reboot: bool = False
    fresh: bool = False
    plot: Path | None = None
    state_dir: Path | None = None

    def axes(self, power_modes: tuple[str | None, ...], devices: tuple[str, ...], cores: int) -> Axes:
        """Return the axes for these modes, and for these devices if the plan names none."""
        devices = self.devices or devices
        on_cpu = devices == ("cpu",)
        cpu_lanes = tuple(sorted({1, min(2, cores), cores}))
        return Axes(
            power_modes=power_modes,
            devices=devices,
            precisions=self.precisions or ("fp32" if on_cpu else "fp16", "int8"),
            lanes=self.lanes or (cpu_lanes if on_cpu else GPU_LANES),
            batches=self.batches or BATCHES,
        )


def default_devices(configured: str, *, on_cpu: bool) -> tuple[str, ...]:
    """Return the devices to try: the configured one, else the GPU and a DLA if the board has one."""
    if configured != "auto":
        return (configured,)
    if on_cpu:
        return ("cpu",)
    return ("gpu", "dla0") if "dla0" in Dlas().read() else ("gpu",)
