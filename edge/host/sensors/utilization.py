"""Load and clock of GPU and memory controller, and activity of the DLAs."""

from __future__ import annotations

from edge.host.paths import glob, read_text
from edge.host.sensors.sysfs import OptionalAttribute

GPU_NODES = frozenset({"gp10b", "gv11b", "ga10b", "gb10b", "gpu"})
# Thor has no node of such a name; this is its graphics clock.
GPU_DEVFREQ = ("/sys/class/devfreq/gpu-gpc-0",)
GPU_LOADS = (
    "/sys/devices/gpu.0/load",
    "/sys/devices/platform/gpu.0/load",
    "/sys/devices/platform/bus@0/17000000.gpu/load",
    "/sys/devices/17000000.gp10b/load",
    "/sys/devices/17000000.gv11b/load",
    "/sys/devices/17000000.ga10b/load",
    "/sys/devices/57000000.gpu/load",
)
EMC_RATES = ("/sys/kernel/debug/bpmp/debug/clk/emc/rate", "/sys/class/devfreq/bwmgr/cur_freq")
EMC_ACTIVITIES = ("/sys/kernel/actmon_avg_activity/mc_all", "/sys/kernel/debug/cactmon/mc_all")
# JetPack 5; presumed for JetPack 6.
HOST1X = ("/sys/devices/platform/host1x", "/sys/devices/platform/bus@0/13e00000.host1x")
DLAS = {"dla0": "15880000.nvdla0", "dla1": "158c0000.nvdla1"}

_LOAD_SCALE = 1e-3  # per mille
_MHZ = 1e-6


def _first(paths: tuple[str, ...], scale: float) -> OptionalAttribute | None:
    return next((OptionalAttribute(path, scale) for path in paths if glob(path)), None)


def valid_fraction(value: float | None) -> float | None:
    """Return a fraction, 0…1; None for any other value."""
    return value if value is not None and 0 <= value <= 1 else None


class GpuLoad:
    """The integrated GPU."""

    def __init__(self) -> None:
        folders = [
            folder for folder in glob("/sys/class/devfreq/*") if read_text(f"{folder}/device/of_node/name") in GPU_NODES
        ]
        folders += [folder for folder in GPU_DEVFREQ if glob(folder)]
        loads = (*(f"{folder}/device/load" for folder in folders), *GPU_LOADS)
        self._load = _first(loads, _LOAD_SCALE)
        self._clock = _first(tuple(f"{folder}/cur_freq" for folder in folders), _MHZ)

    @property
    def is_there(self) -> bool:
        return self._load is not None or self._clock is not None

    def read(self) -> tuple[float | None, float | None]:
        """Return the load, 0…1, and the clock in MHz."""
        return (
            valid_fraction(self._load.read()) if self._load else None,
            self._clock.read() if self._clock else None,
        )

    def close(self) -> None:
        for file in (self._load, self._clock):
            if file is not None:
                file.close()


class MemoryController:
    """The external memory controller (EMC), readable by root alone on most systems."""

    def __init__(self) -> None:
        self._clock = _first(EMC_RATES, _MHZ)
        self._activity = _first(EMC_ACTIVITIES, 1e-3)  # of kHz

    def read(self) -> tuple[float | None, float | None]:
        """Return the clock in MHz and the fraction of it in use."""
        clock_mhz = self._clock.read() if self._clock else None
        used_mhz = self._activity.read() if self._activity else None
        if not clock_mhz or used_mhz is None:
            return clock_mhz, None
        return clock_mhz, valid_fraction(used_mhz / clock_mhz)

    def close(self) -> None:
        for file in (self._clock, self._activity):
            if file is not None:
                file.close()


class Dlas:
    """The deep-learning accelerators."""

    def __init__(self) -> None:
        self._paths = {
            name: f"{folder}/{device}/power/runtime_status"
            for name, device in DLAS.items()
            for folder in HOST1X
            if glob(f"{folder}/{device}/power/runtime_status")
        }

    def read(self) -> dict[str, bool | None]:
        """Return whether each is awake; None if it cannot be read."""
        states = {"active": True, "suspended": False}
        return {name: states.get(read_text(path) or "") for name, path in self._paths.items()}
