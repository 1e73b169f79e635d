"""What `edge tune` is asked for, and what is tried where nothing is asked."""

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
    """What is to be tuned, and over what; empty: all that makes sense here."""

    config: Path
    model: str | None = None
    target_p99_ms: float | None = None
    seconds: float = SECONDS  # a point, without those in which the board throttled
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
        """Return all that is tried on these modes, and on these devices where none are wished."""
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
    """Return what a model is tried on: what is configured, else the GPU and a DLA where the board has one."""
    if configured != "auto":
        return (configured,)
    if on_cpu:
        return ("cpu",)
    return ("gpu", "dla0") if "dla0" in Dlas().read() else ("gpu",)
