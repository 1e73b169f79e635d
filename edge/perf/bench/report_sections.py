"""What is told beside the rows of a benchmark: published figures, an earlier run, speed-ups, drawings."""

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
from edge.perf.bench.report import Form, Report, show, title_of
from edge.perf.bench.speedup import speedup_sheet
from edge.perf.plotting import check_plot

PUBLISHED = "published"


@dataclass(frozen=True)
class ReportOptions:
    """What is asked for beside the rows."""

    published: bool = False
    board: str | None = None  # whose published rows; None: this one's
    board_mode: str | None = None  # of that board: max-q or max-p
    speedup: bool = False
    accuracy: bool = False
    baseline: Path | None = None
    tolerance: float = TOLERANCE
    plot: Path | None = None
    page: Path | None = None


class ReportSections:
    """What an order asks for beside the rows, checked before anything is measured."""

    def __init__(self, asked: ReportOptions) -> None:
        """Read the earlier run; raise ConfigError for what could not be told in the end."""
        self._asked = asked
        check_tolerance(asked.tolerance)
        if asked.plot is not None:
            check_plot(asked.plot)
        if asked.page is not None:
            check_page(asked.page)
        if asked.published:
            published_device(asked.board or board_name())
        elif asked.board is not None:
            raise ConfigError("--board: found no --compare published, wanted it: only there a board is named")
        self._before = read_run(asked.baseline) if asked.baseline is not None else None
        self._comparison: BaselineComparison | None = None

    @property
    def is_worse(self) -> bool:
        """Tell whether a row is worse than in the earlier run."""
        return self._comparison is not None and self._comparison.is_worse

    def publish(self, report: Report, form: Form) -> None:
        """Print the report with its sections, then write its drawings, which are not lost where printing fails."""
        if report.rows:
            self._add_to(report)
        try:
            if report.rows or not report.partial:
                show(report, form)
        finally:
            if report.rows:
                self._draw(report)

    def _add_to(self, report: Report) -> None:
        """Compare what was measured; what comes of it joins the report."""
        rows = [row.to_json() for row in report.rows]
        if self._asked.speedup:
            report.sheets.append(speedup_sheet(rows))
        if self._asked.accuracy:
            found = accuracies(rows, report.files, report.state_dir)
            report.told["accuracy"] = found
            report.sheets.append(accuracy_sheet(rows, found))
            report.notes += [NOT_MEASURED] if any(each["accuracy"] is None for each in found) else []
        if self._asked.published:
            pairs: list[Pair] = paired(rows, self._asked.board or board_name(), self._asked.board_mode)
            report.told[PUBLISHED] = [pair.to_json() for pair in pairs]
            report.sheets.append(published_sheet(pairs))
        if self._before is not None:
            report.notes += check_same_machine(self._before["machine"], report.machine)
            self._comparison = compare(self._before["rows"], rows, self._asked.tolerance)
            report.notes += self._comparison.notes
            report.told["baseline"] = self._comparison.to_json()
            report.sheets.append(comparison_sheet(self._comparison))

    def _draw(self, report: Report) -> None:
        """Write the plot and the page that are asked for; raise EdgeError where one cannot be written."""
        rows, title = [row.to_json() for row in report.rows], title_of(report)
        if self._asked.plot is not None:
            plot(rows, self._asked.plot, title, report.target_p99_ms)
        if self._asked.page is not None:
            page, target_p99_ms = self._asked.page, report.target_p99_ms
            write_page(report.to_json(), page, title, sheets=report.sheets, target_p99_ms=target_p99_ms)
