"""Ranking of power modes by the rate that each sustains within the target, and by power."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.power.governor.demand import Demand
from edge.power.governor.forecast import GovernedSetting
from edge.power.governor.learned_rates import LearnedRates

# Fraction of the target; p99 must be below it before a lower mode is tried without a profile. Chosen: it leaves room
# for a mode that is 1.7 times slower.
_SLACK = 0.6


class ModeRanking:
    """Compares modes at the current demand; sequences of modes have the lowest budget first."""

    def __init__(self, learned: LearnedRates, demand: Demand) -> None:
        self._learned = learned
        self._demand = demand

    def best(self, mode: str, need: float) -> GovernedSetting:
        """Return the mode's setting of least power that sustains `need`, else the one that sustains most."""
        return self._learned.best(mode, need, self._demand.target_ms)

    def sustained(self, setting: GovernedSetting) -> float:
        """Return the most images/s that a setting sustains within the target."""
        return self._learned.sustained_rate(setting, self._demand.target_ms)

    def power_w(self, mode: str, need: float) -> float | None:
        """Return a mode's power at the current demand, in its setting for `need`."""
        return self._learned.power_w(self.best(mode, need), self._demand.rate)

    def cheapest(self, modes: Sequence[str], need: float) -> str | None:
        """Return the mode of least power that sustains `need`; the lowest budget if power is unknown."""
        sufficient = [each for each in modes if self.sustained(self.best(each, need)) >= need]
        known = [(power_w, each) for each in sufficient if (power_w := self.power_w(each, need)) is not None]
        if known:
            return min(known)[1]
        return sufficient[0] if sufficient else None

    def strongest(self, modes: Sequence[str]) -> str:
        """Return the mode that sustains most; the highest budget if that is unknown."""
        return max(enumerate(modes), key=lambda each: (self._most_sustained(each[1]), each[0]))[1]

    def stronger(self, mode: str, modes: Sequence[str]) -> list[str]:
        """Return the modes that sustain more than `mode`; the next budget if `mode` was not measured."""
        place = modes.index(mode)
        if not self._learned.knows(mode):
            return list(modes[place + 1 : place + 2])
        here = self._most_sustained(mode)
        return [
            each
            for index, each in enumerate(modes)
            if (self._most_sustained(each) > here if self._learned.knows(each) else index > place)
        ]

    def cheaper(self, mode: str, modes: Sequence[str], need: float) -> str | None:
        """Return the mode that sustains `need` with the least power, if that is less than the power of `mode`.

        If `mode` was not measured, it is the next lower budget, as long as p99 leaves room.
        """
        place = modes.index(mode)
        if not self._learned.knows(mode):
            lower = modes[max(0, place - 1) : place]
            p99_ms, target_ms = self._demand.p99_ms, self._demand.target_ms
            has_slack = target_ms is None or (p99_ms is not None and p99_ms < _SLACK * target_ms)
            return self.cheapest(lower, need) if has_slack else None
        found = self.cheapest([each for each in modes if self._learned.knows(each)], need)
        if found is None or found == mode:
            return None
        here_w, there_w = self.power_w(mode, self._demand.need), self.power_w(found, self._demand.need)
        return found if here_w is not None and there_w is not None and there_w < here_w else None

    def describe(self, mode: str, need: float) -> str:
        """Return in words the rate that a mode sustains."""
        rate, target_ms = self.sustained(self.best(mode, need)), self._demand.target_ms
        if math.isinf(rate):
            return "has not failed so far"
        return f"sustains {rate:.0f}" + ("" if target_ms is None else f" within {target_ms:g} ms")

    def _most_sustained(self, mode: str) -> float:
        return self.sustained(self.best(mode, math.inf))
