"""Event counters of the over-current and under-voltage comparators, which trip faster than power is sampled."""

from __future__ import annotations

import re

from edge.host.paths import glob, read_text
from edge.host.sensors.sysfs import OptionalAttribute

FOLDERS = ("/sys/class/hwmon/hwmon*", "/sys/devices/platform/soctherm-oc-event/hwmon/hwmon*")
CAUSES = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
_COUNTER = re.compile(r"(oc\d+)_event_cnt$")


class OverCurrentCounters:
    """Events since this object was made; the board itself counts from its boot."""

    def __init__(self) -> None:
        self._files: dict[str, OptionalAttribute] = {}
        self._before: dict[str, float] = {}
        self._events: dict[str, int] = {}
        self.find()

    def find(self) -> None:
        """Look for the counters again; counted events are kept."""
        self.close()
        for pattern in FOLDERS:
            for folder in glob(pattern):
                if not self._files and read_text(f"{folder}/name") == "soctherm_oc":
                    paths = glob(f"{folder}/oc*_event_cnt")
                    named = {found[1]: path for path in paths if (found := _COUNTER.search(path))}
                    self._files = {name: OptionalAttribute(path) for name, path in named.items()}

    def read(self) -> dict[str, int] | None:
        """Return the events of each comparator; None if no counter has ever answered."""
        for name, file in self._files.items():
            count = file.read()
            if count is None or count < 0:
                continue
            before = self._before.get(name, count)
            # A counter lower than before was reset: all that it shows is new.
            self._events[name] = self._events.get(name, 0) + int(count - before if count >= before else count)
            self._before[name] = count
        return dict(self._events) if self._events else None

    def close(self) -> None:
        for file in self._files.values():
            file.close()
        self._files = {}
