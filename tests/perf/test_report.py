"""The table of a benchmark's report."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console

from edge.perf.bench.report import Report, show_table
from edge.perf.bench.row import Block
from tests.perf.test_row import a_row

NETWORK = "a-network-of-a-very-long-name-" * 3


@pytest.mark.parametrize("columns", [40, 80, 130])
def test_the_mark_of_an_untrusted_row_is_never_cut_off(columns: int) -> None:
    row = replace(a_row((Block((1.0,), 1, 0.001),)), network=NETWORK, valid=False, why="unstable")
    file = io.StringIO()
    console = Console(file=file, width=columns, force_terminal=True, color_system=None, highlight=False)
    show_table(Report({}, rows=[row]), console)
    lines = [line for line in file.getvalue().splitlines() if "a-network" in line]
    assert lines[0].startswith("! ")
    assert lines[-1].startswith("! a-network")  # the reason, below the table
