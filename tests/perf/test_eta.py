"""The time left of a benchmark, as its progress bar tells it."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from edge.core import progress
from edge.core.config import ModelSettings
from edge.perf.bench.eta import EtaEstimator
from edge.perf.bench.interleaved import Group, PlannedRow, grouped
from edge.perf.bench.plan import BenchPlan, BenchSetting
from edge.perf.bench.row import BenchRow
from edge.perf.bench.subject import Subject

QUICK = BenchPlan(("VGG-19",), quick=True).effort


def point(network: str, batch: int, precision: Any = "fp32") -> PlannedRow:
    settings = ModelSettings.model_validate({"path": str(Path())})
    return PlannedRow(Subject(network, settings), BenchSetting("single-stream", None, precision, None, batch))


def group(network: str, batch: int) -> Group:
    return Group((point(network, batch),))


def row(network: str, images_per_s: float) -> BenchRow:
    blank = dict.fromkeys(BenchRow.__dataclass_fields__)
    return BenchRow(**blank | {"network": network, "images_per_s": images_per_s})  # type: ignore[arg-type]


def test_what_has_more_to_compute_is_planned_to_take_longer() -> None:
    pace = EtaEstimator(QUICK, [])
    assert pace.planned_s(group("VGG-19", 128)) > 20 * pace.planned_s(group("AlexNet", 1))


def test_plan_learns_from_the_rows_of_the_same_network_and_of_others() -> None:
    rows: list[BenchRow] = []
    pace = EtaEstimator(QUICK, rows)
    rows.append(row("AlexNet", 10.0))
    slow_s = pace.planned_s(group("VGG-19", 64))
    rows[0] = row("AlexNet", 100.0)
    assert slow_s / pace.planned_s(group("VGG-19", 64)) == pytest.approx(10, rel=0.1)
    rows.append(row("VGG-19", 1.0))
    assert 5 * 64 < pace.planned_s(group("VGG-19", 64)) < 8 * 64


def test_model_of_unknown_work_is_planned_by_its_seconds_and_by_itself() -> None:
    rows: list[BenchRow] = []
    pace = EtaEstimator(QUICK, rows)
    assert 1 < pace.planned_s(group("mine", 8)) < 3
    rows.append(row("mine", 2.0))
    assert pace.planned_s(group("mine", 8)) > 20


def test_precisions_of_one_setting_are_one_group() -> None:
    points = [point("a", batch, precision) for precision in ("fp32", "int8") for batch in (1, 2)]
    points.append(replace(points[0], setting=replace(points[0].setting, power_mode="MAXQ")))
    assert list(map(str, grouped(points))) == ["a fp32, int8 batch 1", "a fp32, int8 batch 2", "a MAXQ fp32 batch 1"]


def test_time_left_is_that_of_the_rows_and_not_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    output = io.StringIO()

    def console(**_: Any) -> Console:
        return Console(file=output, force_terminal=True, width=120)

    monkeypatch.setattr(progress, "Console", console)
    told = [
        output.getvalue()
        for _ in progress.timed(["short", "shorter", "long"], {"short": 10, "shorter": 10, "long": 3600}.__getitem__)
    ]
    assert len(told) == 3
    assert "3/3 long" in output.getvalue()
    assert re.search(r"1:00:00 left|0:59:5\d left", output.getvalue())
