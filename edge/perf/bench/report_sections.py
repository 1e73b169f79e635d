"""Further sections of a benchmark report: published figures, an earlier run, speed-ups, accuracy, plots."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from edge.core.errors import ConfigError
from edge.host.board import board_name
from edge.perf.bench.accuracy import NOT_MEASURED, accuracies, accuracy_sheet
from edge.perf.bench.baseline_file import check_same_machine, read_run
from edge.perf.bench.html_report import check_page, write_page
from edge.perf.bench.plot import plot
from edge.perf.bench.published import Pair, paired, published_device, published_sheet
from edge.perf.bench.regression import TOLERANCE, BaselineComparison, check_tolerance, compare, comparison_sheet
from edge.perf.bench.report import Report, ReportFormat, show, title_of
from edge.perf.bench.speedup import speedup_sheet
from edge.perf.plotting import check_plot

PUBLISHED = "published"


@dataclass(frozen=True)
class ReportOptions:
    """Sections to add to the report."""

    published: bool = False
    board: str | None = None  # the board of the published rows; None: this one
    board_mode: str | None = None  # mode of that board: max-q or max-p
    speedup: bool = False
    accuracy: bool = False
    baseline: Path | None = None
    tolerance: float = TOLERANCE
    plot: Path | None = None
    page: Path | None = None


class ReportSections:
    """Sections of a report, checked before anything is measured."""

    def __init__(self, options: ReportOptions) -> None:
        """Read the earlier run; raise ConfigError for a section that cannot be made."""
        self._options = options
        check_tolerance(options.tolerance)
        if options.plot is not None:
            check_plot(options.plot)
        if options.page is not None:
            check_page(options.page)
        if options.published:
            published_device(options.board or board_name())
        elif options.board is not None:
            raise ConfigError("--board: only --compare published takes a board; add it or omit --board")
        self._before = read_run(options.baseline) if options.baseline is not None else None
        self._comparison: BaselineComparison | None = None

    @property
    def is_worse(self) -> bool:
        """True if a row is worse than in the earlier run."""
        return self._comparison is not None and self._comparison.is_worse

    def publish(self, report: Report, form: ReportFormat) -> None:
        """Print the report with its sections, and write its plot and page even if printing fails."""
        if report.rows:
            self._add_to(report)
        try:
            if report.rows or not report.partial:
                show(report, form)
        finally:
            if report.rows:
                self._draw(report)

    def _add_to(self, report: Report) -> None:
        """Add the sections to a report of measured rows."""
        rows = [row.to_json() for row in report.rows]
        if self._options.speedup:
            report.sheets.append(speedup_sheet(rows))
        if self._options.accuracy:
            found = accuracies(rows, report.files, report.state_dir)
            report.extra["accuracy"] = found
            report.sheets.append(accuracy_sheet(rows, found))
            report.notes += [NOT_MEASURED] if any(each["accuracy"] is None for each in found) else []
        if self._options.published:
            pairs: list[Pair] = paired(rows, self._options.board or board_name(), self._options.board_mode)
            report.extra[PUBLISHED] = [pair.to_json() for pair in pairs]
            report.sheets.append(published_sheet(pairs))
        if self._before is not None:
            report.notes += check_same_machine(self._before["machine"], report.machine)
            self._comparison = compare(self._before["rows"], rows, self._options.tolerance)
            report.notes += self._comparison.notes
            report.extra["baseline"] = self._comparison.to_json()
            report.sheets.append(comparison_sheet(self._comparison))

    def _draw(self, report: Report) -> None:
        """Write the plot and the page, if requested; raise EdgeError if one cannot be written."""
        rows, title = [row.to_json() for row in report.rows], title_of(report)
        if self._options.plot is not None:
            plot(rows, self._options.plot, title, report.target_p99_ms)
        if self._options.page is not None:
            page, target_p99_ms = self._options.page, report.target_p99_ms
            write_page(report.to_json(), page, title, sheets=report.sheets, target_p99_ms=target_p99_ms)
