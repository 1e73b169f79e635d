"""What the machine measures of itself; None where it measures nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import psutil

from edge.host.board import board_name


@dataclass(frozen=True, slots=True)
class Reading:
    """One reading of the machine."""

    name: str
    cpu_load: float | None  # 0…1 of all cores, since the reading before
    memory_mb: float  # resident memory of this process, 10⁶ bytes

    def to_json(self) -> dict[str, Any]:
        """Return the `board` of a telemetry message; what nothing here measures is null."""
        return {
            "name": self.name,
            "power_mode": None,
            "power_w": None,
            "power_rail": None,
            "rails_w": {},
            "energy_j": None,
            "idle_w": None,
            "images_per_s_per_w": None,
            "temperature_c": {},
            "gpu_load": None,
            "gpu_mhz": None,
            "throttled": None,
            "over_current_events": None,
            "cpu_load": self.cpu_load,
            "memory_mb": self.memory_mb,
        }


class Sensors:
    """Reads the machine once a period."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._name = board_name()
        psutil.cpu_percent()  # the load is measured from one call to the next

    def read(self) -> Reading:
        load = psutil.cpu_percent()
        return Reading(self._name, round(load / 100, 4), round(self._process.memory_info().rss / 1e6, 1))
