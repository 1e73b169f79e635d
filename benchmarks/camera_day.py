"""Seeded day of camera load: a quiet night, two peaks, a busy time between them, slow drift, and bursts."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

DAY_S = 86_400
_NIGHT, _DAY, _PEAK = 0.06, 0.45, 1.0  # fractions of the peak load
_PEAKS_H = (8.2, 17.6)
_PEAK_WIDTH_H = 1.1
_DAWN_H, _DUSK_H, _TWILIGHT_H = 6.5, 20.5, 0.6
_BURSTS_PER_H = (0.6, 5.0)  # at night, by day
_BURST_S = (10.0, 180.0)
_BURST_GAIN = (1.2, 1.9)  # × the current load, plus a little, so that nights have bursts too
_BURST_ADDED = 0.1
_DRIFT, _DRIFT_S = 0.08, 600.0  # standard deviation and time constant

Array = NDArray[np.float64]


def camera_day(mean_load: float, highest_load: float, seed: int) -> Array:
    """Return the load of each second of a day, in the unit of `mean_load`, capped at `highest_load`."""
    rng = np.random.default_rng(seed)
    usual = _usual() * _drift(rng)
    gain, added = _bursts(rng)
    shape = usual * gain + added
    low, high = 0.0, 100.0
    for _ in range(60):  # the cap lowers the mean, so the scale is searched
        middle = (low + high) / 2
        is_less = np.minimum(shape * middle, highest_load).mean() < mean_load
        low, high = (middle, high) if is_less else (low, middle)
    return np.minimum(shape * low, highest_load)


def _usual() -> Array:
    hour = np.arange(DAY_S) / 3600
    is_day = 1 / (1 + np.exp(-(hour - _DAWN_H) / _TWILIGHT_H)) / (1 + np.exp((hour - _DUSK_H) / _TWILIGHT_H))
    usual = _NIGHT + (_DAY - _NIGHT) * is_day
    for peak_h in _PEAKS_H:
        usual += (_PEAK - _DAY) * np.exp(-(((hour - peak_h) / _PEAK_WIDTH_H) ** 2))
    return np.asarray(usual)


def _drift(rng: np.random.Generator) -> Array:
    """Return a factor that wanders around 1: one value per minute, linearly interpolated."""
    kept = np.exp(-60 / _DRIFT_S)
    steps = rng.normal(0, _DRIFT * np.sqrt(1 - kept**2), DAY_S // 60 + 1)
    values = np.zeros(len(steps))
    for place in range(1, len(steps)):
        values[place] = kept * values[place - 1] + steps[place]
    return np.exp(np.interp(np.arange(DAY_S) / 60, np.arange(len(values)), values))


def _bursts(rng: np.random.Generator) -> tuple[Array, Array]:
    gain, added = np.ones(DAY_S), np.zeros(DAY_S)
    for start_s in np.flatnonzero(rng.random(DAY_S) < _burst_rate()):
        end_s = start_s + int(np.exp(rng.uniform(*np.log(_BURST_S))))
        gain[start_s:end_s] *= rng.uniform(*_BURST_GAIN)
        added[start_s:end_s] += rng.uniform(0, _BURST_ADDED)
    return gain, added


def _burst_rate() -> Array:
    """Return the probability of a burst starting in each second."""
    by_day = (_usual() - _NIGHT) / (_PEAK - _NIGHT)
    return (_BURSTS_PER_H[0] + (_BURSTS_PER_H[1] - _BURSTS_PER_H[0]) * np.minimum(1.0, 2 * by_day)) / 3600
