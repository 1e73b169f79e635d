"""Rate that each setting sustains within the target, and its power: forecasts corrected by observations.

Without a profile there is no forecast, only observations.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from edge.power.governor.forecast import Forecast, GovernedSetting, MeasuredMode

# Tuned on simulated days of seeds 1 to 6 (benchmarks/governor.md).
_TARGET_LATE = 0.006  # fraction of late frames at which a setting's rate settles: below the 1 % that p99 allows
_MOST_LATE_COUNTED = 0.1  # in one period, so that a single bad one does not dominate
_FRAMES_TO_LEARN = 100  # for a weight of 1
_MOST_WEIGHT = 2.0  # of a period with more frames
_GAIN = 0.5
_NEAR = 0.93  # × the sustained rate; further below, frames in time say nothing about the limit
_NEWS_BELOW = 1.05  # × the sustained rate; above, late frames were to be expected
_NEWS_GAIN = 20.0  # of frames in time above the sustained rate
_FORGET_S = 6 * 3600.0  # in which a correction decays to 37 %
_FARTHEST = 2.0  # factor by which observations move a forecast at most
_POWER_GAIN = 0.02
_BACK_OFF = 0.9  # × the rate at which a setting without a forecast failed
_BELOW_FAILED = 0.99  # the same with a forecast: just enough that another setting is preferred
_STEPS = 64  # of the table of powers; chosen: fine enough to interpolate between


@dataclass(frozen=True)
class Observation:
    """One period of one setting."""

    rate: float  # images/s offered
    late: float  # fraction of frames over the target, dropped ones included
    frames: float
    power_w: float | None


class _SettingForecast:
    """Forecast of one setting, with its correction."""

    def __init__(self, forecast: Forecast) -> None:
        self.forecast = forecast
        self.factor = 1.0  # of the sustained rate
        self._held: dict[float | None, float] = {}

    def sustained_rate(self, target_ms: float | None) -> float:
        held = self._held.get(target_ms)
        if held is None:
            held = self._held[target_ms] = self.forecast.sustained_rate(target_ms)
        return held * self.factor

    def move(self, log_by: float) -> None:
        self.factor = max(1 / _FARTHEST, min(_FARTHEST, self.factor * math.exp(log_by)))


class _ModeForecasts:
    """Forecasts of the settings of one mode, with their power tabulated and ranked by rate."""

    def __init__(
        self, engine: MeasuredMode, max_batches: Iterable[int], max_waits_ms: Iterable[float], mode: str
    ) -> None:
        self.of = {
            GovernedSetting(mode, batch, wait_ms): _SettingForecast(Forecast(engine, batch, wait_ms))
            for batch in max_batches
            for wait_ms in max_waits_ms
            if batch <= len(engine.engine_ms) and (batch > 1 or wait_ms == 0)
        }
        self.power_factor = 1.0
        self._top_rate = max([1e-3, *(each.forecast.sustained_rate(None) for each in self.of.values())])
        rates = [self._top_rate * step / _STEPS for step in range(_STEPS + 1)]
        self._powers_w = {
            each: [setting_forecast.forecast.power_w(rate) for rate in rates]
            for each, setting_forecast in self.of.items()
        }
        self._cheapest_first = [sorted(self.of, key=lambda each: self._powers_w[each][step]) for step in range(_STEPS)]

    def power_w(self, setting: GovernedSetting, rate: float) -> float:
        below, part = self._place(rate)
        low_w, high_w = self._powers_w[setting][below : below + 2]
        return low_w + (high_w - low_w) * part

    def best(self, need: float, target_ms: float | None) -> GovernedSetting:
        for setting in self._cheapest_first[self._place(need)[0]]:
            if self.of[setting].sustained_rate(target_ms) >= need:
                return setting
        return max(self.of, key=lambda each: self.of[each].sustained_rate(target_ms))

    def _place(self, rate: float) -> tuple[int, float]:
        place = min(rate / self._top_rate, 1.0) * _STEPS
        below = min(int(place), _STEPS - 1)
        return below, place - below


class LearnedRates:
    """Forecasts for every setting of the measured modes, corrected by observations."""

    def __init__(
        self, engines: Mapping[str, MeasuredMode], max_batches: Sequence[int], max_waits_ms: Sequence[float]
    ) -> None:
        modes = {mode: _ModeForecasts(engine, max_batches, max_waits_ms, mode) for mode, engine in engines.items()}
        self._modes = {mode: forecasts for mode, forecasts in modes.items() if forecasts.of}
        self._failed_rate: dict[str, float] = {}  # of modes without a forecast

    def knows(self, mode: str) -> bool:
        """Return whether the mode was measured."""
        return mode in self._modes

    def power_w(self, setting: GovernedSetting, rate: float) -> float | None:
        """Return the board's power at a rate; None if unknown."""
        forecasts = self._modes.get(setting.mode)
        if forecasts is None or setting not in forecasts.of:
            return None
        return forecasts.power_w(setting, rate) * forecasts.power_factor

    def sustained_rate(self, setting: GovernedSetting, target_ms: float | None) -> float:
        """Return the most images/s within the target; infinite if no limit is known."""
        setting_forecast = self._outlook(setting)
        if setting_forecast is None:
            return self._failed_rate.get(setting.mode, math.inf) * _BACK_OFF
        return setting_forecast.sustained_rate(target_ms)

    def best(self, mode: str, need: float, target_ms: float | None) -> GovernedSetting:
        """Return the mode's setting of least power that sustains `need` images/s; else the one that sustains most."""
        forecasts = self._modes.get(mode)
        return GovernedSetting(mode, None, None) if forecasts is None else forecasts.best(need, target_ms)

    def _outlook(self, setting: GovernedSetting) -> _SettingForecast | None:
        forecasts = self._modes.get(setting.mode)
        return None if forecasts is None else forecasts.of.get(setting)

    def learn(self, setting: GovernedSetting, observed: Observation, target_ms: float | None) -> None:
        """Learn from a period in which the setting was in force from start to end."""
        setting_forecast = self._outlook(setting)
        if setting_forecast is None:
            if observed.late > _TARGET_LATE and observed.frames * observed.late >= 1:
                self._failed_rate[setting.mode] = min(observed.rate, self._failed_rate.get(setting.mode, math.inf))
            return
        load = observed.rate / max(setting_forecast.sustained_rate(target_ms), 1e-9)
        setting_forecast.move(
            _GAIN * min(_MOST_WEIGHT, observed.frames / _FRAMES_TO_LEARN) * _correction(load, observed.late)
        )
        if observed.power_w:
            forecasts = self._modes[setting.mode]
            ratio = observed.power_w / max(forecasts.power_w(setting, observed.rate), 1e-3)
            forecasts.power_factor += _POWER_GAIN * (max(0.5, min(2.0, ratio)) - forecasts.power_factor)

    def failed(self, setting: GovernedSetting, rate: float, target_ms: float | None) -> None:
        """Record that a setting was late at a rate for longer than chance explains."""
        setting_forecast = self._outlook(setting)
        if (
            setting_forecast is not None
            and (held := setting_forecast.sustained_rate(target_ms)) > _BELOW_FAILED * rate > 0
        ):
            setting_forecast.move(math.log(_BELOW_FAILED * rate / held))

    def forget(self, over_s: float) -> None:
        """Let corrections decay, as their cause may be gone."""
        left = 1 - min(1.0, over_s / _FORGET_S)
        for forecasts in self._modes.values():
            for setting_forecast in forecasts.of.values():
                setting_forecast.factor = 1 + (setting_forecast.factor - 1) * left
        for mode in self._failed_rate:
            self._failed_rate[mode] /= max(left, 0.5)


def _correction(load: float, late: float) -> float:
    """Return the logarithmic correction of a sustained rate by late frames; `load` is the fraction of that rate."""
    if late > _TARGET_LATE:
        # Beyond the sustained rate, late frames are expected.
        return _TARGET_LATE - min(late, _MOST_LATE_COUNTED) if load < _NEWS_BELOW else 0.0
    if load < _NEAR:
        return 0.0
    return (_TARGET_LATE - late) * (1 + _NEWS_GAIN * max(0.0, load - 1))
