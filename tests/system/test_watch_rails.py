"""`edge power watch` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest

from tests.support.emulated_boards.boards import build
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes
from tests.support.process import clean_environment, edge_command
from tests.support.waiting import PATIENCE_S


@pytest.fixture
def xavier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = build("agx-xavier", tmp_path / "board")
    write_power_modes(root, "agx-xavier")
    monkeypatch.setenv("EDGE_ROOT", str(root))
    monkeypatch.setenv("PATH", install_tools(tmp_path / "bin"))
    return root


def test_ctrl_c_ends_it(xavier: Path) -> None:
    command = edge_command("power", "watch", "--json", "--interval", "0.2")
    environment = clean_environment({"EDGE_ROOT": str(xavier)})
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["rails_w"]
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 0
