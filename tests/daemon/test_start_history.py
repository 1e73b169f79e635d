"""Start history, and daemons that exit unexpectedly again and again."""

from __future__ import annotations

import itertools
import json
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.manifest import read_manifest
from edge.daemon import start_history as starts
from edge.daemon.start_history import CrashLoop, StartHistory
from edge.inference.engine_provider import EngineEnvironment, Fallback, OpenedEngine
from edge.pipeline.served_model import make_provider
from tests.support.configuration import Configure, belt
from tests.support.emulated_engines import EMULATION, emulated_gpu
from tests.support.process import Child, clean_environment
from tests.support.project import CONVEYOR
from tests.support.service_manager import ServiceManager
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

REFERENCE, GPU = "ort-cpu/fp32/", "trt/fp16/"
ENGINES = {"detector": "trt/fp16/3f9c"}


class Clock:
    """Time as a test sets it."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> int:
        return int(self.now_s * 1e9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(starts, "now_ns", clock)
    return clock


def start(
    folder: Path, clock: Clock, seconds: float = 10, end: starts.End | None = None, engines: dict[str, str] = ENGINES
) -> CrashLoop | None:
    """Let a daemon start and serve for a while; without an end it is killed. Return what it found at its start."""
    began = StartHistory(folder, restarted=True)
    found = began.crash_loop()
    began.begin()
    began.update(engines)
    clock.now_s += seconds
    began.update(engines)
    if end:
        began.end(end)
    clock.now_s += 5
    return found


def test_three_bad_ends_in_a_row_are_a_loop(tmp_path: Path, clock: Clock) -> None:
    found = [start(tmp_path, clock, end=end) for end in (None, "lost", None, None)]
    assert found[:3] == [None, None, None]
    assert found[3] is not None
    assert found[3].count == 3
    assert found[3].reason == ("the daemon exited unexpectedly 3 times within 10 min, each time shortly after starting")


@pytest.mark.parametrize("good", ["clean", "settled", "rebooted", "long ago"])
def test_a_start_that_ended_well_in_between_breaks_the_row(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch, good: str
) -> None:
    start(tmp_path, clock)
    start(tmp_path, clock)
    if good == "rebooted":
        monkeypatch.setattr(starts, "_machine_boot", lambda: "another")
    elif good == "long ago":
        clock.now_s += starts.WITHIN_S
    else:
        start(
            tmp_path, clock, starts.HEALTHY_UPTIME_S if good == "settled" else 10, "clean" if good == "clean" else None
        )
    assert [start(tmp_path, clock) for _ in range(3)] == [None, None, None]
    assert start(tmp_path, clock) is not None


def test_each_further_start_of_a_loop_waits_longer_up_to_a_bound(tmp_path: Path, clock: Clock) -> None:
    loops = [start(tmp_path, clock) for _ in range(12)]
    assert [loop.pause_s for loop in loops if loop] == [5, 10, 20, 40, 60, 60, 60, 60, 60]


def test_an_engine_that_served_well_comes_before_the_reference_and_not_after_it_failed_too(
    tmp_path: Path, clock: Clock
) -> None:
    good, bad = {"detector": "trt/fp16/3f9c"}, {"detector": "trt/int8/3f9c"}
    start(tmp_path, clock, starts.HEALTHY_UPTIME_S, "clean", good)
    for _ in range(3):
        assert start(tmp_path, clock, engines=bad) is None
    loop = start(tmp_path, clock, engines=good)
    assert loop is not None
    assert loop.engines == good
    loop = start(tmp_path, clock, engines=good)
    assert loop is not None
    assert loop.engines == {}


def test_the_medium_is_written_a_few_times_a_start_and_not_while_it_serves(tmp_path: Path, clock: Clock) -> None:
    began = StartHistory(tmp_path, restarted=True)
    began.begin()
    record = tmp_path / "starts.json"
    written = [record.stat().st_ino]
    for _ in range(5000):
        clock.now_s += 0.1
        began.update(ENGINES)
        written.append(record.stat().st_ino)
    assert sum(before != after for before, after in itertools.pairwise(written)) == 2


def test_without_somebody_who_restarts_it_nothing_is_kept(tmp_path: Path) -> None:
    began = StartHistory(tmp_path, restarted=False)
    began.begin()
    began.update(ENGINES)
    began.end("lost")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_no_reason_not_to_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    began = StartHistory(tmp_path / "missing", restarted=True)
    began.begin()
    assert began.crash_loop() is None
    assert "starts.json cannot be written (No such file or directory)" in caplog.text


@given(
    st.one_of(
        st.binary(max_size=200),
        st.recursive(
            st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
            lambda inner: st.one_of(
                st.lists(inner, max_size=3),
                st.dictionaries(st.sampled_from(["starts", "good_engines", "at_ns", "x"]), inner),
            ),
        ).map(lambda value: json.dumps(value).encode()),
    )
)
def test_a_record_of_whatever_content_lets_the_daemon_start(content: bytes) -> None:
    with TemporaryDirectory() as folder:
        (Path(folder) / "starts.json").write_bytes(content)
        began = StartHistory(Path(folder), restarted=True)
        assert began.crash_loop() is None
        began.begin()
        assert StartHistory(Path(folder), restarted=True).crash_loop() is None


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


def test_a_fallback_is_the_plan_that_is_kept_of_it_else_the_model_as_it_was_exported(tmp_path: Path) -> None:
    settings = ModelSettings.model_validate({"path": str(CONVEYOR), "max_batch": 1})
    provider = make_provider(
        settings, read_manifest(CONVEYOR), EngineEnvironment(tmp_path, "board", EnginesSettings()), 1
    )

    def opened(label: str, *tried: str) -> OpenedEngine:
        fallback = Fallback("why", {"conveyor": frozenset(tried)}, {"conveyor": label} if label else {})
        return provider.open_fallback(fallback, "conveyor")

    with emulated_gpu():
        kept = provider.open_or_build("fp16").label
        assert kept.startswith("trt/fp16/")
        assert opened(kept).engine.label == kept
        for gone in ("", kept.replace("fp16", "fp32"), kept[:-1] + "x", "ort-cpu/int8/0123"):
            found = opened(gone)
            assert found.engine.label.startswith(REFERENCE)
            assert (found.missing_reason, found.can_build) == ("why", False)
        assert opened("", found.engine.label).missing_reason is None, "it is no fallback where nothing else was there"
