"""Limits on the power modes: heat, battery, and modes that could not be set."""

from __future__ import annotations

import math

from edge.power.governor.contract import GovernorInput, Rules

_HOT_STEP_S = 30.0  # between two steps down; chosen: a heat sink takes this long to follow
_REFUSED_S = 600.0  # before a mode that could not be set is tried again; chosen: rare enough for an alarm each time


class Limits:
    """The allowed modes, by temperature, battery and refusals."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._hot_modes = 0  # forbidden for heat, counted from the highest
        self._hot_s = self._stepped_s = -math.inf  # when the board was last not cool, and when that count last grew
        self._is_low = False  # battery
        self._refused: dict[str, float] = {}  # mode → until when
        self.reason: str | None = None  # for which modes are forbidden

    def refuse(self, mode: str, now_s: float) -> None:
        """Exclude a mode that could not be set, for a while."""
        self._refused[mode] = now_s + _REFUSED_S

    def allowed(self, state: GovernorInput) -> tuple[str, ...]:
        """Return the modes allowed now, the lowest budget first; none if none of them can be set."""
        self._follow_heat(state)
        self._follow_battery(state)
        modes, now_s = self._rules.modes, state.time_s
        kept = modes[:1] if self._is_low else modes[: len(modes) - self._hot_modes]
        return tuple(each for each in kept if each == state.mode or self._refused.get(each, now_s) <= now_s)

    def _follow_heat(self, state: GovernorInput) -> None:
        now_s, temperature_c, limit_c = (
            state.time_s,
            _finite(state.temperature_c),
            self._rules.max_temperature_c,
        )
        is_over = limit_c is not None and temperature_c is not None and temperature_c >= limit_c
        if is_over or state.is_throttled:
            self.reason = _heat_reason(temperature_c, limit_c) if is_over else "the board is throttling"
            self._hot_s = now_s
            self._step_down(state)
        elif not self._is_cool(temperature_c):
            self._hot_s = now_s
        elif self._hot_modes and now_s - self._hot_s >= self._rules.min_dwell_s:
            self._hot_modes, self._hot_s = self._hot_modes - 1, now_s
        if not self._hot_modes and not self._is_low:
            self.reason = None

    def _is_cool(self, temperature_c: float | None) -> bool:
        """Return whether a higher mode may be allowed again; an unknown temperature is not cool."""
        limit_c = self._rules.max_temperature_c
        if limit_c is None:
            return True
        return temperature_c is not None and temperature_c <= limit_c - self._rules.cool_by_c

    def _step_down(self, state: GovernorInput) -> None:
        modes, now_s = self._rules.modes, state.time_s
        place = modes.index(state.mode) if state.mode in modes else len(modes)
        # The mode in force must be left; if it is forbidden already, the board is given time to cool down.
        if place < len(modes) - self._hot_modes and now_s - self._stepped_s >= _HOT_STEP_S:
            self._hot_modes = min(len(modes) - 1, len(modes) - place)
            self._stepped_s = now_s

    def _follow_battery(self, state: GovernorInput) -> None:
        low, charge = self._rules.low_battery, _finite(state.battery)
        if low is None or charge is None:
            self._is_low = False
            return
        self._is_low = charge < low or (self._is_low and charge < low + self._rules.battery_margin)
        if self._is_low:
            self.reason = f"the battery is at {charge:.0%}, below {low:.0%}"


def _heat_reason(temperature_c: float | None, limit_c: float | None) -> str:
    return f"the board is at {temperature_c:g} °C; the limit is {limit_c:g} °C"


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
