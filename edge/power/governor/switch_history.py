"""History of the governor's mode switches: the outcome of the last one, and when the next is due."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from edge.power.governor.contract import Rules

_HOUR_S = 3600.0
# Tuned on simulated days of seeds 1 to 6 (benchmarks/governor.md), as the next four.
_SHORTEST_CALM_S = 20.0
_USUAL_STAYS = 5.0  # dwells, until stays were observed
_STAY_GAIN = 0.3
_MOST_EXPLORATION = 0.2  # fraction of the demand
_EXPLORATION_S = 300.0  # after which it is reached
_TRIES = 3  # inputs until a mode must be in force; chosen: 15 s of telemetry periods, as a change takes seconds

InForce = Literal["yes", "not yet", "refused", "changed"]


class SwitchHistory:
    """Decided switches and their outcome."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._mode: str | None = None  # decided
        self._awaited: int | None = None  # inputs that it may still take; None: it has been in force
        self._times_s: deque[float] = deque()  # of the last hour
        self._saved_s: float | None = None  # time of the last one, if it was to save energy
        self.last_s = -math.inf
        self.usual_stay_s = _USUAL_STAYS * rules.min_dwell_s  # in a mode that saves energy

    def follow(self, mode: str, now_s: float) -> InForce:
        """Compare the mode in force with the decided one."""
        decided, self._mode = self._mode, mode
        if decided is None or decided == mode:
            self._awaited = None
            return "yes"
        if self._awaited is None:
            self.last_s = now_s
            return "changed"
        self._awaited -= 1
        if self._awaited <= 0:
            self._awaited = None
            return "refused"
        self._mode = decided
        return "not yet"

    def record(self, mode: str, now_s: float, *, saves: bool = False) -> None:
        """Record a decided switch."""
        if self._saved_s is not None:
            self.usual_stay_s += _STAY_GAIN * (min(now_s - self._saved_s, _HOUR_S) - self.usual_stay_s)
        self._saved_s = now_s if saves else None
        self._mode, self._awaited, self.last_s = mode, _TRIES, now_s
        self._times_s.append(now_s)

    def calm_s(self, now_s: float) -> float:
        """Return the time for which a lower mode must have sufficed before a switch to it: longer after many."""
        return max(_SHORTEST_CALM_S, self._used(now_s) * self._rules.min_dwell_s)

    def exploration(self, now_s: float) -> float:
        """Return the fraction of the demand by which a lower mode's forecast may fall short and still be tried.

        The rate that a mode sustains is only learned in that mode. The fraction grows with the time since the last
        switch, as long as switches are few.
        """
        waited = min(1.0, (now_s - self.last_s) / _EXPLORATION_S)
        return _MOST_EXPLORATION * waited * max(0.0, 1 - 1.3 * self._used(now_s))

    def _used(self, now_s: float) -> float:
        """Return the fraction of the hour's switches already made."""
        return self._of_last_hour(now_s) / self._rules.max_switches_per_h

    def _of_last_hour(self, now_s: float) -> int:
        while self._times_s and self._times_s[0] <= now_s - _HOUR_S:
            self._times_s.popleft()
        return len(self._times_s)

    def has_dwelled(self, now_s: float) -> bool:
        """Return whether a switch that is not urgent may come."""
        return now_s - self.last_s >= self._rules.min_dwell_s

    def can_save(self, now_s: float) -> bool:
        """Return whether the hour has room for a switch that only saves, and for the way back."""
        return self.has_dwelled(now_s) and self._of_last_hour(now_s) + 2 <= self._rules.max_switches_per_h
