"""Statistics of a row's raw samples: figures of blocks, and their standard error by resampling the blocks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from edge.perf.bench.row import Block

Array = NDArray[np.float64]

LEAST_BLOCKS = 5  # fewer say nothing about the variance
_RESAMPLES = 200  # enough for a standard error: Efron and Tibshirani, An Introduction to the Bootstrap, chapter 6


def rates_per_s(blocks: Sequence[Block]) -> Array:
    """Return the images/s of each block with a duration."""
    return np.array([each.images / each.seconds for each in blocks if each.seconds > 0], dtype=np.float64)


def medians_ms(blocks: Sequence[Block]) -> Array:
    """Return the median latency of each block with queries."""
    return np.array([np.median(each.latency_ms) for each in blocks if each.latency_ms], dtype=np.float64)


def resampled_rates_per_s(blocks: Sequence[Block]) -> Array:
    """Return the images/s over all blocks, then over blocks drawn from them with replacement."""
    counts = _draws(len(blocks))
    images = np.array([each.images for each in blocks], dtype=np.float64)
    seconds = np.array([each.seconds for each in blocks], dtype=np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        rates: Array = (counts @ images) / (counts @ seconds)
    return rates


def resampled_medians_ms(blocks: Sequence[Block]) -> Array:
    """Return the median latency over all blocks, then over blocks drawn from them with replacement."""
    latency_ms = np.concatenate([np.asarray(each.latency_ms, dtype=np.float64) for each in blocks])
    owner = np.repeat(np.arange(len(blocks)), [len(each.latency_ms) for each in blocks])
    if not latency_ms.size:
        return np.full(_RESAMPLES + 1, math.nan)
    order = np.argsort(latency_ms)
    latency_ms, owner = latency_ms[order], owner[order]
    medians = []
    for counts in _draws(len(blocks)):
        weights = np.cumsum(counts[owner])
        medians.append(latency_ms[np.searchsorted(weights, weights[-1] / 2)] if weights[-1] else math.nan)
    return np.array(medians)


def relative_error(resampled: Array, blocks: int) -> float:
    """Return the relative standard error of a resampled figure.

    Resampling n blocks underestimates it by the square root of (n - 1)/n, which is corrected (Hesterberg 2015, What
    Teachers Should Know About the Bootstrap).
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        logarithms = np.log(resampled[1:])
    return float(np.std(logarithms)) * math.sqrt(blocks / (blocks - 1))


def student_t(confidence: float, degrees: float) -> float:
    """Return the two-sided quantile of Student's t (Abramowitz and Stegun 26.7.5; within 2 % up to 99 %)."""
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / degrees**power for power, term in enumerate(terms, start=1))


def arrivals_spread(blocks: Sequence[Block]) -> float:
    """Return the spread of images/s that random arrivals stay within 99 times of 100 on an engine that never varies.

    n arrivals of a Poisson process take n independent gaps, so their total time has a relative deviation of 1/√n. The
    deviation of a few blocks varies itself, by chi-squared ÷ degrees of freedom (Wilson and Hilferty's approximation).
    """
    images = [each.images for each in blocks if each.images and each.seconds > 0]
    degrees = len(images) - 1
    if degrees < 1:
        return 0.0
    part = 2 / (9 * degrees)
    quantile = (1 - part + NormalDist().inv_cdf(0.99) * math.sqrt(part)) ** 3
    return math.sqrt(quantile * float(np.mean([1 / each for each in images])))


def _draws(blocks: int) -> NDArray[np.int64]:
    """Return how often each block is drawn: first each once, then at random from a fixed seed."""
    drawn = np.random.default_rng(0).multinomial(blocks, [1 / blocks] * blocks, size=_RESAMPLES)
    return np.vstack([np.ones(blocks, dtype=np.int64), drawn])
