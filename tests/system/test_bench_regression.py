"""A baseline taken by the real command, and the same engine again, really slowed or not."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support.process import clean_environment, edge_command
from tests.support.waiting import PATIENCE_S

# Python runs a module of this name at its start. Sleeping, an engine takes as long on a busy machine as on an idle one.
SLOWED = """
import os
import time
from edge.inference.backends.ort import OrtContext

infer = OrtContext.infer

def slowly(context, batch_size):
    times = infer(context, batch_size)
    time.sleep(float(os.environ["ENGINE_TAKES_S"]))
    return times

OrtContext.infer = slowly
"""


def bench(folder: Path, engine_takes_s: float, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = edge_command(
        "bench", "conveyor", "--quick", "--duration", "2", "--state-dir", folder / "state", *arguments
    )
    added = {"PYTHONPATH": str(folder), "ENGINE_TAKES_S": str(engine_takes_s)}
    environment = clean_environment(added)
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=folder, env=environment
    )


@pytest.mark.parametrize("how", ["--engine-only", "--scenario=single-stream"])
def test_engine_that_became_slower_is_exit_code_4_and_the_same_one_is_0(tmp_path: Path, how: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOWED, encoding="utf-8")
    taken = bench(tmp_path, 0.1, how, "--json")
    assert taken.returncode == 0, taken.stderr
    before = tmp_path / "before.json"
    before.write_text(taken.stdout, encoding="utf-8")

    slower = bench(tmp_path, 0.3, how, "--json", "--baseline", before, "--tolerance", "0.3")
    assert slower.returncode == 4, slower.stderr
    (compared,) = json.loads(slower.stdout)["baseline"]["rows"]
    assert compared["verdict"] == "worse"

    same = bench(tmp_path, 0.1, how, "--baseline", before, "--tolerance", "0.3")
    assert same.returncode == 0, same.stdout
    assert "worse" not in same.stdout


def test_slower_engine_is_told_to_people(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(SLOWED, encoding="utf-8")
    before = tmp_path / "before.json"
    before.write_text(bench(tmp_path, 0.1, "--json").stdout, encoding="utf-8")
    done = bench(tmp_path, 0.3, "--baseline", before, "--tolerance", "0.3")
    assert done.returncode == 4
    assert "Now ÷ before, tolerance 30.0%" in done.stdout
    assert "worse" in done.stdout
