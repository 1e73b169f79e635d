"""`edge tune` as a process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.configuration import write_toml
from tests.support.emulated_boards import tree
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.emulated_engines import EMULATION
from tests.support.process import clean_environment, edge_command, run_edge
from tests.support.tuned_board import MODEL, STREAM
from tests.support.waiting import PATIENCE_S, eventually


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return write_toml(tmp_path / "edge.toml", MODEL | STREAM)


def test_engine_that_is_lacking_is_built_before_it_is_measured(config: Path, tmp_path: Path) -> None:
    emulation = {"PYTHONPATH": str(EMULATION), "EDGE_EMULATION": json.dumps({"build_seconds": 0.2})}
    command = edge_command("tune", config, "--json", "--state-dir", tmp_path / "state", "--precisions", "fp16")
    options = ["--batches", "1", "--lanes", "1", "--seconds", "1"]
    done = subprocess.run(
        [*command, *options],
        env=clean_environment(emulation),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout)["points"][0]
    assert measured["engine"].startswith("trt/fp16/")
    assert measured["point"]["device"] == "gpu"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batches", "0,2"], "found '0,2', wanted numbers from 1 to 1024"),
        (["--lanes", "two"], "found 'two', wanted numbers"),
        (["--precisions", "int4"], "found 'int4', wanted fp32, fp16, int8"),
        (["--target-p99-ms", "-1"], "found '-1', wanted a number above 0"),
    ],
)
def test_wrong_arguments_are_told_with_what_is_wanted(tmp_path: Path, arguments: list[str], told: str) -> None:
    done = run_edge("tune", "edge.toml", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr


def emulated(name: str, tmp_path: Path) -> dict[str, str]:
    """Build a board with its rails and power modes; return the environment of a process on it."""
    if os.geteuid() != 0:
        pytest.skip("setting a mode needs root, or the service edge-power")
    return clean_environment(board_environment(name, tmp_path))


SHORT = ["--batches", "1", "--lanes", "1", "--precisions", "fp32"]


def test_command_on_a_board_reads_its_rails_and_writes_a_profile_of_it(config: Path, tmp_path: Path) -> None:
    orin = emulated("orin-nano", tmp_path)
    before = modes_of(orin)["current"]
    command = edge_command("tune", config, "--json", "--state-dir", tmp_path / "state", *SHORT, "--seconds", "3")
    done = subprocess.run(command, env=orin, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    voltage, current = (float(path.read_text()) for path in tree.value_files(tmp_path / "board", "VDD_IN"))
    point = told["points"][0]["point"]
    assert point["power_w"] == pytest.approx(voltage * current / 1e6, rel=0.01)
    assert point["energy_j_per_image"] == pytest.approx(point["power_w"] / point["images_per_s"], rel=0.01)
    assert point["idle_w"] == pytest.approx(point["power_w"], rel=0.01), "this board's rails never change"
    assert point["temperature_c"] > 0
    assert told["max_q"] is not None
    assert told["machine"]["l4t"] is not None
    assert any("7W needs a reboot" in note for note in told["notes"])
    assert modes_of(orin)["current"] == before


def modes_of(environment: dict[str, str]) -> Any:
    command = edge_command("power", "show", "--json")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_end_of_the_command_by_a_signal_puts_the_mode_of_the_board_back(
    config: Path, tmp_path: Path, number: signal.Signals
) -> None:
    orin = emulated("orin-nano-super", tmp_path)
    status = tmp_path / "board/var/lib/nvpmodel/status"
    before = status.read_text(encoding="utf-8")
    command = edge_command("tune", config, "--state-dir", tmp_path / "state", "--power-modes", "15W", *SHORT)
    with subprocess.Popen([str(part) for part in command], env=orin, stderr=subprocess.PIPE, text=True) as process:
        eventually(lambda: status.read_text(encoding="utf-8") != before, "another mode")
        process.send_signal(number)
        _, told = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "run the same command again to continue" in told
    assert status.read_text(encoding="utf-8") == before
