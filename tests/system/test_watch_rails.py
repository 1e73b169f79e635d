"""`edge power watch` as a process."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.process import clean_environment, edge_command
from tests.support.waiting import PATIENCE_S


def test_ctrl_c_ends_it(tmp_path: Path) -> None:
    command = edge_command("power", "watch", "--json", "--interval", "0.2")
    environment = clean_environment(board_environment("agx-xavier", tmp_path))
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        assert json.loads(child.stdout.readline())["rails_w"]
        child.send_signal(signal.SIGINT)
        assert child.wait(PATIENCE_S) == 0
