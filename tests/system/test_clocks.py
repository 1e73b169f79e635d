"""The wall clock is set while the daemon runs, or wrong before a reboot: order, ages, rates and the outbox bear it."""

from __future__ import annotations

import contextlib
import json
import mmap
import shutil
import sqlite3
import struct
import subprocess
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt
from tests.support.process import Child, StartEdge
from tests.support.subscriber import Subscriber, subscribed
from tests.support.waiting import eventually

HOUR_S = 3600
DAYS_S = 9 * 24 * HOUR_S
FPS = 20
PERIOD_S = 0.5
SOURCE = Path(__file__).parents[1] / "support" / "wall_clock.c"


class WallClock:
    """The wall clock of one process and its children, which alone is moved: the machine's stays as it is.

    A library of the test's own and not libfaketime (0.9.10), under which programs of many threads now and then hang or
    fail when the offset changes.
    """

    def __init__(self, folder: Path) -> None:
        self.library = folder / "wall_clock.so"
        compiler = shutil.which("cc") or pytest.skip("no C compiler is installed: apt-get install gcc libc6-dev")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-o", self.library, SOURCE], check=True)
        setting, self._kernel_start = folder / "wall-clock", folder / "kernel-start"
        setting.write_bytes(bytes(16))
        with setting.open("r+b") as file:
            self._setting = mmap.mmap(file.fileno(), 16)
        self.environment = {
            "LD_PRELOAD": str(self.library),
            "WALL_CLOCK": str(setting),
            "KERNEL_START": str(self._kernel_start),
        }
        self.reboot()

    def move(self, offset_s: int, *, synchronised: bool = True) -> None:
        """Set the clock to so many seconds off the machine's."""
        self._setting[:] = struct.pack("qq", offset_s, synchronised)

    def reboot(self) -> None:
        """Let the processes to come take the kernel for another start of it."""
        self._kernel_start.write_text(f"{uuid.uuid4()}\n", encoding="ascii")


@pytest.fixture
def clock(tmp_path: Path) -> WallClock:
    return WallClock(tmp_path)


def offset_s(told: str) -> int:
    """Return how many hours off the machine's clock a message's time is, in seconds."""
    at = datetime.fromisoformat(told.replace("Z", "+00:00"))
    return round((at - datetime.now(timezone.utc)).total_seconds() / HOUR_S) * HOUR_S


def wait_for_results_at(subscriber: Subscriber, offset: int, count: int) -> list[Json]:
    """Wait for results captured at this setting of the clock, and return all results."""

    def come() -> bool:
        return sum(offset_s(each["captured_at"]) == offset for each in subscriber.results("belt")) >= count

    eventually(come, f"{count} results at {offset:+d} s")
    return subscriber.results("belt")


def assert_right(subscriber: Subscriber, daemon: Child) -> None:
    """Nothing but the times that are written for people has taken note of the clock's steps."""
    results = subscriber.results("belt")
    assert [each["seq"] for each in results] == list(range(len(results)))
    assert all(0 <= each["age_ms"] < 60_000 for each in results)
    assert all(0 <= spent < 60_000 for each in results for spent in each["latency_ms"].values())
    telemetry = subscriber.telemetry()
    assert all(0 < each["period_s"] < 60 for each in telemetry)
    rates = [each["streams"]["belt"]["results_per_s"] for each in telemetry]
    assert all(0 <= rate < 10 * FPS for rate in rates)
    assert max(rates) > FPS / 4
    assert telemetry[-1]["outbox"]["dropped"] == 0
    assert all(0 <= (each["outbox"]["oldest_s"] or 0) < 120 for each in telemetry)
    assert [state for state in subscriber.states("belt") if state not in ("running", "off")] == []
    assert "Traceback" not in daemon.log


@pytest.mark.broker
def test_a_clock_set_back_and_forward_by_an_hour_changes_no_order_age_or_rate(
    clock: WallClock, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    config = configure({"streams.belt": belt(fps=FPS), "telemetry": {"period_s": PERIOD_S}})
    daemon = start_edge(config, environment=clock.environment)
    subscriber.wait_for_results("belt", FPS)
    for offset in (-HOUR_S, HOUR_S, 0):
        telemetry = len(subscriber.telemetry())
        clock.move(offset)
        wait_for_results_at(subscriber, offset, 2 * FPS)
        eventually(lambda before=telemetry: len(subscriber.telemetry()) >= before + 3, "telemetry goes on")  # type: ignore[misc]
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert_right(subscriber, daemon)
    offsets = [offset_s(each["captured_at"]) for each in subscriber.results("belt")]
    assert [at for at, before in zip(offsets, [None, *offsets], strict=False) if at != before] == [
        0,
        -HOUR_S,
        HOUR_S,
        0,
    ]


@pytest.mark.broker
@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_what_waits_for_a_broker_while_the_clock_is_set_is_neither_too_old_nor_too_new(
    clock: WallClock, configure: Configure, start_edge: StartEdge, broker: Mosquitto, step_s: int
) -> None:
    outbox = {"memory_s": 0.2, "commit_s": 0.1, "max_age_s": 120}
    config = configure({"streams.belt": belt(fps=FPS), "outbox": outbox})
    with subscribed(broker.port) as subscriber:
        daemon = start_edge(config, environment=clock.environment)
        subscriber.wait_for_results("belt", FPS)
        broker.end()
        daemon.await_log("is unreachable")
        time.sleep(2)  # some results wait from before the step, and some from after it
        clock.move(step_s)
        time.sleep(2)
        broker.start()
        wait_for_results_at(subscriber, step_s, 3 * FPS)
        assert daemon.end() == 0
        subscriber.wait_for_state("stopped")
        seqs = [each["seq"] for each in subscriber.results("belt")]
        assert sorted(set(seqs)) == list(range(max(seqs) + 1))
        assert all(0 <= each["age_ms"] < 60_000 for each in subscriber.results("belt"))
        assert subscriber.telemetry()[-1]["outbox"]["dropped"] == 0


@pytest.mark.broker
@pytest.mark.parametrize("step_s", [-HOUR_S, HOUR_S])
def test_what_waits_on_disk_outlives_a_restart_with_the_clock_set_by_an_hour(
    clock: WallClock, configure: Configure, start_edge: StartEdge, mosquitto: Mosquitto, step_s: int
) -> None:
    outbox = {"memory_s": 0.2, "commit_s": 0.1, "max_age_s": 120}
    config = configure({"streams.belt": belt(fps=FPS), "outbox": outbox})
    first = start_edge(config, environment=clock.environment)
    first.await_log("stream belt is running")
    time.sleep(3)
    assert first.end() == 0
    clock.move(step_s)
    mosquitto.start()
    with subscribed(mosquitto.port) as subscriber:
        second = start_edge(config, environment=clock.environment)
        wait_for_results_at(subscriber, step_s, FPS)
        eventually(
            lambda: any(each["outbox"]["messages"] < FPS for each in subscriber.telemetry()[-1:]), "the backlog is sent"
        )
        assert second.end() == 0
        subscriber.wait_for_state("stopped")
        earlier = [each for each in subscriber.results("belt") if offset_s(each["captured_at"]) == 0]
        now = [each for each in subscriber.results("belt") if offset_s(each["captured_at"]) == step_s]
        for each in (earlier, now):
            assert sorted({result["seq"] for result in each}) == list(range(len({result["seq"] for result in each})))
        assert len(earlier) > FPS
        assert {each["boot"] for each in earlier}.isdisjoint(each["boot"] for each in now)
        assert all(0 <= each["age_ms"] < 60_000 for each in subscriber.results("belt"))
        assert subscriber.telemetry()[-1]["outbox"]["dropped"] == 0


def newest_on_disk(folder: Path) -> int:
    """Return the key of the newest result on disk."""
    with contextlib.closing(sqlite3.connect(folder / "edge-state" / "outbox.db")) as disk:
        newest: int = disk.execute("SELECT coalesce(max(key), 0) FROM messages WHERE key < 4 << 58").fetchone()[0]
    return newest


def backlog_after_a_reboot(
    clock: WallClock, configure: Configure, start_edge: StartEdge, mosquitto: Mosquitto, *, synchronised: bool
) -> tuple[int, list[Json], Subscriber]:
    """Let results wait on disk over a reboot, before which the clock was days behind.

    Return how many waited, the results of that boot that came, and the subscriber.
    """
    config = configure({"streams.belt": belt(fps=FPS), "outbox": {"memory_s": 0.2, "commit_s": 0.1, "max_age_s": 120}})
    clock.move(-DAYS_S, synchronised=synchronised)
    first = start_edge(config, environment=clock.environment)
    first.await_log("stream belt is running")
    time.sleep(3)
    assert first.end() == 0
    waited = json.loads(first.output)["streams"]["belt"]["results"]
    newest = newest_on_disk(config.parent)
    clock.reboot()
    clock.move(0)
    second = start_edge(config, environment=clock.environment)
    eventually(lambda: newest_on_disk(config.parent) > newest, "the disk is used while the broker is away")
    mosquitto.start()
    with subscribed(mosquitto.port) as subscriber:
        wait_for_results_at(subscriber, 0, FPS)
        eventually(
            lambda: any(each["outbox"]["messages"] < FPS for each in subscriber.telemetry()[-1:]), "the backlog is sent"
        )
        assert second.end() == 0
        subscriber.wait_for_state("stopped")
        return (
            waited,
            [each for each in subscriber.results("belt") if offset_s(each["captured_at"]) == -DAYS_S],
            subscriber,
        )


@pytest.mark.broker
def test_a_backlog_from_before_a_reboot_with_a_wrong_clock_that_was_not_synchronised_is_sent(
    clock: WallClock, configure: Configure, start_edge: StartEdge, mosquitto: Mosquitto
) -> None:
    waited, came, subscriber = backlog_after_a_reboot(clock, configure, start_edge, mosquitto, synchronised=False)
    assert waited > FPS
    assert sorted({each["seq"] for each in came}) == list(range(waited))
    assert subscriber.telemetry()[-1]["outbox"]["dropped"] == 0
    assert subscriber.alarms() == []


@pytest.mark.broker
def test_a_backlog_of_days_by_a_synchronised_clock_is_dropped_as_too_old_and_the_alarm_says_so(
    clock: WallClock, configure: Configure, start_edge: StartEdge, mosquitto: Mosquitto
) -> None:
    waited, came, subscriber = backlog_after_a_reboot(clock, configure, start_edge, mosquitto, synchronised=True)
    assert (waited > FPS, came) == (True, [])
    assert subscriber.telemetry()[-1]["outbox"]["dropped_by_cause"]["age"] >= waited
    raised = next(each for each in subscriber.alarms() if each["state"] == "raised")
    assert raised["alarm"] == "outbox_full"
    assert "older than 120 s ([outbox] max_age_s)" in raised["reason"]
    assert "raise max_age_s" in raised["next"]
