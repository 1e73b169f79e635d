"""How one figure of a row changed from one run to the next, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from edge.perf.bench.sample_statistics import (
    Array,
    Block,
    rates_per_s,
    relative_error,
    resampled_medians_ms,
    resampled_rates_per_s,
    student_t,
)
from edge.perf.bench.stability import drift

BETTER, SAME, WORSE, UNCLEAR = "better", "same", "worse", "unclear"
_RESAMPLED: Mapping[str, Callable[[Sequence[Block]], Array]] = {
    "images_per_s": resampled_rates_per_s,
    "latency_ms": resampled_medians_ms,
}
FIGURES = tuple(_RESAMPLED)


@dataclass(frozen=True)
class FigureChange:
    """One figure now ÷ the same figure before, and the interval that the samples leave it; not drift between runs."""

    figure: str  # images_per_s or latency_ms, the median
    ratio: float
    low: float
    high: float
    verdict: str


def change(
    figure: str, before: Sequence[Block], now: Sequence[Block], tolerance: float, confidence: float
) -> FigureChange | None:
    """Return what became of a figure, from at least two blocks a run; None where a run has no such figure.

    The interval is that of Student's t, with the standard errors from resampled blocks, so it holds what varied within
    the two runs; half of what the blocks drifted is added. What varies between runs is the tolerance's business: a
    figure has changed where it differs by more than the root of the summed squares of both.
    """
    runs = (before, now)
    resampled = [_RESAMPLED[figure](blocks) for blocks in runs]
    errors = [relative_error(each, len(blocks)) for each, blocks in zip(resampled, runs, strict=True)]
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = float(resampled[1][0] / resampled[0][0])
    if not (math.isfinite(math.hypot(*errors)) and math.isfinite(ratio) and ratio > 0):
        return None
    drifts = [(drift(rates_per_s(blocks)) or 0.0) / 2 for blocks in runs]
    half = math.hypot(_noise(errors, [len(blocks) for blocks in runs], confidence), *drifts)
    gain = -math.log(ratio) if figure == "latency_ms" else math.log(ratio)
    verdict = _verdict(gain, half, math.log1p(tolerance))
    return FigureChange(figure, ratio, ratio * math.exp(-half), ratio * math.exp(half), verdict)


def _noise(errors: Sequence[float], blocks: Sequence[int], confidence: float) -> float:
    """Return half the interval, with Welch and Satterthwaite's degrees of freedom: the runs need not vary alike."""
    error = math.hypot(*errors)
    parts = sum(each**4 / (count - 1) for each, count in zip(errors, blocks, strict=True))
    return student_t(confidence, error**4 / parts) * error if parts else 0.0


def _verdict(gain: float, half: float, between_runs: float) -> str:
    """Judge the logarithm of a gain, above 0 where the engine became faster, with half its interval.

    Where a change of twice the tolerance could have been missed, nothing is told.
    """
    apart = math.hypot(half, between_runs)
    if abs(gain) > apart:
        return BETTER if gain > 0 else WORSE
    return SAME if apart <= 2 * between_runs else UNCLEAR
