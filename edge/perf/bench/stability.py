"""Stability of a run: sentences in the manner of pyperf on what makes it unstable, and what to do."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from edge.perf.bench.row import Block
from edge.perf.bench.sample_statistics import (
    LEAST_BLOCKS,
    Array,
    arrivals_spread,
    medians_ms,
    rates_per_s,
    student_t,
)

WIDEST_SPREAD = 0.10  # standard deviation of the blocks ÷ their mean: pyperf's bound
KNOWN_WITHIN = 0.05  # half the 95 % confidence interval of the mean ÷ the mean
MOST_DRIFT = 0.05  # from the first block to the last, along the regression line
MOST_RISE_C = 5.0  # a larger rise from start to end is not a steady state
OUTLIER_TIMES = 2.0  # of the median latency
OUTLIER_FRACTION = 0.01
_OUTLIER_SAMPLES = 100  # with fewer, a single sample exceeds the fraction
_MOST_BLOCKS = 1000  # recommended at most


@dataclass(frozen=True)
class Stability:
    """Assessment of a run; `spread` is the blocks' standard deviation ÷ their mean, None for fewer than two."""

    spread: float | None
    problems: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.problems

    @property
    def why(self) -> str | None:
        """The problems and their remedies in one line; None if there are none."""
        return "; ".join(self.problems) or None


def assess_stability(
    blocks: Sequence[Block],
    *,
    scenario: str = "single-stream",
    is_throttled: bool | None = None,
    temperature_start_c: float | None = None,
    temperature_end_c: float | None = None,
) -> Stability:
    """Assess the blocks of one row, in the order of measurement, and the state of the board.

    The figure assessed is images/s. In the server scenario, where queries arrive at random, it is the part of the
    spread that the arrivals do not explain, and the growth of latency.
    """
    is_server = scenario == "server"
    values = rates_per_s(blocks)
    by_chance = arrivals_spread(blocks) if is_server else 0.0
    checks: tuple[Callable[[], str | None], ...] = (
        lambda: _throttled(is_throttled),
        lambda: _temperature_rise(temperature_start_c, temperature_end_c),
        lambda: _too_few(values),
        lambda: _spread(values, by_chance),
        lambda: _drift(medians_ms(blocks) if is_server else values, is_latency=is_server),
        lambda: None if is_server else _outliers(blocks),
    )
    return Stability(spread(values), tuple(problem for check in checks if (problem := check())))


def spread(values: Array) -> float | None:
    """Return the standard deviation ÷ the mean; None for fewer than two values or a mean of 0."""
    if len(values) < 2 or not np.mean(values):  # noqa: PLR2004 -- one value has no deviation
        return None
    return float(np.std(values, ddof=1) / np.mean(values))


def drift(values: Array) -> float | None:
    """Return the relative change from the first block to the last, along the regression line.

    None for fewer than five blocks, or if chance alone would give such a line in one run of a hundred.
    """
    count = len(values)
    if count < LEAST_BLOCKS or np.ptp(values) == 0:
        return None
    at = np.arange(count)
    slope, first = np.polyfit(at, values, 1)
    correlation = float(np.corrcoef(at, values)[0, 1])
    beyond_chance = abs(correlation) * math.sqrt((count - 2) / max(1 - correlation**2, 1e-12))
    if first <= 0 or beyond_chance < student_t(0.99, count - 2):
        return None
    return float(slope * (count - 1) / first)


def _throttled(is_throttled: bool | None) -> str | None:  # noqa: FBT001 -- what was measured, not a switch
    if not is_throttled:
        return None
    return "invalid: the board throttled; cool it or choose a lower power mode, and measure again"


def _temperature_rise(start_c: float | None, end_c: float | None) -> str | None:
    if start_c is None or end_c is None or end_c - start_c <= MOST_RISE_C:
        return None
    rise = f"the temperature rose from {start_c:.1f} to {end_c:.1f} °C, wanted a rise of at most {MOST_RISE_C:g} °C"
    return f"invalid: {rise}; warm up until it is steady and measure again"


def _too_few(values: Array) -> str | None:
    if len(values) >= LEAST_BLOCKS:
        return None
    blocks = "1 block" if len(values) == 1 else f"{len(values)} blocks"
    return f"unstable: {blocks} of samples, wanted at least {LEAST_BLOCKS}; measure longer"


def _spread(values: Array, by_chance: float) -> str | None:
    whole = spread(values)
    if whole is None or len(values) < LEAST_BLOCKS:
        return None
    found = math.sqrt(max(whole**2 - by_chance**2, 0.0))
    if found > WIDEST_SPREAD:
        beyond = " beyond what random arrivals explain" if by_chance else ""
        differ = f"the blocks differ by {found:.0%} (standard deviation){beyond}"
        return f"unstable: {differ}, wanted at most {WIDEST_SPREAD:.0%}; stop other work on this machine"
    within = _half_width(found, len(values))
    if within <= KNOWN_WITHIN:
        return None
    needed = next((n for n in range(len(values), _MOST_BLOCKS) if _half_width(found, n) <= KNOWN_WITHIN), _MOST_BLOCKS)
    return f"unstable: known only within ±{within:.1%}, wanted ±{KNOWN_WITHIN:.0%}; measure {needed} blocks"


def _half_width(relative_deviation: float, blocks: int) -> float:
    return student_t(0.95, blocks - 1) * relative_deviation / math.sqrt(blocks)


def _drift(values: Array, *, is_latency: bool) -> str | None:
    change = drift(values)
    if change is None or abs(change) <= MOST_DRIFT:
        return None
    got = ("lower" if change < 0 else "higher") if is_latency else ("slower" if change < 0 else "faster")
    problem = f"unstable: the last blocks are {abs(change):.0%} {got} than the first, wanted at most {MOST_DRIFT:.0%}"
    if is_latency and change > 0:
        return f"{problem}; queries pile up: offer a lower rate"
    if got == "slower":
        return f"{problem}; let the board cool or fix its clocks, and measure again"
    return f"{problem}; warm up longer and measure again"


def _outliers(blocks: Sequence[Block]) -> str | None:
    latency_ms = np.concatenate([np.asarray(each.latency_ms, dtype=np.float64) for each in blocks] or [np.empty(0)])
    if len(latency_ms) < _OUTLIER_SAMPLES:
        return None
    fraction = float(np.mean(latency_ms > OUTLIER_TIMES * np.median(latency_ms)))
    if fraction <= OUTLIER_FRACTION:
        return None
    late = f"{fraction:.1%} of the queries took more than {OUTLIER_TIMES:g} times the median"
    return f"unstable: {late}, wanted at most {OUTLIER_FRACTION:.0%}; stop other work on this machine"
