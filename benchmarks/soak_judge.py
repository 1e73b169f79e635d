"""Growth of a process: the slope of a series of readings, its confidence, and whether it exceeds the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WARM_UP = 0.25  # fraction of the time that is not assessed: caches and pools fill
POINTS = 60  # number of equal stretches whose medians are assessed, so that single readings do not matter
LEAST_POINTS = 12
DRAWS = 400  # of the bootstrap
CONFIDENCE = 0.95
HOUR_S = 3600.0
TO_DEVIATION = 1.4826  # median absolute deviation → standard deviation of a normal distribution

Series = NDArray[np.float64]


@dataclass(frozen=True)
class Trend:
    """Trend of a series, in its unit per hour except for the last two fields."""

    slope: float
    low: float  # of the confidence interval
    high: float
    growth: float  # over the assessed time
    noise: float  # standard deviation of the points about the line


@dataclass(frozen=True)
class Verdict:
    """Verdict on one figure: it grows only if it does so in the whole time and in its second half."""

    whole: Trend
    second_half: Trend
    tolerance: float  # tolerated growth over the assessed time

    @property
    def is_flat(self) -> bool:
        return not (self._rises(self.whole) and self._rises(self.second_half))

    def _rises(self, trend: Trend) -> bool:
        share = 1.0 if trend is self.whole else 0.5
        return trend.low > 0 and trend.growth > max(self.tolerance * share, trend.noise * share)


def judge(
    times_s: Sequence[float] | Series, values: Sequence[float] | Series, tolerance: float, seed: int = 0
) -> Verdict:
    """Assess a series of readings after its warm-up; raise ValueError if there are too few."""
    times, points = medians(np.asarray(times_s, np.float64), np.asarray(values, np.float64))
    random = np.random.default_rng(seed)
    half = len(times) // 2
    return Verdict(trend(times, points, random), trend(times[half:], points[half:], random), tolerance)


def medians(times_s: Series, values: Series) -> tuple[Series, Series]:
    """Return the medians of the stretches after the warm-up."""
    start_s = times_s[0] + WARM_UP * (times_s[-1] - times_s[0]) if len(times_s) else 0.0
    kept = times_s >= start_s
    count = min(POINTS, int(kept.sum()) // 2)
    if count < LEAST_POINTS:
        raise ValueError(
            f"found {len(times_s)} readings, wanted at least {round(2 * LEAST_POINTS / (1 - WARM_UP)) + 1}"
        )
    stretches = zip(np.array_split(times_s[kept], count), np.array_split(values[kept], count), strict=True)
    both = [(np.median(time), np.median(value)) for time, value in stretches]
    return np.array([each[0] for each in both]), np.array([each[1] for each in both])


def trend(times_s: Series, values: Series, random: np.random.Generator) -> Trend:
    """Fit a line, with the confidence of lines through residuals resampled in blocks, since neighbours correlate."""
    slope = theil_sen(times_s, values)
    line = slope * times_s
    left = values - line
    left -= np.median(left)
    block = max(2, round(len(left) ** 0.5))
    draws = [theil_sen(times_s, line + _in_blocks(left, block, random)) for _ in range(DRAWS)]
    low, high = np.quantile(draws, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    noise = float(np.median(np.abs(left))) * TO_DEVIATION
    growth = slope * float(times_s[-1] - times_s[0])
    return Trend(slope * HOUR_S, float(low) * HOUR_S, float(high) * HOUR_S, growth, noise)


def theil_sen(times_s: Series, values: Series) -> float:
    """Return the median slope of all pairs of points, which outliers hardly affect."""
    first, second = np.triu_indices(len(times_s), 1)
    return float(np.median((values[second] - values[first]) / (times_s[second] - times_s[first])))


def _in_blocks(left: Series, block: int, random: np.random.Generator) -> Series:
    starts = random.integers(0, len(left) - block + 1, -(-len(left) // block))
    return np.concatenate([left[start : start + block] for start in starts])[: len(left)]
