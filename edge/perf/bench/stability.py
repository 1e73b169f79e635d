"""Is a run to be trusted? Sentences about what makes it unstable and what to do, as pyperf has them."""

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
KNOWN_WITHIN = 0.05  # half the 95 % interval of the mean ÷ the mean
MOST_DRIFT = 0.05  # from the first block to the last, along the line through all
MOST_RISE_C = 5.0  # more than this from start to end is no steady state
OUTLIER_TIMES = 2.0  # of the median latency
OUTLIER_SHARE = 0.01
_OUTLIER_SAMPLES = 100  # with fewer, one sample is a share of its own
_MOST_BLOCKS = 1000  # advised


@dataclass(frozen=True)
class Stability:
    """`spread` is the blocks' standard deviation ÷ their mean, None from fewer than two blocks."""

    spread: float | None
    sentences: tuple[str, ...]

    @property
    def valid(self) -> bool:
        return not self.sentences

    @property
    def why(self) -> str | None:
        """What is wrong, and what to do; None where nothing is."""
        return "; ".join(self.sentences) or None


def assess_stability(
    blocks: Sequence[Block],
    *,
    scenario: str = "single-stream",
    is_throttled: bool | None = None,
    temperature_start_c: float | None = None,
    temperature_end_c: float | None = None,
) -> Stability:
    """Judge the blocks of one row in the order in which they were measured, and the state of the board beside them.

    What is judged is images/s; in the server scenario, where queries come at random, only what these do not explain,
    and whether latency grows.
    """
    is_server = scenario == "server"
    values = rates_per_s(blocks)
    by_chance = arrivals_spread(blocks) if is_server else 0.0
    checks: tuple[Callable[[], str | None], ...] = (
        lambda: _throttled(is_throttled),
        lambda: _rise(temperature_start_c, temperature_end_c),
        lambda: _count(values),
        lambda: _spread(values, by_chance),
        lambda: _drift(medians_ms(blocks) if is_server else values, is_latency=is_server),
        lambda: None if is_server else _outliers(blocks),
    )
    return Stability(spread(values), tuple(told for check in checks if (told := check())))


def spread(values: Array) -> float | None:
    """Return the standard deviation ÷ the mean; None from fewer than two values, or where the mean is 0."""
    if len(values) < 2 or not np.mean(values):  # noqa: PLR2004 -- one value has no deviation
        return None
    return float(np.std(values, ddof=1) / np.mean(values))


def drift(values: Array) -> float | None:
    """Return how much the last block is above the first, along the line through all blocks, ÷ the first.

    None where there are fewer than five blocks, or where chance alone would give such a line in one run of a hundred.
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
    return "invalid: the board was throttled; cool it, or choose a lower power mode, and measure again"


def _rise(start_c: float | None, end_c: float | None) -> str | None:
    if start_c is None or end_c is None or end_c - start_c <= MOST_RISE_C:
        return None
    rose = f"the temperature rose from {start_c:.1f} to {end_c:.1f} °C, wanted at most {MOST_RISE_C:g} °C more"
    return f"invalid: {rose}; warm up until it is steady and measure again"


def _count(values: Array) -> str | None:
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
        beyond = " beyond what random arrivals give" if by_chance else ""
        wanted = f"wanted at most {WIDEST_SPREAD:.0%}"
        differ = f"the blocks differ by {found:.0%} (standard deviation){beyond}"
        return f"unstable: {differ}, {wanted}; stop what else runs here"
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
    told = f"unstable: the last blocks are {abs(change):.0%} {got} than the first, wanted at most {MOST_DRIFT:.0%}"
    if is_latency and change > 0:
        return f"{told}; queries pile up, so offer a lower rate"
    if got == "slower":
        return f"{told}; let the board cool or hold its clocks, and measure again"
    return f"{told}; warm up longer and measure again"


def _outliers(blocks: Sequence[Block]) -> str | None:
    latency_ms = np.concatenate([np.asarray(each.latency_ms, dtype=np.float64) for each in blocks] or [np.empty(0)])
    if len(latency_ms) < _OUTLIER_SAMPLES:
        return None
    share = float(np.mean(latency_ms > OUTLIER_TIMES * np.median(latency_ms)))
    if share <= OUTLIER_SHARE:
        return None
    late = f"{share:.1%} of the queries took more than {OUTLIER_TIMES:g} times the median"
    return f"unstable: {late}, wanted at most {OUTLIER_SHARE:.0%}; stop what else runs here"
