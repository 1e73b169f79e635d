"""Which power modes may be used now: heat, battery, and modes that could not be set."""

from __future__ import annotations

import math

from edge.power.governor.contract import GovernorInput, Rules

_HOT_STEP_S = 30.0  # between two steps down, as a heat sink is slow
_REFUSED_S = 600.0  # before a mode that could not be set is tried again


class Limits:
    """Follows temperature, battery and refusals from snapshot to snapshot."""

    def __init__(self, settings: Rules) -> None:
        self._settings = settings
        self._hot_modes = 0  # that are forbidden, from the highest
        self._hot_s = self._stepped_s = -math.inf  # when the board was last not cool, and when that number last grew
        self._is_low = False  # battery
        self._refused: dict[str, float] = {}  # mode → until when
        self.reason: str | None = None  # why modes are forbidden, in words

    def refuse(self, mode: str, now_s: float) -> None:
        """Leave out a mode that could not be set, for a while."""
        self._refused[mode] = now_s + _REFUSED_S

    def allowed(self, snapshot: GovernorInput) -> tuple[str, ...]:
        """Return the modes that may be used now, the lowest budget first; none where none of them can be set."""
        self._follow_heat(snapshot)
        self._follow_battery(snapshot)
        modes, now_s = self._settings.modes, snapshot.time_s
        kept = modes[:1] if self._is_low else modes[: len(modes) - self._hot_modes]
        return tuple(each for each in kept if each == snapshot.mode or self._refused.get(each, now_s) <= now_s)

    def _follow_heat(self, snapshot: GovernorInput) -> None:
        now_s, temperature_c, limit_c = (
            snapshot.time_s,
            _finite(snapshot.temperature_c),
            self._settings.max_temperature_c,
        )
        is_over = limit_c is not None and temperature_c is not None and temperature_c >= limit_c
        if is_over or snapshot.is_throttled:
            self.reason = _heat_told(temperature_c, limit_c) if is_over else "the board throttles"
            self._hot_s = now_s
            self._step_down(snapshot)
        elif not self._is_cool(temperature_c):
            self._hot_s = now_s
        elif self._hot_modes and now_s - self._hot_s >= self._settings.min_dwell_s:
            self._hot_modes, self._hot_s = self._hot_modes - 1, now_s
        if not self._hot_modes and not self._is_low:
            self.reason = None

    def _is_cool(self, temperature_c: float | None) -> bool:
        """Return whether a higher mode may be allowed again; a temperature that is not known is not cool."""
        limit_c = self._settings.max_temperature_c
        if limit_c is None:
            return True
        return temperature_c is not None and temperature_c <= limit_c - self._settings.cool_by_c

    def _step_down(self, snapshot: GovernorInput) -> None:
        modes, now_s = self._settings.modes, snapshot.time_s
        place = modes.index(snapshot.mode) if snapshot.mode in modes else len(modes)
        # The mode in force must go; where it is forbidden already, it is given time to cool the board.
        if place < len(modes) - self._hot_modes and now_s - self._stepped_s >= _HOT_STEP_S:
            self._hot_modes = min(len(modes) - 1, len(modes) - place)
            self._stepped_s = now_s

    def _follow_battery(self, snapshot: GovernorInput) -> None:
        low, charge = self._settings.low_battery, _finite(snapshot.battery)
        if low is None or charge is None:
            self._is_low = False
            return
        self._is_low = charge < low or (self._is_low and charge < low + self._settings.battery_margin)
        if self._is_low:
            self.reason = f"the battery is at {charge:.0%}, below {low:.0%}"


def _heat_told(temperature_c: float | None, limit_c: float | None) -> str:
    return f"the board is at {temperature_c:g} °C, and the limit is {limit_c:g} °C"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
