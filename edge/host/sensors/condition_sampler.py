"""Sampling thread of temperatures, loads, clocks and throttling, once a second."""

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
# An older reading says nothing about now.
FRESH_NS = 3_000_000_000
# Of an hour, the longest period of telemetry.
KEPT_READINGS = 3600


class ConditionSampler:
    """Samples the conditions in a thread of its own."""

    name = "conditions"

    def __init__(self, on_tick: Callable[[], None]) -> None:
        """Call `on_tick` after each reading, once a second."""
        self._on_tick = on_tick
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
        """Wait for the thread to end; return whether it did."""
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def drain(self) -> list[Conditions]:
        """Return the readings since the last call, or else the newest if still fresh; for one caller."""
        new = [self._readings.popleft() for _ in range(len(self._readings))]
        return new or ([self._newest] if self._is_fresh() else [])

    def newest(self) -> Conditions:
        """Return the newest reading; if it is too old, one without values."""
        if self._is_fresh():
            return self._newest
        return Conditions(
            temperature_c=dict.fromkeys(self._newest.temperature_c), dla_active=dict.fromkeys(self._newest.dla_active)
        )

    def slowed_by(self) -> tuple[str, ...] | None:
        """Return the causes of throttling now; None if unknown or if the newest reading is too old."""
        return self._slowed_by if self._is_fresh() else None

    def _is_fresh(self) -> bool:
        return self._newest.at_ns > 0 and now_ns() - self._newest.at_ns <= FRESH_NS

    def _run(self) -> None:
        reader = ConditionReader(self._nvml)
        try:
            while True:
                self._read(reader)
                self._on_tick()
                if self._stopped.wait(PERIOD_S):
                    return
        finally:
            reader.close()

    def _read(self, reader: ConditionReader) -> None:
        try:
            reading = reader.read()
        except Exception:  # whatever a driver writes into a file must not end the sampling
            if not self._has_failed:
                self._has_failed = True
                log.exception("the board's conditions cannot be read; they are null until they can")
            return
        self._slowed_by = throttled_by(self._newest, [reading])
        self._newest = reading
        self._readings.append(reading)
