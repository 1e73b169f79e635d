"""Settings that are compared: those that differ in precision alone are opened side by side and measured in turn."""

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

STRETCHES = 5  # of a setting that takes turns: as many blocks as the judge wants, one query in each where that is slow


@dataclass(frozen=True)
class PlannedRow:
    """One row that is to come."""

    subject: Subject
    setting: BenchSetting

    def __str__(self) -> str:
        return f"{self.subject.name} {self.setting}"


@dataclass(frozen=True)
class Group:
    """Points that take turns."""

    rows: tuple[PlannedRow, ...]

    def __str__(self) -> str:
        """Name all precisions, and once what they have in common."""
        first = self.rows[0]
        precisions = ", ".join(row.setting.precision for row in self.rows)
        return str(first).replace(first.setting.precision, precisions, 1)


def grouped(rows: Iterable[PlannedRow]) -> list[Group]:
    """Put together what differs in precision alone, in the order in which each first comes."""
    found: dict[tuple[str, BenchSetting], list[PlannedRow]] = {}
    for row in rows:
        found.setdefault((row.subject.name, replace(row.setting, precision="fp32")), []).append(row)
    return [Group(tuple(each)) for each in found.values()]


def free_bytes() -> int:
    """Return the memory that is left; a Jetson's GPU has the same."""
    return int(psutil.virtual_memory().available)


class InterleavedRunner:
    """Opens and measures groups; what was measured joins the report, and so does why something was left out."""

    def __init__(
        self, plan: BenchPlan, environment: Callable[[Subject], EngineEnvironment], sensors: RowSensors, report: Report
    ) -> None:
        self._plan = plan
        self._environment = environment
        self._sensors = sensors
        self._report = report
        self._device = read_board().name

    def measure(self, group: Group, mode: str | None) -> None:
        """Measure a group in a power mode; raise InterruptedRunError at Ctrl-C."""
        made = []
        for row in group.rows:
            with self._or_left_out(row):  # before anything takes memory or is measured
                make_variant(row.subject, row.setting, self._environment(row.subject))
                made.append(row)
        while made:
            made = self._measure_fitting(made, mode)

    def _measure_fitting(self, rows: Sequence[PlannedRow], mode: str | None) -> list[PlannedRow]:
        """Measure those for which there is memory at the same time; return the others."""
        turns, largest = RoundRobin(), 0
        stretches = STRETCHES if len(rows) > 1 else 1
        with contextlib.ExitStack() as opened:
            for number, row in enumerate(rows):
                before = free_bytes()
                if turns and before < largest:
                    reason = f"{before / 1e6:.0f} MB of memory are free, wanted {largest / 1e6:.0f} MB"
                    rest = self._later(rows[number:], reason)
                    break
                try:
                    with self._or_left_out(row):
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
            about = (row.network, row.precision, row.batch)
            log.info("%s %s batch %d: %s images/s, median %s ms", *about, row.images_per_s, row.latency_ms)

    def _opened(self, row: PlannedRow, opened: contextlib.ExitStack, mode: str | None, stretches: int) -> Measurement:
        plan, asked, subject = self._plan, row.setting, row.subject
        open_system = open_alone if plan.engine_only else open_serving
        system = opened.enter_context(open_system(subject, asked, self._environment(subject), plan.batches, plan.seed))
        setting = RowSetting(
            self._device, mode, asked.precision, subject.name, asked.batch, system.lanes, asked.scenario
        )
        return Measurement(system, self._sensors, setting, plan.effort, stretches)

    @contextlib.contextmanager
    def _or_left_out(self, row: PlannedRow) -> Iterator[None]:
        """Leave out what cannot be had here, with the reason."""
        try:
            yield
        except ModelError as error:
            self._report.notes.append(f"{row} is left out: {error}")

    def _later(self, rows: Sequence[PlannedRow], reason: str) -> list[PlannedRow]:
        named = ", ".join(map(str, rows))
        told = f"{named}: not measured in turn with the precisions before, as {reason}"
        self._report.notes.append(told)
        return list(rows)
