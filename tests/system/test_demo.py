"""`edge demo`, run as a user runs it."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from typing import Any

import pytest

from edge.cli.demo_session import HOST, USUAL_PORT, free_port

pytest.importorskip("amqtt", reason="the embedded broker (amqtt) is not installed")


def run_demo(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge", "demo", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def documents(output: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in output.splitlines()]


def test_it_shows_results_of_every_stream_and_ends_with_a_summary() -> None:
    done = run_demo("--seconds", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert "mosquitto_sub" in done.stderr
    *telemetry, summary = documents(done.stdout)
    assert telemetry
    for stream in summary["streams"].values():
        assert stream["results"] == stream["received"] > 0
        assert stream["frames"] == stream["results"] + sum(stream["dropped"].values())
        assert stream["detections"]


def test_without_a_terminal_it_prints_lines_and_a_table() -> None:
    done = run_demo("--seconds", "2")
    assert done.returncode == 0, done.stderr
    assert "frames/s" in done.stdout
    assert "Summary" in done.stdout


def test_a_taken_port_is_left_alone() -> None:
    with socket.socket() as taken:
        try:
            taken.bind((HOST, USUAL_PORT))
        except OSError:
            pass  # somebody listens there already, which is the case to show
        else:
            taken.listen()
        assert free_port() != USUAL_PORT


def test_ctrl_c_ends_it_early_with_the_summary() -> None:
    command = [sys.executable, "-m", "edge", "demo", "--seconds", "600", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        demo.stdout.readline()
        demo.send_signal(signal.SIGINT)
        output, _ = demo.communicate(timeout=60)
    assert demo.returncode == 0
    assert "streams" in documents(output)[-1]


def test_a_wrong_number_of_seconds_is_told() -> None:
    done = run_demo("--seconds", "0")
    assert done.returncode == 2
    assert "wanted 1 to 86400" in done.stderr
