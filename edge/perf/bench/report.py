"""Report of a benchmark: JSON for programs, a table for people, CSV and Markdown for spreadsheets and pages."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.console import Console
from rich.text import Text

from edge.core.console import output_console, print_table
from edge.core.errors import EdgeError
from edge.perf.bench.row import BenchRow
from edge.perf.bench.tables import Sheet, cell_text, rows_sheet, to_csv, to_markdown

ReportFormat = Literal["table", "json", "csv", "markdown"]
REPORT_FORMATS: tuple[ReportFormat, ...] = ("json", "csv", "markdown")  # by option; otherwise a table

_UNTRUSTED = "not trustworthy"
_FIRST_TO_HIDE = ("spread", "max ms", "images/s/W (GPU)", "p90 ms", "lanes", "J/image")
_GAP = 2  # between two columns


@dataclass
class Report:
    """Rows measured so far, the machine, and notes for the reader."""

    machine: Mapping[str, Any]
    target_p99_ms: float | None = None
    rows: list[BenchRow] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    partial: bool = False  # ended by Ctrl-C
    sheets: list[Sheet] = field(default_factory=list)  # further tables
    extra: dict[str, Any] = field(default_factory=dict)  # their data, for the JSON
    files: dict[str, Path] = field(default_factory=dict)  # the ONNX file of each network
    state_dir: Path = Path()

    def best(self) -> list[int]:
        """Return the indices of the rows with the most images/s within the target, over the batches of each setting."""
        if self.target_p99_ms is None:
            return []
        best: dict[tuple[Any, ...], int] = {}
        for place, row in enumerate(self.rows):
            if row.latency_p99_ms is None or row.latency_p99_ms > self.target_p99_ms:
                continue
            key = (row.network, row.power_mode, row.precision, row.scenario)
            if key not in best or _rank(row) > _rank(self.rows[best[key]]):
                best[key] = place
        return sorted(best.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "machine": dict(self.machine),
            "rows": [row.to_json() for row in self.rows],
            "target_p99_ms": self.target_p99_ms,
            "best": self.best(),
            "partial": self.partial,
            "notes": list(self.notes),
            **self.extra,
        }


def _rank(row: BenchRow) -> tuple[bool, float]:
    """Rank valid rows before faster ones."""
    return row.valid, row.images_per_s or 0.0


def show(report: Report, form: ReportFormat) -> None:
    """Print a report on standard output; raise EdgeError if it cannot be written."""
    shown: Mapping[ReportFormat, Callable[[Report], None]] = {
        "json": lambda each: print(json.dumps(each.to_json(), allow_nan=False)),  # noqa: T201 -- the command's output
        "csv": lambda each: print(to_csv([row.to_json() for row in each.rows]), end=""),  # noqa: T201 -- likewise
        "markdown": lambda each: print(markdown(each), end=""),  # noqa: T201 -- likewise
        "table": lambda each: show_table(each, output_console()),
    }
    try:
        shown[form](report)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        # Python would flush again at exit, and fail with a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise EdgeError(
            f"the report cannot be written to standard output ({error.strerror}); redirect it to where there is space"
        ) from None


def markdown(report: Report) -> str:
    lines = [to_markdown(rows_sheet([row.to_json() for row in report.rows], title_of(report)))]
    lines += [to_markdown(sheet) for sheet in report.sheets]
    lines += [f"- {note}\n" for note in _notes(report, with_reasons=False)]
    return "\n".join(lines)


def show_table(report: Report, console: Console) -> None:
    """Print the rows in the layout of the published tables, and below them the reasons for doubtful ones."""
    sheet, marks = rows_sheet([row.to_json() for row in report.rows]), _marks(report)
    marks_width = max(map(len, marks), default=0)
    places = _fitting(sheet, console.width - marks_width - _GAP)
    heads = [*([""] if marks_width else []), *(sheet.heads[place] for place in places)]
    rows: list[list[str | Text]] = []
    for line, mark in zip(sheet.lines, marks, strict=True):
        marked = [Text(mark, "bold")] if marks_width else []
        rows.append([*marked, *(cell_text(line[place]) for place in places)])
    print_table(console, heads, rows, title=title_of(report))
    for each in report.sheets:
        print_table(console, each.heads, [[cell_text(cell) for cell in line] for line in each.lines], title=each.title)
    for note in _notes(report, with_reasons=True):
        console.print(note, soft_wrap=True)


def _fitting(sheet: Sheet, width: int) -> list[int]:
    """Return the columns that fit into a terminal; the least informative ones are hidden first."""
    places = [place for place, head in enumerate(sheet.heads) if head != _UNTRUSTED and _varies(sheet, place)]
    widths = {
        place: max(len(sheet.heads[place]), *(len(cell_text(line[place])) for line in sheet.lines), 0)
        for place in places
    }
    for head in _FIRST_TO_HIDE:
        if sum(widths[place] + _GAP for place in places) <= width:
            break
        places = [place for place in places if sheet.heads[place] != head]
    return places


def title_of(report: Report) -> str:
    return f"{report.rows[0].device if report.rows else 'nothing'}{', partial' if report.partial else ''}"


def _varies(sheet: Sheet, place: int) -> bool:
    """Return whether to show a column: scenario and lanes only if they differ between rows."""
    return sheet.heads[place] not in ("scenario", "lanes") or len({line[place] for line in sheet.lines}) > 1


def _marks(report: Report) -> list[str]:
    best = set(report.best())
    marks = []
    for place, row in enumerate(report.rows):
        found = [*(["best"] if place in best else []), *([] if row.valid else ["!"])]
        marks.append(" ".join(found))
    return marks


def _notes(report: Report, *, with_reasons: bool) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for row in report.rows if with_reasons else ():
        if not row.valid:
            reasons.setdefault(row.why or "invalid", []).append(f"{row.network} {row.precision} batch {row.batch}")
    notes = [f"! {', '.join(rows)}: {why}" for why, rows in reasons.items()]
    if report.target_p99_ms is not None:
        within = f"best: the most images/s with a p99 within {report.target_p99_ms:g} ms"
        notes.append(within if report.best() else f"no row has a p99 within {report.target_p99_ms:g} ms")
    return [*notes, *report.notes]
