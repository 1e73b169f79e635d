"""Interleaved measurement of settings that differ only in precision: opened side by side, measured in turn."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import psutil

from edge.core.errors import GpuMemoryError, ModelError
from edge.host.board import read_board
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.bench.measure import Measurement, RoundRobin
from edge.perf.bench.plan import BenchPlan, BenchSetting
from edge.perf.bench.report import Report
from edge.perf.bench.row import BenchRow
from edge.perf.bench.stretch import RowSensors, RowSetting
from edge.perf.bench.subject import Subject
from edge.perf.bench.systems import make_variant, open_alone, open_serving

log = logging.getLogger(__name__)

STRETCHES = 5  # of an interleaved setting: as many blocks as a stable row needs, of one query each if that is slow


@dataclass(frozen=True)
class PlannedRow:
    """Row to be measured."""

    subject: Subject
    setting: BenchSetting

    def __str__(self) -> str:
        return f"{self.subject.name} {self.setting}"


@dataclass(frozen=True)
class Group:
    """Rows that are measured in turn."""

    rows: tuple[PlannedRow, ...]

    def __str__(self) -> str:
        """Name all precisions, and the rest once."""
        first = self.rows[0]
        precisions = ", ".join(row.setting.precision for row in self.rows)
        return str(first).replace(first.setting.precision, precisions, 1)


def grouped(rows: Iterable[PlannedRow]) -> list[Group]:
    """Group the rows that differ only in precision, in the order of first appearance."""
    found: dict[tuple[str, BenchSetting], list[PlannedRow]] = {}
    for row in rows:
        found.setdefault((row.subject.name, replace(row.setting, precision="fp32")), []).append(row)
    return [Group(tuple(each)) for each in found.values()]


def free_bytes() -> int:
    """Return the available memory, which a Jetson's GPU shares."""
    return int(psutil.virtual_memory().available)


class InterleavedRunner:
    """Opens and measures groups, and adds their rows and the reasons for skipped ones to the report."""

    def __init__(
        self, plan: BenchPlan, environment: Callable[[Subject], EngineEnvironment], sensors: RowSensors, report: Report
    ) -> None:
        self._plan = plan
        self._environment = environment
        self._sensors = sensors
        self._report = report
        self._device = read_board().name

    def measure(self, group: Group, mode: str | None) -> None:
        """Measure a group in a power mode; raise InterruptedRunError on Ctrl-C."""
        made = []
        for row in group.rows:
            with self._skip_unavailable(row):  # before anything takes memory or time
                make_variant(row.subject, row.setting, self._environment(row.subject))
                made.append(row)
        while made:
            made = self._measure_fitting(made, mode)

    def _measure_fitting(self, rows: Sequence[PlannedRow], mode: str | None) -> list[PlannedRow]:
        """Measure as many rows at once as fit into memory; return the others."""
        turns, largest = RoundRobin(), 0
        stretches = STRETCHES if len(rows) > 1 else 1
        with contextlib.ExitStack() as opened:
            for number, row in enumerate(rows):
                before = free_bytes()
                if turns and before < largest:
                    reason = f"{before / 1e6:.0f} MB of memory free, wanted {largest / 1e6:.0f} MB"
                    rest = self._later(rows[number:], reason)
                    break
                try:
                    with self._skip_unavailable(row):
                        turns.join(self._opened(row, opened, mode, stretches))
                except GpuMemoryError as error:
                    if not turns:
                        raise
                    rest = self._later(rows[number:], str(error))
                    break
                largest = max(largest, before - free_bytes())
            else:
                rest = []
            self._add(turns.rows())
        return rest

    def _add(self, rows: Sequence[BenchRow]) -> None:
        self._report.rows += rows
        for row in rows:
            setting = (row.network, row.precision, row.batch)
            log.info("%s %s batch %d: %s images/s, median %s ms", *setting, row.images_per_s, row.latency_ms)

    def _opened(self, row: PlannedRow, opened: contextlib.ExitStack, mode: str | None, stretches: int) -> Measurement:
        plan, asked, subject = self._plan, row.setting, row.subject
        open_system = open_alone if plan.engine_only else open_serving
        system = opened.enter_context(open_system(subject, asked, self._environment(subject), plan.batches, plan.seed))
        setting = RowSetting(
            self._device, mode, asked.precision, subject.name, asked.batch, system.lanes, asked.scenario
        )
        return Measurement(system, self._sensors, setting, plan.effort, stretches)

    @contextlib.contextmanager
    def _skip_unavailable(self, row: PlannedRow) -> Iterator[None]:
        """Turn a ModelError into a note that the row is skipped."""
        try:
            yield
        except ModelError as error:
            self._report.notes.append(f"{row} is skipped: {error}")

    def _later(self, rows: Sequence[PlannedRow], reason: str) -> list[PlannedRow]:
        named = ", ".join(map(str, rows))
        self._report.notes.append(f"{named}: not interleaved with the precisions before ({reason})")
        return list(rows)
