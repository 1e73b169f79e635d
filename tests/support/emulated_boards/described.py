"""What is told of an emulated board."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Milli = tuple[str, int, int]  # label, mV, mA


@dataclass(frozen=True)
class Monitor:
    """One power monitor on an I2C bus."""

    driver: str
    address: str
    rails: tuple[Milli, ...]
    disabled: tuple[str, ...] = ()


@dataclass(frozen=True)
class EmulatedBoard:
    """One board and release, and what is to be read of it."""

    label: str
    model: str
    compatible: tuple[str, ...]
    release: tuple[str, str]  # of /etc/nv_tegra_release
    core: str  # version of the package nvidia-l4t-core
    tensorrt: tuple[str, str]  # package, version
    cuda: tuple[str, str]
    monitors: tuple[Monitor, ...]
    zones_mc: Mapping[str, int | None]  # None: switched off, and cannot be read
    gpu: str  # folder below /sys/devices
    gpu_node: str
    gpu_load: int | None  # per mille
    gpu_hz: int
    gpu_class: str = ""  # in /sys/class/devfreq, where not as the folder
    emc_hz: int | None = None
    emc_activity_khz: int = 0
    dlas: Mapping[str, str] | None = None
    brakes: tuple[str, ...] = ()
    has_counters: bool = False  # of over-current events
    fan: tuple[int, int] | None = None  # pulse width of 255, revolutions a minute
    memory_kb: int = 8_000_000
    # What is to be found.
    module: str = ""
    sku: str = ""
    soc: str = ""
    l4t: str = ""
    jetpack: str = ""
    total: str = ""
    total_rails: tuple[str, ...] = ()
    other_rails: tuple[str, ...] | None = None  # the alternative total

    def watts(self, *names: str) -> float:
        rails = {label: mv * ma / 1e6 for monitor in self.monitors for label, mv, ma in monitor.rails}
        return sum(rails[name] for name in names or self.total_rails)

    @property
    def rails(self) -> tuple[str, ...]:
        return tuple(
            label
            for monitor in self.monitors
            for label, _, _ in monitor.rails
            if label != "NC" and label not in monitor.disabled
        )
