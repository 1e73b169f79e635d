"""Is a run better, the same or worse than an earlier one? Row by row, with the confidence that the raw samples give."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from edge.core.errors import ConfigError
from edge.perf.bench.row import Block
from edge.perf.bench.sample_statistics import (
    LEAST_BLOCKS,
    Array,
    rates_per_s,
    relative_error,
    resampled_medians_ms,
    resampled_rates_per_s,
    student_t,
)
from edge.perf.bench.stability import drift
from edge.perf.bench.tables import Row, Sheet

TOLERANCE = 0.05  # what the figures of the same engine may differ by from run to run, 19 times of 20
CONFIDENCE = 0.95  # of the whole comparison: with many rows, each is held to more
BETTER, SAME, WORSE, UNCLEAR = "better", "same", "worse", "unclear"
_RESAMPLED: Mapping[str, Callable[[Sequence[Block]], Array]] = {
    "images_per_s": resampled_rates_per_s,
    "latency_ms": resampled_medians_ms,
}
FIGURES = tuple(_RESAMPLED)


class RowKey(NamedTuple):
    """Rows with the same key are compared."""

    network: str
    precision: str
    batch: int
    scenario: str
    lanes: Any
    power_mode: str | None

    def __str__(self) -> str:
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        mode = f", {self.power_mode}" if self.power_mode else ""
        return f"{self.network} {self.precision} batch {self.batch}, {self.scenario}, {lanes}{mode}"


@dataclass(frozen=True)
class FigureChange:
    """One figure now ÷ the same figure before, and the interval that the samples leave it; not drift between runs."""

    figure: str  # images_per_s or latency_ms, the median
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class RowChange:
    """What became of a row; `why` says what is missing where that is unclear, or what speaks against a row."""

    key: RowKey
    verdict: str
    changes: tuple[FigureChange, ...]
    why: str | None


@dataclass(frozen=True)
class BaselineComparison:
    """What became of each row that both runs have, and what else there is to know of the two runs."""

    tolerance: float
    rows: tuple[RowChange, ...]
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        """Whether any row is worse than before past the tolerance: `edge bench` then exits 4."""
        return any(row.verdict == WORSE for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        rows = [{**row.key._asdict(), **asdict(row), "key": str(row.key)} for row in self.rows]
        return {"tolerance": self.tolerance, "worse": self.is_worse, "rows": rows, "notes": list(self.notes)}


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError where no ratio could be told from it."""
    if not 0 <= tolerance < 1:
        raise ConfigError(f"--tolerance {tolerance:g}: wanted a share from 0 to below 1, as 0.05 for 5 %")


def key_of(row: Row) -> RowKey:
    """Return what a row is a measurement of."""
    mode = row.get("power_mode")
    return RowKey(row["network"], row["precision"], row["batch"], row["scenario"], row["lanes"], mode)


def compare(before: Sequence[Row], now: Sequence[Row], tolerance: float = TOLERANCE) -> BaselineComparison:
    """Compare the rows that both runs have; the same rows always give the same answer.

    A row is worse when one of its figures is. It is unclear with too few blocks, with samples that vary too much, and
    when it was throttled in either run, which says more about the cooling than about the software.
    """
    check_tolerance(tolerance)
    earlier = {key_of(row): row for row in before}
    both = [row for row in now if key_of(row) in earlier]
    confidence = 1 - (1 - CONFIDENCE) / max(len(both), 1)
    rows = tuple(_row_change(earlier[key_of(row)], row, tolerance, confidence) for row in both)
    return BaselineComparison(tolerance, rows, tuple(_unmatched(before, now)))


def comparison_sheet(comparison: BaselineComparison) -> Sheet:
    """Return the comparison as a table: each row's ratios, now ÷ before, with their intervals."""
    heads = ("row", "verdict", "images/s", "p50 ms", "why")
    lines = []
    for row in comparison.rows:
        told = {each.figure: f"×{each.ratio:.3f} ({each.low:.3f} to {each.high:.3f})" for each in row.changes}
        lines.append((str(row.key), row.verdict, told.get("images_per_s"), told.get("latency_ms"), row.why))
    return Sheet(f"Now ÷ before, tolerance {comparison.tolerance:.1%}", heads, tuple(lines))


def _row_change(before: Row, now: Row, tolerance: float, confidence: float) -> RowChange:
    key = key_of(now)
    runs = {"the earlier run": before, "this run": now}
    if unfit := _unfit(runs):
        return RowChange(key, UNCLEAR, (), unfit)
    # In the server scenario the rate is searched by latency, which comes to lie at the target, however fast the engine.
    figures = FIGURES[:1] if key.scenario == "server" else FIGURES
    found = [figure_change(figure, _blocks(before), _blocks(now), tolerance, confidence) for figure in figures]
    changes = tuple(each for each in found if each is not None)
    verdict = _together([each.verdict for each in changes])
    doubts = [f"{name}: {row['why']}" for name, row in runs.items() if row.get("valid") is False and row.get("why")]
    if verdict == UNCLEAR and not doubts:
        doubts = ["the samples vary too much to tell; measure longer, with nothing else running"]
    return RowChange(key, verdict, changes, "; ".join(doubts) or None)


def _unfit(runs: Mapping[str, Row]) -> str | None:
    """Tell why two rows cannot be compared at all."""
    if throttled := [name for name, row in runs.items() if row.get("throttled")]:
        return f"{' and '.join(throttled)} was throttled; cool the board and measure again"
    counts = {name: len(_blocks(row)) for name, row in runs.items()}
    if min(counts.values()) >= LEAST_BLOCKS:
        return None
    found = " and ".join(f"{name} has {count}" for name, count in counts.items() if count < LEAST_BLOCKS)
    return f"{found}, wanted at least {LEAST_BLOCKS} blocks of samples in each run; measure longer"


def _blocks(row: Row) -> list[Block]:
    blocks = [Block.from_json(each) for each in row.get("samples") or []]
    return [block for block in blocks if block.seconds > 0 and block.latency_ms]


def _together(verdicts: Sequence[str]) -> str:
    return next((each for each in (WORSE, UNCLEAR, BETTER) if each in verdicts), SAME if verdicts else UNCLEAR)


def figure_change(
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


def _unmatched(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    """Tell what only one run has, and rows that differ in the power mode alone."""
    old, new = {key_of(row) for row in before}, {key_of(row) for row in now}
    modes = {key._replace(power_mode=None): key.power_mode for key in old}
    notes = []
    for key in sorted(new - old, key=str):
        mode = modes.get(key._replace(power_mode=None))
        why = f"the earlier run has it in mode {mode}" if mode else "the earlier run has it not"
        notes.append(f"{key}: not compared, {why}")
    gone = sorted(old - new, key=str)
    return [*notes, *(f"{key}: not compared, this run has it not" for key in gone)]
