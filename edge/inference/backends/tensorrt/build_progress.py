"""How far a build is: TensorRT's nested phases as one fraction, told to the process that waits for it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import monotonic
from typing import Any

READ, BUILT = 0.05, 0.95  # fractions of the whole at which the model is read, and the plan is built
_LEAST_STEP = 0.01  # of the whole, between two lines of progress
_LEAST_PAUSE_S = 0.1  # or this much time


class Phases:
    """Nested phases that TensorRT tells of, as one fraction, which never goes back."""

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
            phase.parent.inner = phase.share
            phase = phase.parent
        if phase is self._root:
            self.fraction = max(self.fraction, phase.share)


@dataclass
class _Phase:
    parent: _Phase | None
    steps: int
    done: int = 0
    inner: float = 0.0  # of the step at hand

    @property
    def share(self) -> float:
        return min(1.0, (self.done + self.inner) / self.steps)


class Reporter:
    """Tells the parent how far the build is, not too often, and holds whether it is still wanted."""

    def __init__(self, write: Callable[[Mapping[str, Any]], None]) -> None:
        self._write = write
        self._lock = threading.Lock()  # TensorRT tells its progress from several threads
        self._phases = Phases()
        self._fraction = 0.0  # it never goes back
        self._told = (-1.0, 0.0)  # fraction, time
        self.cancelled = False

    def tell(self, phase: str, fraction: float) -> None:
        with self._lock:
            if self.cancelled:  # TensorRT then finishes its phases without having done them
                return
            self._fraction = max(self._fraction, fraction)
            told, told_s = self._told
            if self._fraction - told >= _LEAST_STEP or monotonic() - told_s >= _LEAST_PAUSE_S:
                self._told = self._fraction, monotonic()
                self._send({"phase": phase, "fraction": round(self._fraction, 4)})

    def _send(self, line: Mapping[str, Any]) -> None:
        try:
            self._write(line)
        except OSError:  # the parent is gone
            self.cancelled = True

    def monitored(self, change: Callable[[Phases], None], phase: str) -> None:
        """Take one event of TensorRT's progress monitor."""
        with self._lock:
            change(self._phases)
            fraction = self._phases.fraction
        self.tell(phase, READ + (BUILT - READ) * fraction)
