"""What was seen of each setting, laid over what was forecast: the rate that it holds within the target, and its power.

Without a profile nothing is forecast, and only what was seen tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.power.governor.forecast import Forecast, GovernedSetting, MeasuredMode

# A setting's rate is settled where this share of frames is late: p99 allows 1 %.
_WANTED_LATE = 0.006
_MOST_LATE_COUNTED = 0.1  # in one period; one bad period tells no more than this
_FRAMES_TO_LEARN = 100
_MOST_WEIGHT = 2.0
_GAIN = 0.5
_NEAR = 0.93  # of the held rate: further below, frames in time tell nothing about the limit
_NEWS_BELOW = 1.05  # × the held rate: above, late frames were to be expected
_NEWS_GAIN = 20.0  # frames in time far above the held rate tell more
_FORGET_S = 6 * 3600.0  # in which what was learned falls to 37 %
_FARTHEST = 2.0  # factor by which what is seen moves a forecast at most
_POWER_GAIN = 0.02
_BACK_OFF = 0.9  # of the rate at which a setting without forecast failed
_BELOW_FAILED = 0.99  # the same, with one: just enough that another is preferred
_STEPS = 64  # of the table of powers


@dataclass(frozen=True)
class Observation:
    """One period of one setting."""

    rate: float  # images/s asked
    late: float  # share of frames over the target, dropped ones included
    frames: float
    power_w: float | None


class _Outlook:
    """One setting with a forecast."""

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.factor = 1.0  # of the held rate
        self._held: dict[float | None, float] = {}

    def held_rate(self, target_ms: float | None) -> float:
        held = self._held.get(target_ms)
        if held is None:
            held = self._held[target_ms] = self.forecast.held_rate(target_ms)
        return held * self.factor

    def move(self, log_by: float) -> None:
        self.factor = max(1 / _FARTHEST, min(_FARTHEST, self.factor * math.exp(log_by)))


class _Outlooks:
    """The settings of one mode, with their forecast powers tabled and ranked over rates."""

    def __init__(
        self, engine: MeasuredMode, max_batches: Iterable[int], max_waits_ms: Iterable[float], mode: str
    ) -> None:
        self.of = {
            GovernedSetting(mode, batch, wait_ms): _Outlook(Forecast(engine, batch, wait_ms))
            for batch in max_batches
            for wait_ms in max_waits_ms
            if batch <= len(engine.engine_ms) and (batch > 1 or wait_ms == 0)
        }
        self.power_factor = 1.0
        self._top_rate = max([1e-3, *(each.forecast.held_rate(None) for each in self.of.values())])
        rates = [self._top_rate * step / _STEPS for step in range(_STEPS + 1)]
        self._powers_w = {each: [outlook.forecast.power_w(rate) for rate in rates] for each, outlook in self.of.items()}
        self._thriftiest_first = [
            sorted(self.of, key=lambda each: self._powers_w[each][step]) for step in range(_STEPS)
        ]

    def power_w(self, setting: GovernedSetting, rate: float) -> float:
        below, part = self._place(rate)
        low_w, high_w = self._powers_w[setting][below : below + 2]
        return low_w + (high_w - low_w) * part

    def best(self, need: float, target_ms: float | None) -> GovernedSetting:
        for setting in self._thriftiest_first[self._place(need)[0]]:
            if self.of[setting].held_rate(target_ms) >= need:
                return setting
        return max(self.of, key=lambda each: self.of[each].held_rate(target_ms))

    def _place(self, rate: float) -> tuple[int, float]:
        place = min(rate / self._top_rate, 1.0) * _STEPS
        below = min(int(place), _STEPS - 1)
        return below, place - below


class LearnedRates:
    """Forecasts for every setting of the modes that were measured, corrected by what is seen."""

    def __init__(
        self, engines: Mapping[str, MeasuredMode], max_batches: Sequence[int], max_waits_ms: Sequence[float]
    ) -> None:
        modes = {mode: _Outlooks(engine, max_batches, max_waits_ms, mode) for mode, engine in engines.items()}
        self._modes = {mode: outlooks for mode, outlooks in modes.items() if outlooks.of}
        self._failed_rate: dict[str, float] = {}  # of modes without forecast

    def knows(self, mode: str) -> bool:
        """Return whether the mode was measured."""
        return mode in self._modes

    def power_w(self, setting: GovernedSetting, rate: float) -> float | None:
        """Return the board's power at a rate; None where nothing tells it."""
        outlooks = self._modes.get(setting.mode)
        if outlooks is None or setting not in outlooks.of:
            return None
        return outlooks.power_w(setting, rate) * outlooks.power_factor

    def held_rate(self, setting: GovernedSetting, target_ms: float | None) -> float:
        """Return the most images/s within the target; infinite where nothing tells a limit."""
        outlook = self._outlook(setting)
        if outlook is None:
            return self._failed_rate.get(setting.mode, math.inf) * _BACK_OFF
        return outlook.held_rate(target_ms)

    def best(self, mode: str, need: float, target_ms: float | None) -> GovernedSetting:
        """Return the mode's setting of least power that holds `need` images/s; else the one that holds most."""
        outlooks = self._modes.get(mode)
        return GovernedSetting(mode, None, None) if outlooks is None else outlooks.best(need, target_ms)

    def _outlook(self, setting: GovernedSetting) -> _Outlook | None:
        outlooks = self._modes.get(setting.mode)
        return None if outlooks is None else outlooks.of.get(setting)

    def learn(self, setting: GovernedSetting, seen: Observation, target_ms: float | None) -> None:
        """Take in a period in which the setting was in force from start to end."""
        outlook = self._outlook(setting)
        if outlook is None:
            if seen.late > _WANTED_LATE and seen.frames * seen.late >= 1:
                self._failed_rate[setting.mode] = min(seen.rate, self._failed_rate.get(setting.mode, math.inf))
            return
        load = seen.rate / max(outlook.held_rate(target_ms), 1e-9)
        outlook.move(_GAIN * min(_MOST_WEIGHT, seen.frames / _FRAMES_TO_LEARN) * _lesson(load, seen.late))
        if seen.power_w:
            outlooks = self._modes[setting.mode]
            ratio = seen.power_w / max(outlooks.power_w(setting, seen.rate), 1e-3)
            outlooks.power_factor += _POWER_GAIN * (max(0.5, min(2.0, ratio)) - outlooks.power_factor)

    def failed(self, setting: GovernedSetting, rate: float, target_ms: float | None) -> None:
        """Note that a setting was late at a rate for so long that it cannot be chance."""
        outlook = self._outlook(setting)
        if outlook is not None and (held := outlook.held_rate(target_ms)) > _BELOW_FAILED * rate > 0:
            outlook.move(math.log(_BELOW_FAILED * rate / held))

    def forget(self, over_s: float) -> None:
        """Let what was learned fade, as what caused it may be gone."""
        left = 1 - min(1.0, over_s / _FORGET_S)
        for outlooks in self._modes.values():
            for outlook in outlooks.of.values():
                outlook.factor = 1 + (outlook.factor - 1) * left
        for mode in self._failed_rate:
            self._failed_rate[mode] /= max(left, 0.5)


def _lesson(load: float, late: float) -> float:
    """Return how much more, or less, a share of late frames says that is held; `load` is in parts of what is held."""
    if late > _WANTED_LATE:
        # Beyond what is held, late frames are no news.
        return _WANTED_LATE - min(late, _MOST_LATE_COUNTED) if load < _NEWS_BELOW else 0.0
    if load < _NEAR:
        return 0.0
    return (_WANTED_LATE - late) * (1 + _NEWS_GAIN * max(0.0, load - 1))
