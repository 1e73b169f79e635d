"""What came of a verification, and how it is told: to people, as JSON, as a report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.cli.engines.frame_source import LabelledFrame
from edge.core.records import Findings
from edge.inference.admission import PrecisionEntry
from edge.precision.agreement import disagreement
from edge.precision.comparison import ScoredFindings
from edge.precision.ground_truth import Label
from edge.precision.verification_report import VerificationPage, Worst

WORST_SHOWN = 6
_HASH_SHOWN = 12  # characters
_TITLES = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "mean_iou": "mean overlap of matches",
    "score_shift": "mean shift of scores",
    "top1": "same best class",
    "top5": "best class among the other's five",
    "map50": "mAP50",
    "map50_95": "mAP50-95",
}


@dataclass
class VerificationTally:
    """What the two forms made of the frames so far."""

    disagreements: list[float] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list)
    true: list[Label] = field(default_factory=list)
    found: tuple[list[Findings], list[Findings]] = field(default_factory=lambda: ([], []))  # of the labelled frames

    def add(self, shown: LabelledFrame, wanted: ScoredFindings, got: ScoredFindings) -> None:
        """Count a frame."""
        distance = disagreement(wanted.findings, got.findings)
        self.disagreements.append(distance)
        if len(self.worst) < WORST_SHOWN or distance > self.worst[-1].disagreement:
            worst = Worst(shown.name, distance, shown.picture, wanted.findings, got.findings)
            self.worst = sorted([*self.worst, worst], key=lambda each: -each.disagreement)[:WORST_SHOWN]
        if shown.true is not None:
            self.true.append(shown.true)
            for answers, answer in zip(self.found, (wanted, got), strict=True):
                answers.append(answer.findings if answer.unsure is None else answer.unsure)


@dataclass(frozen=True)
class VerificationResult:
    """What came of it."""

    model: str
    entry: PrecisionEntry
    reason: str | None  # why that is not good enough; None: it is
    min_agreement: float
    kept: Path | None  # precision.json; None: too few frames to put in the place of what was proven
    labels: Sequence[str]
    seen: VerificationTally


def to_json(verified: VerificationResult) -> dict[str, Any]:
    """Return the command's document; `precision` in it is a figure, and the form's precision is `form`."""
    entry = verified.entry.model_dump()
    measured = entry.pop("measured")
    return {
        "model": verified.model,
        "form": entry.pop("precision"),
        "admitted": verified.reason is None,
        "reason": verified.reason,
        "min_agreement": verified.min_agreement,
        **measured,
        **entry,
        "truth_difference": _differences(verified.entry),
        "precision_json": str(verified.kept) if verified.kept else None,
    }


def _differences(entry: PrecisionEntry) -> dict[str, float] | None:
    """Return what the form loses of accuracy by the labels (negative) or gains."""
    if entry.truth is None:
        return None
    form, against = entry.truth[entry.precision], entry.truth[entry.against]
    return {name: form[name] - against[name] for name in form}


def _verdict(verified: VerificationResult) -> str:
    entry = verified.entry
    if verified.reason:
        return f"not good enough: {verified.reason}"
    told = f"{entry.metric} {entry.agreement:.3f} on {entry.frames} frames, wanted {verified.min_agreement:g}"
    if entry.against != "fp32":
        return f"good enough: {told}; but only what is held against fp32 is admitted to serve"
    return f"admitted to serve here: {told}"


def _speed(entry: PrecisionEntry) -> str:
    ratio = entry.against_ms / entry.ms
    told = f"{ratio:.2f} times as fast" if ratio >= 1 else f"slower: {1 / ratio:.2f} times the time"
    return f"{entry.precision} {entry.ms:.2f} ms, {entry.against} {entry.against_ms:.2f} ms; {told}"


def _facts(verified: VerificationResult) -> dict[str, str]:
    entry = verified.entry
    return {
        "file": entry.file,
        "frames": f"{entry.frames}, SHA-256 {entry.data_sha256[:_HASH_SHOWN]}…",
        "one inference, median": _speed(entry),
        "measured with": f"{entry.here}, on {entry.machine}",
        "measured at": entry.at,
        "kept in": str(verified.kept) if verified.kept else "nothing, as too few frames prove nothing",
    }


def _figures(entry: PrecisionEntry) -> list[tuple[str, str]]:
    """Return each figure of agreement that was measured, with its name for people."""
    rows = [
        (_TITLES[name], f"{value:{'+' if name == 'score_shift' else ''}.4f}")
        for name in _TITLES
        if (value := entry.measured.get(name)) is not None
    ]
    counts = {name: entry.measured.get(name) or 0 for name in ("wanted", "got", "matched")}
    if entry.metric == "f1":
        told = f"{counts['wanted']:.0f} by {entry.against}, {counts['got']:.0f} by {entry.precision}"
        rows.append(("boxes found", f"{told}, {counts['matched']:.0f} by both"))
    return rows


def _truth_rows(entry: PrecisionEntry) -> list[tuple[str, ...]]:
    """Return the table of accuracy by the labels."""
    differences = _differences(entry)
    if entry.truth is None or not differences:
        return []
    form, against = entry.truth[entry.precision], entry.truth[entry.against]
    rows = [
        (_truth_title(name), f"{against[name]:.4f}", f"{form[name]:.4f}", f"{differences[name]:+.4f}") for name in form
    ]
    return [("", entry.against, entry.precision, "difference"), *rows]


def _truth_title(name: str) -> str:
    return {"top1": "top-1", "top5": "top-5"}.get(name, _TITLES[name])


def page(verified: VerificationResult) -> VerificationPage:
    """Return what the report tells."""
    entry = verified.entry
    truth = _truth_rows(entry)
    return VerificationPage(
        title=f"{verified.model}: {entry.precision} held against {entry.against}",
        verdict=_verdict(verified),
        is_good=verified.reason is None,
        wanted_name=entry.against,
        got_name=entry.precision,
        tables=[
            ("Agreement", _figures(entry)),
            *([("Accuracy by the labels", truth)] if truth else []),
            ("Measurement", list(_facts(verified).items())),
        ],
        disagreements=verified.seen.disagreements,
        worst=verified.seen.worst,
        labels=verified.labels,
    )


def show(verified: VerificationResult, report: Path | None) -> None:
    console = Console(highlight=False)
    entry = verified.entry
    console.print(f"{verified.model}: {entry.precision} held against {entry.against}", style="bold", markup=False)
    _print_rows(console, _figures(entry))
    _print_rows(console, _truth_rows(entry))
    _print_rows(console, [*_facts(verified).items(), *([("report", str(report))] if report else [])])
    console.print(Text(_verdict(verified), "bold red" if verified.reason else "bold green"))


def _print_rows(console: Console, rows: Sequence[Sequence[str]]) -> None:
    if not rows:
        return
    table = Table(show_header=False, box=None, padding=(0, 3, 0, 0))
    for row in rows:
        table.add_row(*(Text(cell, overflow="fold") for cell in row))
    console.print(table)
