"""Resumption of an interrupted search."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import EdgeError
from edge.perf.tune.measurements_file import MeasurementsFile
from tests.perf.test_candidate_pruner import ONE, measured

CONDITIONS = {"seconds": 20.0, "streams": {"a": {"source": Path("clip.mp4")}}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tune" / "m.json"


def test_finished_points_are_read_back_as_they_were(path: Path) -> None:
    first = MeasurementsFile(path, CONDITIONS, fresh=False)
    other = replace(ONE, power_mode=None, max_batch=4)
    first.mode_before, first.idle_w["FAST"] = "SLOW", 3.5
    first.add(ONE, measured(ONE, 12.0))
    first.add(other, measured(other, 14.0))
    again = MeasurementsFile(path, CONDITIONS, fresh=False)
    assert again.measured == first.measured
    assert (again.mode_before, again.idle_w) == ("SLOW", {"FAST": 3.5})


def test_points_of_another_configuration_do_not_count_but_the_mode_to_put_back_does(path: Path) -> None:
    first = MeasurementsFile(path, CONDITIONS, fresh=False)
    first.mode_before = first.mode_set = "SLOW"
    first.add(ONE, measured(ONE, 12.0))
    for other in (
        MeasurementsFile(path, CONDITIONS | {"seconds": 5.0}, fresh=False),
        MeasurementsFile(path, CONDITIONS, fresh=True),
    ):
        assert other.measured == {}
        assert (other.mode_before, other.mode_set) == ("SLOW", "SLOW")


@given(st.binary(max_size=200))
def test_file_of_anything_counts_as_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("state") / "m.json"
    path.write_bytes(content)
    assert MeasurementsFile(path, CONDITIONS, fresh=False).measured == {}


def test_state_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "tune").write_text("a file where a folder should be", encoding="utf-8")
    with pytest.raises(EdgeError, match=r"cannot be written.*--state-dir"):
        MeasurementsFile(tmp_path / "tune" / "m.json", CONDITIONS, fresh=False).save()
