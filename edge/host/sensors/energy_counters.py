"""Energy counters of other machines: RAPL of x86 processors, if readable, and NVML of discrete GPUs."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from edge.core.clock import now_ns
from edge.host.paths import glob, inside, is_emulated, read_text
from edge.host.sensors.jetson_rails import HIGHEST_W, Reading
from edge.host.sensors.sysfs import Attribute

# Others would count twice: "core" and "uncore" are parts of the package, "psys" includes it.
RAPL_DOMAINS = ("package", "dram")


@dataclass(slots=True)
class EnergyCounter:
    """Joules that only grow, up to a range at which they wrap to 0."""

    range_j: float
    _at_ns: int = 0
    _joules: float | None = None

    def power(self, at_ns: int, joules: float | None) -> tuple[int, float] | None:
        """Return the start and the mean watts of the step to this reading; None if not known.

        A missing reading costs nothing: the next one covers its time too.
        """
        before_ns, before_j = self._at_ns, self._joules
        if joules is None:
            return None
        self._at_ns, self._joules = at_ns, joules
        if before_j is None or at_ns <= before_ns:
            return None
        moved_j = joules - before_j if joules >= before_j else joules - before_j + self.range_j
        watts = moved_j / ((at_ns - before_ns) / 1e9)
        return (before_ns, watts) if 0 <= watts <= HIGHEST_W else None


class Rapl:
    """The processors' energy counters (powercap, "intel-rapl:*"), readable by root alone on most systems."""

    # A counter misses nothing between two readings, so that they may be far apart.
    period_s = 0.2
    bound_s = 10.0

    def __init__(self, domains: Sequence[tuple[str, str, float]]) -> None:
        """Read domains, each given by its name, folder and range in joules."""
        self.name = "RAPL"
        self.rails = tuple(name for name, _, _ in domains)
        self._folders = {name: folder for name, folder, _ in domains}
        self._counters = {name: EnergyCounter(range_j) for name, _, range_j in domains}
        self._files: dict[str, Attribute] = {}

    def read(self) -> list[Reading]:
        return [reading for name in self.rails for reading in self._rail(name)]

    def _rail(self, name: str) -> list[Reading]:
        microjoules = None
        with contextlib.suppress(OSError):
            if name not in self._files:
                self._files[name] = Attribute(inside(f"{self._folders[name]}/energy_uj"))
            try:
                microjoules = self._files[name].read()
            except OSError:
                del self._files[name]
                raise
        return readings_of(self._counters[name], name, None if microjoules is None else microjoules / 1e6)

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files.clear()


def readings_of(counter: EnergyCounter, name: str, joules: float | None) -> list[Reading]:
    """Return a counter's step as constant power since the previous reading."""
    at_ns = now_ns()
    step = counter.power(at_ns, joules)
    if step is not None:
        since_ns, watts = step
        return [(name, since_ns, watts), (name, at_ns, watts)]
    return []


def find_rapl() -> list[Rapl]:
    """Look for the counters of packages and their memory; none if they may not be read."""
    domains = []
    for folder in glob("/sys/class/powercap/intel-rapl:*"):
        name, wrap = read_text(f"{folder}/name"), read_text(f"{folder}/max_energy_range_uj")
        package = folder.partition(":")[2].partition(":")[0]
        if name and wrap and wrap.isdigit() and name.startswith(RAPL_DOMAINS) and read_text(f"{folder}/energy_uj"):
            domains.append((name if "-" in name else f"{name}-{package}", folder, int(wrap) / 1e6))
    return [Rapl(domains)] if domains else []


class Nvml:
    """The NVIDIA driver's figures of discrete GPUs; None for what the driver does not support."""

    period_s = 0.5
    bound_s = 10.0

    def __init__(self, library: Any) -> None:
        self.name = "NVML"
        self._library = library
        self._gpus = [library.nvmlDeviceGetHandleByIndex(index) for index in range(library.nvmlDeviceGetCount())]
        self.rails = tuple(f"gpu{index}" for index in range(len(self._gpus)) if self._has_power(index))
        self._counters = {rail: EnergyCounter(float("inf")) for rail in self.rails}

    def read(self) -> list[Reading]:
        return [reading for rail in self.rails for reading in self._rail(rail)]

    def _rail(self, rail: str) -> list[Reading]:
        gpu = self._gpus[int(rail[3:])]
        if (millijoules := self.ask("nvmlDeviceGetTotalEnergyConsumption", gpu)) is not None:
            return readings_of(self._counters[rail], rail, millijoules / 1e3)
        milliwatts = self.ask("nvmlDeviceGetPowerUsage", gpu)
        return [(rail, now_ns(), None if milliwatts is None else milliwatts / 1e3)]

    def _has_power(self, index: int) -> bool:
        return self.ask("nvmlDeviceGetPowerUsage", self._gpus[index]) is not None

    def ask(self, function: str, *arguments: Any) -> Any:
        """Call a function of NVML; return None if it refuses."""
        call: Callable[..., Any] | None = getattr(self._library, function, None)
        try:
            return None if call is None else call(*arguments)
        except self._library.NVMLError:
            return None

    def first(self, function: str, *arguments: Any) -> Any:
        """Call a function of NVML on the first GPU."""
        return self.ask(function, self._gpus[0], *arguments) if self._gpus else None

    def close(self) -> None:
        self.ask("nvmlShutdown")


def find_nvml() -> list[Nvml]:
    """Load NVML if its Python package (nvidia-ml-py) and the driver are installed; never for an emulated board."""
    if is_emulated():
        return []
    try:
        library = importlib.import_module("pynvml")
        library.nvmlInit()
        return [Nvml(library)]
    except ImportError:
        return []
    except Exception as error:  # NVMLError is the library's own class, not known without it
        if type(error).__name__.startswith("NVML"):
            return []
        raise
