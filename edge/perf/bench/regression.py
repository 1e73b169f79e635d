"""Regression check: each row of a run compared with an earlier run, with the confidence of the raw samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from edge.core.errors import ConfigError
from edge.core.quantity import counted
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

TOLERANCE = 0.05  # figures of one engine differ by less from run to run, 19 times of 20
CONFIDENCE = 0.95  # of the whole comparison; with many rows, each needs more
BETTER, SAME, WORSE, UNCLEAR = "better", "same", "worse", "unclear"
_RESAMPLED: Mapping[str, Callable[[Sequence[Block]], Array]] = {
    "images_per_s": resampled_rates_per_s,
    "latency_ms": resampled_medians_ms,
}
FIGURES = tuple(_RESAMPLED)


class RowKey(NamedTuple):
    """Identity of a row; rows with equal keys are compared."""

    network: str
    precision: str
    batch: int
    scenario: str
    lanes: Any
    power_mode: str | None

    def __str__(self) -> str:
        mode = f", {self.power_mode}" if self.power_mode else ""
        return (
            f"{self.network} {self.precision} batch {self.batch}, {self.scenario}, {counted(self.lanes, 'lane')}{mode}"
        )


@dataclass(frozen=True)
class FigureChange:
    """One figure now ÷ before, with the interval from the samples alone, without drift between runs."""

    figure: str  # images_per_s, or latency_ms (the median)
    ratio: float
    low: float
    high: float
    verdict: str


@dataclass(frozen=True)
class RowChange:
    """Change of a row; `why` explains an unclear verdict, or the doubts about either row."""

    key: RowKey
    verdict: str
    changes: tuple[FigureChange, ...]
    why: str | None


@dataclass(frozen=True)
class BaselineComparison:
    """Changes of the rows that both runs have, and notes on the others."""

    tolerance: float
    rows: tuple[RowChange, ...]
    notes: tuple[str, ...]

    @property
    def is_worse(self) -> bool:
        """True if a row is worse beyond the tolerance: `edge bench` then exits with 4."""
        return any(row.verdict == WORSE for row in self.rows)

    def to_json(self) -> dict[str, Any]:
        rows = [{**row.key._asdict(), **asdict(row), "key": str(row.key)} for row in self.rows]
        return {"tolerance": self.tolerance, "worse": self.is_worse, "rows": rows, "notes": list(self.notes)}


def check_tolerance(tolerance: float) -> None:
    """Raise ConfigError for a tolerance that is no valid fraction."""
    if not 0 <= tolerance < 1:
        raise ConfigError(f"--tolerance {tolerance:g}: wanted a fraction from 0 to below 1, such as 0.05 for 5 %")


def key_of(row: Row) -> RowKey:
    """Return the key of a row."""
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
    """Return the comparison as a table of ratios, now ÷ before, with their intervals."""
    heads = ("row", "verdict", "images/s", "p50 ms", "why")
    lines = []
    for row in comparison.rows:
        ratios = {each.figure: f"×{each.ratio:.3f} ({each.low:.3f} to {each.high:.3f})" for each in row.changes}
        lines.append((str(row.key), row.verdict, ratios.get("images_per_s"), ratios.get("latency_ms"), row.why))
    return Sheet(f"Now ÷ before, tolerance {comparison.tolerance:.1%}", heads, tuple(lines))


def _row_change(before: Row, now: Row, tolerance: float, confidence: float) -> RowChange:
    key = key_of(now)
    runs = {"the earlier run": before, "this run": now}
    if reason := _reason_incomparable(runs):
        return RowChange(key, UNCLEAR, (), reason)
    # The server scenario searches the rate by latency, which ends up at the target however fast the engine is.
    figures = FIGURES[:1] if key.scenario == "server" else FIGURES
    found = [figure_change(figure, _blocks(before), _blocks(now), tolerance, confidence) for figure in figures]
    changes = tuple(each for each in found if each is not None)
    verdict = _overall([each.verdict for each in changes])
    doubts = [f"{name}: {row['why']}" for name, row in runs.items() if row.get("valid") is False and row.get("why")]
    if verdict == UNCLEAR and not doubts:
        doubts = ["the samples vary too much; measure longer, with nothing else running"]
    return RowChange(key, verdict, changes, "; ".join(doubts) or None)


def _reason_incomparable(runs: Mapping[str, Row]) -> str | None:
    """Return the reason that two rows cannot be compared; None if they can."""
    if throttled := [name for name, row in runs.items() if row.get("throttled")]:
        return f"{' and '.join(throttled)} throttled; cool the board and measure again"
    counts = {name: len(_blocks(row)) for name, row in runs.items()}
    if min(counts.values()) >= LEAST_BLOCKS:
        return None
    found = " and ".join(f"{name} has {count}" for name, count in counts.items() if count < LEAST_BLOCKS)
    return f"{found}, wanted at least {LEAST_BLOCKS} blocks of samples in each run; measure longer"


def _blocks(row: Row) -> list[Block]:
    blocks = [Block.from_json(each) for each in row.get("samples") or []]
    return [block for block in blocks if block.seconds > 0 and block.latency_ms]


def _overall(verdicts: Sequence[str]) -> str:
    return next((each for each in (WORSE, UNCLEAR, BETTER) if each in verdicts), SAME if verdicts else UNCLEAR)


def figure_change(
    figure: str, before: Sequence[Block], now: Sequence[Block], tolerance: float, confidence: float
) -> FigureChange | None:
    """Return the change of a figure, from at least two blocks per run; None if a run lacks the figure.

    The interval is Student's t with the standard errors of resampled blocks, so it covers the variation within the two
    runs; half of the blocks' drift is added. The tolerance covers the variation between runs: a figure has changed if
    it differs by more than the root of the summed squares of both.
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
    """Return half the interval, with the Welch-Satterthwaite degrees of freedom: the runs may vary differently."""
    error = math.hypot(*errors)
    parts = sum(each**4 / (count - 1) for each, count in zip(errors, blocks, strict=True))
    return student_t(confidence, error**4 / parts) * error if parts else 0.0


def _verdict(gain: float, half: float, between_runs: float) -> str:
    """Return the verdict on the logarithm of a gain, positive for a faster engine, with half its interval.

    It is unclear if a change of twice the tolerance could have been missed.
    """
    apart = math.hypot(half, between_runs)
    if abs(gain) > apart:
        return BETTER if gain > 0 else WORSE
    return SAME if apart <= 2 * between_runs else UNCLEAR


def _unmatched(before: Sequence[Row], now: Sequence[Row]) -> list[str]:
    """Return a note for each row that only one run has, or that differs in the power mode."""
    old, new = {key_of(row) for row in before}, {key_of(row) for row in now}
    modes = {key._replace(power_mode=None): key.power_mode for key in old}
    notes = []
    for key in sorted(new - old, key=str):
        mode = modes.get(key._replace(power_mode=None))
        why = f"the earlier run has it in mode {mode}" if mode else "missing in the earlier run"
        notes.append(f"{key}: not compared, {why}")
    gone = sorted(old - new, key=str)
    return [*notes, *(f"{key}: not compared, missing in this run" for key in gone)]
