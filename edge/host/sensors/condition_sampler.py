"""The thread that reads temperatures, loads, clocks and throttling, about once a second."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable

from edge.core.clock import now_ns
from edge.host.sensors.conditions import ConditionReader, Conditions, throttled_by
from edge.host.sensors.energy_counters import Nvml
from edge.host.sensors.rail_sampler import STOP_S

log = logging.getLogger(__name__)

PERIOD_S = 1.0
# A reading that is older stands for nothing any more.
FRESH_NS = 3_000_000_000
# Of an hour, the longest period of telemetry.
KEPT_READINGS = 3600


class Observer:
    """Reads the conditions; nobody waits for it."""

    name = "conditions"

    def __init__(self, settle: Callable[[], None]) -> None:
        """Take what else is to be done about once a second."""
        self._settle = settle
        self._nvml: Nvml | None = None
        self._readings: deque[Conditions] = deque(maxlen=KEPT_READINGS)
        self._newest = Conditions()
        self._slowed_by: tuple[str, ...] | None = None
        self._stopped = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name="conditions", daemon=True)

    def start(self, nvml: Nvml | None) -> None:
        self._nvml = nvml
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()

    def join(self, timeout_s: float = STOP_S) -> bool:
        """Wait for the thread's end; return whether it came."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def take(self) -> list[Conditions]:
        """Return the readings since the last call, at least the newest that still holds; for one caller."""
        new = [self._readings.popleft() for _ in range(len(self._readings))]
        return new or ([self._newest] if self._is_fresh() else [])

    def newest(self) -> Conditions:
        """Return the newest reading; where it is too old, one of null."""
        if self._is_fresh():
            return self._newest
        return Conditions(
            temperature_c=dict.fromkeys(self._newest.temperature_c), dla_active=dict.fromkeys(self._newest.dla_active)
        )

    def slowed_by(self) -> tuple[str, ...] | None:
        """Return what slows the board down now; None where nothing tells, or the newest reading is too old."""
        return self._slowed_by if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return self._newest.at_ns > 0 and now_ns() - self._newest.at_ns <= FRESH_NS

    def _run(self) -> None:
        reader = ConditionReader(self._nvml)
        try:
            while True:
                self._read(reader)
                self._settle()
                if self._stopped.wait(PERIOD_S):
                    return
        finally:
            reader.close()

    def _read(self, reader: ConditionReader) -> None:
        try:
            told = reader.read()
        except Exception:  # what a driver makes of a file must not end the observing
            if not self._has_failed:
                self._has_failed = True
                log.exception("the board's conditions could not be read; they are null until they can")
            return
        self._slowed_by = throttled_by(self._newest, [told])
        self._newest = told
        self._readings.append(told)
