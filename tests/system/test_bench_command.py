"""`edge bench` as a process."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.process import clean_environment, edge_command, run_edge
from tests.support.waiting import PATIENCE_S, eventually


def test_command_prints_json_csv_markdown_and_a_table(tmp_path: Path) -> None:
    arguments: list[str | Path] = [
        "bench",
        "Conveyor",
        "--quick",
        "--frames",
        "5",
        "--state-dir",
        tmp_path / "state",
        "--precision",
        "FP32",
    ]
    done = run_edge(*arguments, "--json", folder=tmp_path)
    told = json.loads(done.stdout)
    assert set(told) >= {"machine", "rows"}
    assert told["rows"][0]["network"] == "conveyor"
    assert told["rows"][0]["latency_p99_ms"] is None
    assert sum(block["images"] for block in told["rows"][0]["samples"]) == 5
    (row,) = csv.DictReader(io.StringIO(run_edge(*arguments, "--csv", folder=tmp_path).stdout))
    assert (row["network"], row["batch"], row["power_w"]) == ("conveyor", "1", "")
    assert "| conveyor |" in run_edge(*arguments, "--markdown", folder=tmp_path).stdout
    assert "images/s" in run_edge(*arguments, folder=tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--batch", "0"], "found '0', wanted numbers from 1 to 1024"),
        (["--precision", "fp64"], "found 'fp64', wanted fp32, fp16, int8"),
        (["--frames", "0"], "found '0', wanted a whole number from 1"),
        (["--scenario", "fast"], "wanted single-stream, multi-stream, server, offline"),
    ],
)
def test_wrong_option_is_exit_code_2(arguments: list[str], told: str, tmp_path: Path) -> None:
    done = run_edge("bench", "conveyor", *arguments, folder=tmp_path)
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_benchmark_prints_what_it_has_and_says_that_it_is_partial(
    tmp_path: Path, number: signal.Signals
) -> None:
    log = tmp_path / "log"
    command = edge_command(
        "bench", "conveyor", "--batch", "1,2", "--duration", "2", "--json", "--log-level", "info", "--quick",
        "--state-dir", tmp_path / "state",
    )  # fmt: skip
    with log.open("wb") as errors:
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, env=clean_environment())
        try:
            eventually(lambda: b"conveyor fp32 batch 1:" in log.read_bytes(), "the first row")
            time.sleep(1.0)
            os.kill(child.pid, number)
            out, _ = child.communicate(timeout=PATIENCE_S)
        finally:
            child.kill()
    assert child.returncode == 130
    told = json.loads(out)
    assert told["partial"] is True
    first, *rest = told["rows"]
    assert first["batch"] == 1
    assert sum(block["seconds"] for block in first["samples"]) >= 2
    assert all(not row["valid"] and "interrupted" in row["why"] for row in rest)
