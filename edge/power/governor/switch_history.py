"""The governor's switches of the power mode: when they were, what came of the last one, when the next may be."""

from __future__ import annotations

import math
from collections import deque
from typing import Literal

from edge.power.governor.contract import Rules

_HOUR_S = 3600.0
_SHORTEST_CALM_S = 20.0
_USUAL_STAYS = 5.0  # dwells, until stays were seen
_STAY_GAIN = 0.3
_MOST_CURIOUS = 0.2
_CURIOUS_S = 300.0  # after which it is as much
_TRIES = 3  # snapshots that a mode may take to be in force

InForce = Literal["yes", "not yet", "refused", "changed"]


class SwitchHistory:
    """Follows what was decided, and what came of it."""

    def __init__(self, settings: Rules) -> None:
        self._settings = settings
        self._mode: str | None = None  # that is to be in force
        self._awaited: int | None = None  # snapshots that it may still take; None: it was in force
        self._times_s: deque[float] = deque()  # of the last hour
        self._saved_s: float | None = None  # the last one, where it was to save
        self.last_s = -math.inf
        self.usual_stay_s = _USUAL_STAYS * settings.min_dwell_s  # in a mode that was switched to so as to save

    def follow(self, mode: str, now_s: float) -> InForce:
        """Compare the mode in force with what was decided."""
        wanted, self._mode = self._mode, mode
        if wanted is None or wanted == mode:
            self._awaited = None
            return "yes"
        if self._awaited is None:
            self.last_s = now_s
            return "changed"
        self._awaited -= 1
        if self._awaited <= 0:
            self._awaited = None
            return "refused"
        self._mode = wanted
        return "not yet"

    def decided(self, mode: str, now_s: float, *, saves: bool = False) -> None:
        """Note a switch."""
        if self._saved_s is not None:
            self.usual_stay_s += _STAY_GAIN * (min(now_s - self._saved_s, _HOUR_S) - self.usual_stay_s)
        self._saved_s = now_s if saves else None
        self._mode, self._awaited, self.last_s = mode, _TRIES, now_s
        self._times_s.append(now_s)

    def calm_s(self, now_s: float) -> float:
        """Return for how long a lower mode must have held, before it is switched to: more after many switches."""
        return max(_SHORTEST_CALM_S, self._used(now_s) * self._settings.min_dwell_s)

    def curiosity(self, now_s: float) -> float:
        """Return how much less a lower mode may be thought to hold, to be tried: a share of what is asked.

        What a mode holds is only learned in it. It grows with the time since the last switch, while few were made.
        """
        waited = min(1.0, (now_s - self.last_s) / _CURIOUS_S)
        return _MOST_CURIOUS * waited * max(0.0, 1 - 1.3 * self._used(now_s))

    def _used(self, now_s: float) -> float:
        """Return the share of the hour's switches that was made."""
        return self._of_last_hour(now_s) / self._settings.max_switches_per_h

    def _of_last_hour(self, now_s: float) -> int:
        while self._times_s and self._times_s[0] <= now_s - _HOUR_S:
            self._times_s.popleft()
        return len(self._times_s)

    def has_dwelled(self, now_s: float) -> bool:
        """Return whether a switch that is not urgent may come."""
        return now_s - self.last_s >= self._settings.min_dwell_s

    def may_save(self, now_s: float) -> bool:
        """Return whether there is place in the hour for a switch that only saves, and for the way back."""
        return self.has_dwelled(now_s) and self._of_last_hour(now_s) + 2 <= self._settings.max_switches_per_h
