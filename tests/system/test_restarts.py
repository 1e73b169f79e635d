"""Daemons that are restarted again and again, as systemd does it."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.configuration import Configure, belt
from tests.support.emulated_engines import EMULATION
from tests.support.process import Child, clean_environment
from tests.support.service_manager import ServiceManager
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

REFERENCE, GPU = "ort-cpu/fp32/", "trt/fp16/"


# The daemon with times that a test can wait for.
SOON = """
import sys
from edge.daemon import daemon, start_history
start_history.HEALTHY_UPTIME_S = daemon.HEALTHY_UPTIME_S = float(sys.argv.pop(1))
start_history.FIRST_PAUSE_S = float(sys.argv.pop(1))
from edge.cli.main import main
sys.exit(main())
"""
StartUnit = Callable[..., Child]


@pytest.fixture
def start_unit(tmp_path: Path, configure: Configure, service_manager: ServiceManager) -> Iterator[StartUnit]:
    """Give a function that starts the daemon as systemd does, always on the same state."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def start_it(settled_s: float = 120.0, pause_s: float = 1.0, **controls: object) -> Child:
            config = configure({"streams.belt": belt(fps=25)})
            state = tmp_path / "state"
            emulated = {"EDGE_EMULATION": json.dumps(controls), "PYTHONPATH": str(EMULATION)} if controls else {}
            arguments = ["-c", SOON, f"{settled_s}", f"{pause_s}", "run", str(config), "--state-dir", str(state)]
            environment = clean_environment(service_manager.environment() | emulated)
            child = Child([sys.executable, *arguments], tmp_path, f"unit-{next(numbers)}", environment)
            stack.callback(child.kill)
            child.start()
            return child

        yield start_it


@pytest.mark.broker
def test_a_daemon_that_is_killed_again_and_again_waits_tells_and_recovers(
    start_unit: StartUnit, subscriber: Subscriber, service_manager: ServiceManager
) -> None:
    for _ in range(3):
        before = len(subscriber.messages)
        daemon = start_unit()
        subscriber.wait_for_results("belt", 3, after=before)
        assert "exited unexpectedly" not in daemon.log
        daemon.end(signal.SIGKILL)
    told = len(service_manager.told)
    daemon = start_unit(settled_s=3.0)
    service_manager.wait_for("EXTEND_TIMEOUT_USEC=301000000", after=told)
    service_manager.wait_for("STATUS=waiting 1 s: the daemon exited unexpectedly 3 times", after=told)
    raised = subscriber.wait_for(lambda m: m.schema == "alarm" and m.body["state"] == "raised", "an alarm").body
    assert (raised["alarm"], raised["severity"]) == ("crash_loop", "critical")
    assert f"{REFERENCE}" in raised["next"]
    subscriber.wait_for(
        lambda m: m.schema == "alarm" and (m.body["alarm"], m.body["state"]) == ("crash_loop", "cleared"), "its end"
    )
    assert daemon.end() == 0
    before = len(subscriber.messages)
    calm = start_unit()
    subscriber.wait_for_results("belt", 3, after=before)
    assert calm.end() == 0
    assert "exited unexpectedly" not in calm.log


@pytest.mark.broker
def test_a_stop_during_the_pause_ends_the_daemon_at_once_and_in_peace(
    start_unit: StartUnit, subscriber: Subscriber, service_manager: ServiceManager
) -> None:
    for _ in range(3):
        before = len(subscriber.messages)
        daemon = start_unit()
        subscriber.wait_for_results("belt", 1, after=before)
        daemon.end(signal.SIGKILL)
    waiting = start_unit(pause_s=50.0)
    waiting.await_log("waiting 50 s before this start")
    assert waiting.end(timeout_s=8.0) == 0
    before = len(subscriber.messages)
    calm = start_unit()
    subscriber.wait_for_results("belt", 1, after=before)
    assert calm.end() == 0


@pytest.mark.broker
def test_a_gpu_that_is_lost_again_and_again_is_served_without(
    start_unit: StartUnit, subscriber: Subscriber, tmp_path: Path
) -> None:
    first = start_unit(device="orin-nano")
    subscriber.wait_for(lambda m: m.schema == "status" and GPU in str(m.body["engines"]), "the GPU's engine")
    assert first.end() == 0
    for _ in range(3):
        assert start_unit(sticky_from_enqueue=60).wait() == 3
    before = len(subscriber.messages)
    fourth = start_unit(settled_s=2.0, sticky_from_enqueue=60)
    subscriber.wait_for_results("belt", 100, after=before)  # more than the GPU would have given
    raised = [alarm for alarm in subscriber.alarms() if alarm["state"] == "raised"]
    assert {alarm["alarm"] for alarm in raised[-2:]} == {"crash_loop", "engine_fallback"}
    assert "a restart tries the configured engine again" in str(raised)
    eventually(lambda: "crash_loop" in [a["alarm"] for a in subscriber.alarms() if a["state"] == "cleared"], "the end")
    assert fourth.end() == 0
    results = [m.body for m in subscriber.messages[before:] if m.topic.endswith("/streams/belt/results")]
    assert all(result["engine"].startswith(REFERENCE) for result in results)
    before = len(subscriber.messages)
    mended = start_unit(device="orin-nano")
    subscriber.wait_for(
        lambda m: m.topic.endswith("/results") and m.body["engine"].startswith(GPU), "the GPU's results", after=before
    )
    assert mended.end() == 0
