"""Progress of a build: TensorRT's nested phases as one fraction, reported to the parent process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

READ, BUILT = 0.05, 0.95  # fractions of the whole once the model is read, and once the plan is built
_MIN_STEP = 0.01  # of the whole, between two reports
_MAX_PAUSE_S = 0.1  # after which a report is sent whatever its step


class Phases:
    """TensorRT's nested phases as one fraction, which never decreases."""

    def __init__(self) -> None:
        self._open: dict[str, _Phase] = {}
        self._root: _Phase | None = None
        self.fraction = 0.0

    def start(self, name: str, parent: str | None, steps: int) -> None:
        phase = _Phase(self._open.get(parent or ""), max(steps, 1))
        if phase.parent is None:
            self._root = phase
        self._open[name] = phase

    def step(self, name: str, step: int) -> None:
        if phase := self._open.get(name):
            phase.done, phase.inner = step + 1, 0.0
            self._carry_up(phase)

    def finish(self, name: str) -> None:
        if phase := self._open.pop(name, None):
            phase.done, phase.inner = phase.steps, 0.0
            self._carry_up(phase)

    def _carry_up(self, phase: _Phase) -> None:
        while phase.parent is not None:
            phase.parent.inner = phase.fraction
            phase = phase.parent
        if phase is self._root:
            self.fraction = max(self.fraction, phase.fraction)


@dataclass
class _Phase:
    parent: _Phase | None
    steps: int
    done: int = 0
    inner: float = 0.0  # fraction of the current step

    @property
    def fraction(self) -> float:
        return min(1.0, (self.done + self.inner) / self.steps)


class Reporter:
    """Sends progress to the parent at a bounded rate, and holds whether the build is cancelled."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()  # TensorRT reports progress from several threads
        self._phases = Phases()
        self._fraction = 0.0  # never decreases
        self._last_report = (-1.0, 0.0)  # fraction, time
        self.cancelled = False

    def report(self, phase: str, fraction: float) -> None:
        """Send the phase and the fraction done, unless the last report was just now."""
        with self._lock:
            if self.cancelled:  # TensorRT then finishes its phases without their work
                return
            self._fraction = max(self._fraction, fraction)
            last, last_s = self._last_report
            if self._fraction - last >= _MIN_STEP or monotonic() - last_s >= _MAX_PAUSE_S:
                self._last_report = self._fraction, monotonic()
                self._send({"phase": phase, "fraction": round(self._fraction, 4)})

    def _send(self, line: Mapping[str, Any]) -> None:
        try:
            self._write(line)
        except OSError:  # the parent is gone
            self.cancelled = True

    def update(self, change: Callable[[Phases], None], phase: str) -> None:
        """Apply an event of TensorRT's progress monitor, and report."""
        with self._lock:
            change(self._phases)
            fraction = self._phases.fraction
        self.report(phase, READ + (BUILT - READ) * fraction)
