"""Names and loads of the machine, emulated and real."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host.board import board_name
from edge.host.sensors.sensors import Sensors


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make an empty root that stands for the machine's."""
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    (tmp_path / "proc").mkdir()
    return tmp_path


def test_a_jetson_is_named_by_its_device_tree(board: Path) -> None:
    """The file ends with a zero byte, as the kernel writes it."""
    (board / "proc/device-tree").mkdir()
    model = "NVIDIA Jetson Orin Nano Developer Kit"
    (board / "proc/device-tree/model").write_bytes(model.encode() + b"\0")
    assert board_name() == model


def test_another_machine_is_named_by_its_processor(board: Path) -> None:
    (board / "proc/cpuinfo").write_text("processor\t: 0\nmodel name\t: Some CPU @ 3 GHz\n", encoding="utf-8")
    assert "Some CPU @ 3 GHz" in board_name()


@pytest.mark.usefixtures("board")
def test_a_machine_that_tells_nothing_is_said_to_be_unknown() -> None:
    assert "processor unknown" in board_name()


def test_load_and_memory_are_measured_and_the_rest_is_null() -> None:
    reading = Sensors().read().to_json()
    assert 0 <= reading["cpu_load"] <= 1
    assert reading["memory_mb"] > 1
    unmeasured = {key for key, value in reading.items() if value is None}
    assert {"power_w", "energy_j", "gpu_load", "throttled", "power_mode"} <= unmeasured
