"""Which mode would serve best: by what each holds within the target, and what it takes."""

from __future__ import annotations

import math
from collections.abc import Sequence

from edge.power.governor.demand import Demand
from edge.power.governor.forecast import GovernedSetting
from edge.power.governor.observations import LearnedRates

_SLACK = 0.6  # of the target: p99 must be below it before a mode that was not measured is tried


class ModeRanking:
    """Compares modes at what is asked now; sequences of modes have the lowest budget first."""

    def __init__(self, experience: LearnedRates, demand: Demand) -> None:
        self._experience = experience
        self._demand = demand

    def best(self, mode: str, need: float) -> GovernedSetting:
        """Return the mode's setting of least power that holds `need`, else the one that holds most."""
        return self._experience.best(mode, need, self._demand.target_ms)

    def held(self, setting: GovernedSetting) -> float:
        """Return the most images/s that a setting holds within the target."""
        return self._experience.held_rate(setting, self._demand.target_ms)

    def power_w(self, mode: str, need: float) -> float | None:
        """Return what a mode takes at the rate that is asked, in its setting for `need`."""
        return self._experience.power_w(self.best(mode, need), self._demand.rate)

    def cheapest(self, modes: Sequence[str], need: float) -> str | None:
        """Return the mode of least power that holds `need`; the lower budget first where power is not known."""
        holding = [each for each in modes if self.held(self.best(each, need)) >= need]
        known = [(power_w, each) for each in holding if (power_w := self.power_w(each, need)) is not None]
        if known:
            return min(known)[1]
        return holding[0] if holding else None

    def strongest(self, modes: Sequence[str]) -> str:
        """Return the mode that holds most; the higher budget where that is not known."""
        return max(enumerate(modes), key=lambda each: (self._most_held(each[1]), each[0]))[1]

    def stronger(self, mode: str, modes: Sequence[str]) -> list[str]:
        """Return the modes that hold more than `mode`; where that was not measured, the next budget."""
        place = modes.index(mode)
        if not self._experience.knows(mode):
            return list(modes[place + 1 : place + 2])
        here = self._most_held(mode)
        return [
            each
            for index, each in enumerate(modes)
            if (self._most_held(each) > here if self._experience.knows(each) else index > place)
        ]

    def thriftier(self, mode: str, modes: Sequence[str], need: float) -> str | None:
        """Return the mode that holds `need` with the least power, where that is less than `mode` takes.

        Where `mode` was not measured, it is the next lower budget, as long as p99 leaves room.
        """
        place = modes.index(mode)
        if not self._experience.knows(mode):
            lower = modes[max(0, place - 1) : place]
            p99_ms, target_ms = self._demand.p99_ms, self._demand.target_ms
            has_slack = target_ms is None or (p99_ms is not None and p99_ms < _SLACK * target_ms)
            return self.cheapest(lower, need) if has_slack else None
        found = self.cheapest([each for each in modes if self._experience.knows(each)], need)
        if found is None or found == mode:
            return None
        here_w, there_w = self.power_w(mode, self._demand.need), self.power_w(found, self._demand.need)
        return found if here_w is not None and there_w is not None and there_w < here_w else None

    def told(self, mode: str, need: float) -> str:
        """Say what a mode holds."""
        held, target_ms = self.held(self.best(mode, need)), self._demand.target_ms
        if math.isinf(held):
            return "was not seen to fail"
        return f"holds {held:.0f}" + ("" if target_ms is None else f" within {target_ms:g} ms")

    def _most_held(self, mode: str) -> float:
        return self.held(self.best(mode, math.inf))
