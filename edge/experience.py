"""What was seen of each setting, laid over what was forecast: the rate that it holds within the target, and its power.

Without a profile nothing is forecast, and only what was seen tells.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from edge.forecast import Forecast, Measured, Setting

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
_FARTHEST = 0.7  # natural logarithm: what is seen moves a forecast by a factor of 2 at most
_POWER_GAIN = 0.02
_BACK_OFF = 0.9  # of the rate at which a setting without forecast failed
_BELOW_FAILED = 0.99  # the same, with one: just enough that another is preferred
_STEPS = 64  # of the table of powers


@dataclass(frozen=True)
class Seen:
    """One period of one setting."""

    rate: float  # images/s asked
    late: float  # share of frames over the target, dropped ones included
    frames: float
    power_w: float | None


class _Outlook:
    """One setting with a forecast."""

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.log_factor = 0.0  # of the held rate
        self._held: dict[float | None, float] = {}
        self._top_rate = max(forecast.held_rate(None), 1e-3)
        self._powers_w = [forecast.power_w(self._top_rate * step / _STEPS) for step in range(_STEPS + 1)]

    def held_rate(self, target_ms: float | None) -> float:
        if target_ms not in self._held:
            self._held[target_ms] = self.forecast.held_rate(target_ms)
        return self._held[target_ms] * math.exp(self.log_factor)

    def power_w(self, rate: float) -> float:
        place = min(rate / self._top_rate, 1.0) * _STEPS
        below = min(int(place), _STEPS - 1)
        low_w, high_w = self._powers_w[below], self._powers_w[below + 1]
        return low_w + (high_w - low_w) * (place - below)


class Experience:
    """Forecasts for every setting of the modes that were measured, corrected by what is seen."""

    def __init__(
        self, engines: Mapping[str, Measured], max_batches: Iterable[int], max_waits_ms: Iterable[float]
    ) -> None:
        self._outlooks = {
            mode: {
                Setting(mode, batch, wait_ms): _Outlook(Forecast(engine, batch, wait_ms))
                for batch in max_batches
                for wait_ms in max_waits_ms
                if batch <= len(engine.engine_ms) and (batch > 1 or wait_ms == 0)
            }
            for mode, engine in engines.items()
        }
        self._power_factor = dict.fromkeys(engines, 1.0)
        self._failed_rate: dict[str, float] = {}  # of modes without forecast

    def knows(self, mode: str) -> bool:
        """Return whether the mode was measured."""
        return bool(self._outlooks.get(mode))

    def power_w(self, setting: Setting, rate: float) -> float | None:
        """Return the board's power at a rate; None where nothing tells it."""
        outlook = self._outlooks.get(setting.mode, {}).get(setting)
        return None if outlook is None else outlook.power_w(rate) * self._power_factor[setting.mode]

    def held_rate(self, setting: Setting, target_ms: float | None) -> float:
        """Return the most images/s within the target; infinite where nothing tells a limit."""
        outlook = self._outlooks.get(setting.mode, {}).get(setting)
        if outlook is None:
            return self._failed_rate.get(setting.mode, math.inf) * _BACK_OFF
        return outlook.held_rate(target_ms)

    def best(self, mode: str, need: float, target_ms: float | None) -> Setting:
        """Return the mode's setting of least power that holds `need` images/s; else the one that holds most."""
        outlooks = self._outlooks.get(mode)
        if not outlooks:
            return Setting(mode, None, None)
        holding = [each for each, outlook in outlooks.items() if outlook.held_rate(target_ms) >= need]
        if holding:
            return min(holding, key=lambda each: outlooks[each].power_w(need))
        return max(outlooks, key=lambda each: outlooks[each].held_rate(target_ms))

    def learn(self, setting: Setting, seen: Seen, target_ms: float | None) -> None:
        """Take in a period in which the setting was in force from start to end."""
        outlook = self._outlooks.get(setting.mode, {}).get(setting)
        if outlook is None:
            if seen.late > _WANTED_LATE and seen.frames * seen.late >= 1:
                self._failed_rate[setting.mode] = min(seen.rate, self._failed_rate.get(setting.mode, math.inf))
            return
        outlook.log_factor += (
            _GAIN
            * min(_MOST_WEIGHT, seen.frames / _FRAMES_TO_LEARN)
            * _lesson(seen.rate / max(outlook.held_rate(target_ms), 1e-9), seen.late)
        )
        outlook.log_factor = max(-_FARTHEST, min(_FARTHEST, outlook.log_factor))
        if seen.power_w:
            ratio = seen.power_w / max(outlook.power_w(seen.rate), 1e-3)
            factor = self._power_factor[setting.mode]
            self._power_factor[setting.mode] = factor + _POWER_GAIN * (min(2.0, max(0.5, ratio)) - factor)

    def failed(self, setting: Setting, rate: float, target_ms: float | None) -> None:
        """Note that a setting was late at a rate for so long that it cannot be chance."""
        outlook = self._outlooks.get(setting.mode, {}).get(setting)
        if outlook is not None and rate > 0:
            beyond = math.log(max(outlook.held_rate(target_ms), 1e-9) / (_BELOW_FAILED * rate))
            outlook.log_factor = max(-_FARTHEST, outlook.log_factor - max(0.0, beyond))

    def forget(self, over_s: float) -> None:
        """Let what was learned fade, as what caused it may be gone."""
        left = math.exp(-over_s / _FORGET_S)
        for outlooks in self._outlooks.values():
            for outlook in outlooks.values():
                outlook.log_factor *= left
        for mode in self._failed_rate:
            self._failed_rate[mode] /= left


def _lesson(load: float, late: float) -> float:
    """Return by how much a share of late frames says that more, or less, is held; `load` is in parts of what is held."""
    if late > _WANTED_LATE:
        # Beyond what is held, late frames are no news.
        return _WANTED_LATE - min(late, _MOST_LATE_COUNTED) if load < _NEWS_BELOW else 0.0
    if load < _NEAR:
        return 0.0
    return (_WANTED_LATE - late) * (1 + _NEWS_GAIN * max(0.0, load - 1))
