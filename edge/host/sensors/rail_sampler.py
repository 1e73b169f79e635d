"""Sampling threads of the power rails, so that no other thread waits for a sensor."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Sequence
from typing import Protocol

from edge.core.clock import now_ns
from edge.host.sensors.energy import Sample
from edge.host.sensors.jetson_rails import Reading

log = logging.getLogger(__name__)

# Samples of a rail that wait to be drained; beyond that the oldest are lost, and count as a gap.
KEPT_SAMPLES = 4000
SHORTEST_WAIT_S = 0.002
# On stop, a thread that hangs in a driver is abandoned after this time.
STOP_S = 0.5


class RailSource(Protocol):
    """Sensors that are read together."""

    name: str
    rails: tuple[str, ...]
    period_s: float
    bound_s: float  # readings further apart are not joined

    def read(self) -> list[Reading]: ...

    def close(self) -> None: ...


class RailSampler:
    """One thread for one source: a bus that hangs delays its own rails and nothing else."""

    def __init__(self, source: RailSource, rate_hz: float | None = None) -> None:
        self._source = source
        self.name = source.name
        self.rails = source.rails
        self.period_s = 1 / rate_hz if rate_hz else source.period_s
        self.bound_ns = int(max(source.bound_s, 4 * self.period_s) * 1e9)
        # One period, and two more for a thread that wakes late.
        self.hold_ns = int(3 * self.period_s * 1e9)
        self._samples: dict[str, deque[Sample]] = {rail: deque(maxlen=KEPT_SAMPLES) for rail in source.rails}
        self._newest: dict[str, Sample] = {}
        self._stopped = threading.Event()
        self._has_failed = False
        self._thread = threading.Thread(target=self._run, name=f"sensor {source.name}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end; it ends at once unless a driver hangs."""
        self._stopped.set()

    def join(self, timeout_s: float = STOP_S) -> bool:
        """Wait for the thread to end; return whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def newest(self, rail: str) -> float | None:
        """Return a rail's newest reading in watts; None if there is none or it is too old to stand for now."""
        newest = self._newest.get(rail)
        return newest[1] if newest is not None and now_ns() - newest[0] <= self.bound_ns else None

    def drain(self, rail: str) -> Sequence[Sample]:
        """Return the samples since the last call, in order of time; for one caller."""
        waiting = self._samples[rail]
        return [waiting.popleft() for _ in range(len(waiting))]

    def _run(self) -> None:
        start_ns, tick = now_ns(), 0
        try:
            while not self._stopped.is_set():
                self._read()
                tick = max(tick + 1, int((now_ns() - start_ns) / 1e9 / self.period_s))
                due_s = tick * self.period_s - (now_ns() - start_ns) / 1e9
                self._stopped.wait(max(due_s, SHORTEST_WAIT_S))
        finally:
            self._source.close()

    def _read(self) -> None:
        try:
            readings = self._source.read()
        except Exception:  # whatever a driver writes into a file must not end the measurement
            if not self._has_failed:
                self._has_failed = True
                log.exception("sensor %s cannot be read; its values are null until it can", self._source.name)
            return
        for rail, at_ns, watts in readings:
            if watts is not None:
                self._samples[rail].append((at_ns, watts))
                self._newest[rail] = at_ns, watts
