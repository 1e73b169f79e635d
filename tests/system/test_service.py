"""The daemon as a service: stop, broker lost and found, reload, systemd's notify protocol, the lock."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import sqlite3
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt, write_config
from tests.support.counting_broker import CountingBroker
from tests.support.process import Child, StartEdge, clean_environment
from tests.support.service_manager import ServiceManager
from tests.support.subscriber import Received, Subscriber, subscribed
from tests.support.tiny_model import tiny_model
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

# The promise is 5 s from the signal; the rest is for a machine that does other work.
STOP_S = 8.0

# Sleeps without end as soon as a file `hang` stands beside it.
HANGING = """
import time
from pathlib import Path
import numpy as np

def decode(outputs, options):
    while Path(__file__).with_name("hang").exists():
        time.sleep(0.1)
    return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
"""

# The command `edge`, with a defect that the daemon comes to at its first tick.
BROKEN = """
import sys
from edge.cli.main import main
from edge.pipeline.pipeline import Pipeline

Pipeline.recover_engines = lambda self: [][1]
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_daemon_with_every_frame_told(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, number: signal.Signals
) -> None:
    daemon = start_edge(configure({"streams.belt": belt()}))
    subscriber.wait_for_results("belt", 10)
    assert daemon.end(number, STOP_S) == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.states() == ["online", "stopped"]
    assert subscriber.states("belt") == ["running", "off"]
    last = subscriber.telemetry()[-1]["streams"]["belt"]
    assert last["in_flight"] == 0
    assert subscriber.seqs("belt") == list(range(last["results"]))
    assert json.loads(daemon.output)["messages_lost"] == 0


def test_a_defect_that_ends_the_daemon_is_in_the_log_with_its_traceback(
    tmp_path: Path, configure: Configure, subscriber: Subscriber
) -> None:
    config = configure({"streams.belt": belt()})
    command: list[str | Path] = [sys.executable, "-c", BROKEN, "run", config]
    daemon = Child([*command, "--state-dir", tmp_path / "state"], tmp_path, "edge", clean_environment())
    daemon.start()
    assert daemon.wait() == 1
    assert subscriber.wait_for_state("stopped")
    told, _, stop = daemon.log.partition("stream belt is off")
    assert "CRITICAL unexpected failure; the daemon stops\nTraceback (most recent call last):" in told
    assert "IndexError: list index out of range" in told
    assert "edge: unexpected failure (IndexError: list index out of range)" in stop


def test_without_a_broker_sigterm_ends_the_daemon_in_time_and_the_next_start_sends_what_waited(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    broker.end()
    config = configure({"streams.belt": belt()})
    daemon = start_edge(config)
    daemon.await_log("stream belt is running")
    time.sleep(1)
    assert daemon.end(timeout_s=STOP_S) == 0
    told = re.search(
        r"(\d+) messages were not acknowledged by broker mqtt://127\.0\.0\.1:\d+ and are kept on", daemon.log
    )
    assert told is not None
    summary = json.loads(daemon.output)
    results = summary["streams"]["belt"]["results"]
    assert summary["messages_lost"] == 0
    assert int(told[1]) == summary["messages_kept"] > results > 0  # with telemetry
    broker.start()
    again = start_edge(config, name="again", state_dir=daemon_state(config))
    eventually(lambda: seqs_of(subscriber, summary["boot"]) == list(range(results)), "what waited, in order")
    assert again.end(timeout_s=STOP_S) == 0


def daemon_state(config: Path) -> Path:
    """Return the state directory of the first daemon of a test."""
    return config.parent / "edge-state"


def seqs_of(subscriber: Subscriber, boot: str) -> list[int]:
    return [result["seq"] for result in subscriber.results("belt") if result["boot"] == boot]


def test_without_a_broker_what_need_not_be_kept_is_lost_and_counted(
    configure: Configure, start_edge: StartEdge
) -> None:
    daemon = start_edge(configure({"streams.belt": belt(qos=0)}))
    daemon.await_log("stream belt is running")
    time.sleep(1)
    assert daemon.end(timeout_s=STOP_S) == 0
    told = re.search(r"(\d+) messages were not acknowledged by broker \S+ and are lost", daemon.log)
    assert told is not None
    summary = json.loads(daemon.output)
    assert int(told[1]) == summary["messages_lost"] == summary["streams"]["belt"]["results"] > 0


def test_a_broker_that_dies_before_sigterm_does_not_delay_the_end(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    daemon = start_edge(configure({"streams.belt": belt()}))
    subscriber.wait_for_results("belt", 5)
    broker.send(signal.SIGSTOP)  # the connection stands, and no answer comes
    time.sleep(1)
    assert daemon.end(timeout_s=STOP_S) == 0
    assert "messages were not acknowledged" in daemon.log
    broker.send(signal.SIGCONT)


@pytest.mark.parametrize("frames", [0, 60])
def test_what_a_silent_broker_has_not_acknowledged_is_on_disk_when_sigterm_ends_the_daemon(
    tmp_path: Path, start_edge: StartEdge, frames: int
) -> None:
    """Also where the signal comes while a daemon whose sources have ended waits for the broker."""
    broker = CountingBroker()
    config = write_config(
        tmp_path / "edge.toml",
        f"mqtt://127.0.0.1:{broker.port}",
        {"streams.belt": belt(frames=frames), "outbox": {"memory_s": 600}},
    )
    daemon = start_edge(config)
    daemon.await_log("stream belt is ended" if frames else "stream belt is running")
    time.sleep(STOP_S if frames else 2)
    assert daemon.end(timeout_s=STOP_S) == 0
    summary = json.loads(daemon.output)
    with contextlib.closing(sqlite3.connect(daemon_state(config) / "outbox.db")) as disk:
        on_disk = disk.execute("SELECT count(*) FROM messages").fetchone()[0]
    assert on_disk == summary["messages_kept"] > summary["streams"]["belt"]["results"] > 0  # with telemetry


def test_a_camera_that_takes_the_connection_and_says_nothing_does_not_delay_the_end(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        mute = {"source": f"rtsp://127.0.0.1:{silent.getsockname()[1]}/main", "model": "conveyor"}
        daemon = start_edge(configure({"streams.belt": belt(), "streams.mute": mute}))
        subscriber.wait_for_results("belt", 10)
        assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    last = subscriber.telemetry()[-1]["streams"]["belt"]
    assert last["in_flight"] == 0
    assert subscriber.seqs("belt") == list(range(last["results"]))


def test_what_was_found_before_the_broker_came_arrives_from_the_first_result_on(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    broker.end()  # it keeps the subscriber's session, and so whatever comes before the subscriber is back
    # What waits in memory keeps its place before what comes later.
    daemon = start_edge(configure({"outbox": {"memory_s": 3600}, "streams.belt": belt()}))
    daemon.await_log("is unreachable")
    daemon.await_log("stream belt is running")
    time.sleep(1)
    broker.start()
    subscriber.wait_for_results("belt", 40)
    assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.seqs("belt") == list(range(len(subscriber.seqs("belt"))))


def test_a_full_queue_drops_the_oldest_results_and_counts_them(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    broker.end()
    config = configure({"mqtt": {"queue_messages": 50}, "outbox": {"max_mb": 0}, "streams.belt": belt()})
    daemon = start_edge(config)
    daemon.await_log("stream belt is running")
    time.sleep(4)
    broker.start()
    subscriber.wait_for_results("belt", 60)
    assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    seqs = subscriber.seqs("belt")
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert 0 < seqs[0] <= subscriber.telemetry()[-1]["outbox"]["dropped"]
    assert {"outbox_full"} == {alarm["alarm"] for alarm in subscriber.alarms()}
    assert subscriber.states()[0] == "online"
    assert subscriber.states("belt")[0] == "running"


def test_a_broker_that_restarts_costs_no_result(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    frames = 600
    daemon = start_edge(configure({"streams.belt": belt(frames=frames, size="160x120", delivery="every")}))
    subscriber.wait_for_results("belt", 100)
    broker.end()
    daemon.await_log("is unreachable")
    broker.start()
    assert daemon.wait() == 0
    subscriber.wait_for_state("stopped")
    seqs = subscriber.seqs("belt")
    assert list(dict.fromkeys(seqs)) == list(range(frames))
    assert len(seqs) < frames + 200, "only what was on its way is sent twice"
    assert subscriber.states()[-1] == "stopped"


def test_a_broker_that_forgot_everything_is_told_again(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto
) -> None:
    daemon = start_edge(configure({"streams.belt": belt(fps=5)}))
    daemon.await_log("connected to MQTT broker")
    broker.restart()
    eventually(lambda: daemon.log.count("connected to MQTT broker") == 2, "a second connection")
    with subscribed(broker.port) as first:
        first.wait_for_state("online")
        first.wait_for_state("running", "belt")
    with subscribed(broker.port) as late:
        for message in (late.wait_for_state("online"), late.wait_for_state("running", "belt")):
            assert message.retained
        late.wait_for_results("belt", 3)
    assert daemon.end(timeout_s=STOP_S) == 0


def test_a_daemon_that_is_killed_is_told_offline_by_the_broker(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    daemon = start_edge(configure({"streams.belt": belt(fps=5)}))
    subscriber.wait_for_results("belt", 1)
    daemon.kill()
    offline = subscriber.wait_for_state("offline").body
    assert offline["boot"] == subscriber.results("belt")[0]["boot"]


def test_sighup_adds_removes_and_changes_streams_and_leaves_the_others_alone(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    before = {"kept": belt(), "removed": belt(), "changed": belt()}
    after = {"kept": belt(), "changed": belt(labels=["nut"]), "added": belt(fps=10)}
    daemon = start_edge(configure({f"streams.{name}": keys for name, keys in before.items()}))
    for stream in before:
        subscriber.wait_for_results(stream, 5)
    configure({f"streams.{name}": keys for name, keys in after.items()})
    daemon.send(signal.SIGHUP)
    daemon.await_log("configuration reloaded: 3 streams")
    reloaded = len(subscriber.messages)
    for stream in after:
        subscriber.wait_for_results(stream, 10, after=reloaded)
    assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.states("kept") == ["running", "off"]
    assert subscriber.states("removed") == ["running", "off"]
    assert subscriber.states("changed") == ["running", "off", "running", "off"]
    assert subscriber.states("added") == ["running", "off"]
    for stream in after:
        assert subscriber.seqs(stream) == list(range(len(subscriber.seqs(stream))))
    labels = {each["label"] for result in subscriber.results("changed")[-10:] for each in result["detections"]}
    assert labels <= {"nut"}
    assert not any(m.topic.endswith("removed/results") for m in subscriber.messages[reloaded:])


def test_a_bad_new_configuration_is_refused_and_the_old_one_runs_on(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    broken = tiny_model(tmp_path / "broken")
    (broken / "tiny.onnx").write_text("no model", encoding="utf-8")
    good = {"streams.belt": belt()}
    bad: list[tuple[dict[str, Json], str]] = [
        ({"streams.belt": belt(colour="red")}, "colour: unknown key"),
        (
            good | {"models.broken": {"path": str(broken)}, "streams.b": belt() | {"model": "broken"}},
            "cannot be loaded",
        ),
        (good | {"streams.b": belt(labels=["cat"])}, "found 'cat'"),
        (good | {"mqtt": {"prefix": "other"}}, "[mqtt] has changed, which requires a restart"),
        (good | {"device": {"name": "other"}}, "[device] has changed, which requires a restart"),
    ]
    daemon = start_edge(configure(good))
    subscriber.wait_for_results("belt", 5)
    for refusals, (tables, sentence) in enumerate(bad, 1):
        configure(tables)
        daemon.send(signal.SIGHUP)
        daemon.await_log(sentence)
        eventually(lambda: daemon.log.count("is refused and the old one stays in effect") == refusals, "a refusal")  # noqa: B023
    subscriber.wait_for_results("belt", 5, after=len(subscriber.messages))
    assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.states("belt") == ["running", "off"]
    assert subscriber.seqs("belt") == list(range(len(subscriber.seqs("belt"))))
    assert "Traceback" not in daemon.log


def test_systemd_is_told_of_ready_watchdog_reload_and_stop(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, service_manager: ServiceManager
) -> None:
    daemon = start_edge(configure({"streams.belt": belt(fps=5)}), environment=service_manager.environment(watchdog_s=1))
    service_manager.wait_for("READY=1")
    service_manager.wait_for("WATCHDOG=1")
    service_manager.wait_for("STATUS=1 of 1 streams running, ")
    ready = len(service_manager.told)
    daemon.send(signal.SIGHUP)
    service_manager.wait_for("RELOADING=1\nMONOTONIC_USEC=", after=ready)
    service_manager.wait_for("READY=1", after=ready)
    assert daemon.end(timeout_s=STOP_S) == 0
    service_manager.wait_for("STOPPING=1")
    without_pings = [each.split("\n")[0] for each in service_manager.told if each != "WATCHDOG=1"]
    assert [each for each in without_pings if not each.startswith("STATUS=")] == [
        "READY=1",
        "RELOADING=1",
        "READY=1",
        "STOPPING=1",
    ]


def test_a_lane_that_hangs_starves_the_watchdog_and_the_daemon_still_ends(
    tmp_path: Path,
    configure: Configure,
    start_edge: StartEdge,
    subscriber: Subscriber,
    service_manager: ServiceManager,
) -> None:
    folder = tiny_model(tmp_path / "hanging", HANGING)
    config = configure(
        {
            "models.hanging": {"path": str(folder), "lanes": 1},
            "streams.stuck": belt() | {"model": "hanging"},
            "streams.belt": belt(),
        }
    )
    daemon = start_edge(config, environment=service_manager.environment(watchdog_s=1))
    subscriber.wait_for_results("stuck", 5)
    service_manager.wait_for("WATCHDOG=1")
    (folder / "hang").touch()
    daemon.await_log("no progress since the last watchdog ping: lane-hanging-0")
    told = len(service_manager.told)
    subscriber.wait_for_results("belt", 60, after=len(subscriber.messages))
    assert "WATCHDOG=1" not in service_manager.told[told:]
    assert daemon.end(timeout_s=STOP_S) == 0
    assert "lane-hanging-0 hangs" in daemon.log
    subscriber.wait_for_state("stopped")
    last = subscriber.telemetry()[-1]["streams"]
    assert last["belt"]["in_flight"] == 0


def test_a_second_daemon_on_one_state_directory_is_refused(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    config = configure({"streams.belt": belt(fps=5)})
    first = start_edge(config, state_dir=tmp_path / "state")
    subscriber.wait_for_results("belt", 1)
    second = start_edge(config, name="second", state_dir=tmp_path / "state")
    assert second.wait() == 1
    assert second.log.startswith("edge: another edge process holds")
    assert len(second.log.splitlines()) == 1
    subscriber.wait_for_results("belt", 3, after=len(subscriber.messages))
    assert first.end(timeout_s=STOP_S) == 0


def test_telemetry_comes_once_a_period_with_what_this_machine_measures(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    daemon = start_edge(configure({"streams.belt": belt()}))
    for _ in range(4):
        subscriber.wait_for(is_telemetry, "telemetry", after=len(subscriber.messages))
    assert daemon.end(timeout_s=STOP_S) == 0
    subscriber.wait_for_state("stopped")
    *regular, _last = subscriber.telemetry()
    ats = [each["at"] for each in regular]
    assert ats == sorted(ats)
    assert all(
        early["streams"]["belt"]["frames"] < late["streams"]["belt"]["frames"] for early, late in pairwise(regular)
    )
    latency_ms = regular[-1]["streams"]["belt"]["latency_ms"]
    assert all(stage is not None and 0 < stage["p50"] <= stage["max"] for stage in latency_ms.values())
    assert regular[-1]["board"]["memory_mb"] > 1
    assert regular[-1]["board"]["power_w"] is None


def is_telemetry(message: Received) -> bool:
    return message.schema == "telemetry"
