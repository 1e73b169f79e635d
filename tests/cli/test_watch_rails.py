"""`edge power watch`: rails of an emulated board, live; one sentence where there are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge.cli.main import main
from tests.support.emulated_boards.emulated_power import board_environment


@pytest.fixture
def xavier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in board_environment("agx-xavier", tmp_path).items():
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("xavier")
def test_each_interval_is_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "watch", "--json", "--interval", "0.3", "--seconds", "0.9"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) == 3
    for line in lines:
        assert set(line["rails_w"]) == {"GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"}
        assert line["power_w"] == pytest.approx(sum(line["rails_w"].values()), rel=0.01)
        assert (line["power_mode"], line["power_rail"]) == ("15W", "GPU+CPU+SOC+CV+VDDRQ+SYS5V")
    assert [line["t_s"] for line in lines] == sorted({line["t_s"] for line in lines})


@pytest.mark.usefixtures("xavier")
def test_people_get_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["power", "watch", "--interval", "0.2", "--seconds", "0.4"]) == 0
    shown = capsys.readouterr().out
    assert "VDDRQ" in shown
    assert "15W" in shown


def test_without_a_sensor_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert main(["power", "watch", "--seconds", "1"]) == 1
    assert "no power sensor was found" in capsys.readouterr().err
