"""Commands to a real daemon over a real broker: done and answered, or refused with a sentence and no effect."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support.broker import Mosquitto
from tests.support.commander import ROOT_TOPIC, Commander, commanding, response
from tests.support.configuration import Configure, Json, belt, write_config
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber
from tests.support.tiny_model import ONE_BOX, tiny_model
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

EVERY = [
    "power_mode",
    "reload",
    "stream_on",
    "stream_off",
    "stream_add",
    "stream_remove",
    "snapshot",
    "log_level",
    "restart",
]


@pytest.fixture
def commander(broker: Mosquitto, subscriber: Subscriber) -> Iterator[Commander]:
    with commanding(broker, subscriber) as each:
        yield each


def allowing(*names: str, **others: Json) -> dict[str, Json]:
    """Return the tables of a configuration that allows these commands, with one stream."""
    return {"commands": {"allow": list(names)}, "streams.belt": belt(fps=20)} | others


def audited(folder: Path) -> list[Json]:
    return [json.loads(line) for line in (folder / "edge-state/commands.jsonl").read_text().splitlines()]


def is_cleared(subscriber: Subscriber, topic: str) -> bool:
    return any(m.topic == f"{ROOT_TOPIC}/{topic}" and not m.raw for m in subscriber.messages)


def test_a_stream_goes_off_and_on_and_the_daemon_outlives_its_last_one(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("stream_off", "stream_on")))
    subscriber.wait_for_results("belt", 5)
    answer = commander.ask("stream_off", {"stream": "belt"})
    assert (answer["ok"], answer["result"]["enabled"]) == (True, False)
    assert "reloads" in answer["result"]["lasts"]
    assert subscriber.states("belt")[-1] == "off"
    at_off = len(subscriber.messages)
    assert commander.ask("stream_on", {"stream": "belt"})["ok"]
    subscriber.wait_for_results("belt", 5, after=at_off)
    assert daemon.end() == 0
    assert subscriber.seqs("belt") == list(range(len(subscriber.seqs("belt"))))


def test_the_end_of_the_other_streams_is_no_end_once_one_was_switched_off(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    short = belt(frames=10, delivery="every")
    daemon = start_edge(configure(allowing("stream_off", "stream_on", **{"streams.short": short})))
    subscriber.wait_for_state("ended", "short")
    subscriber.wait_for_results("short", 10)
    assert commander.ask("stream_off", {"stream": "belt"})["ok"]
    assert commander.ask("stream_on", {"stream": "belt"})["ok"], "the daemon is still there"
    assert daemon.end() == 0


def test_a_stream_is_added_with_the_settings_of_the_file_and_removed_with_all_that_is_retained(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("stream_add", "stream_remove")))
    subscriber.wait_for_results("belt", 1)
    settings = belt(fps=10, labels=["nut"])
    assert commander.ask("stream_add", {"stream": "second", "settings": settings})["ok"]
    subscriber.wait_for_results("second", 3)
    again = commander.ask("stream_add", {"stream": "second", "settings": settings})
    assert not again["ok"]
    assert "exists already" in again["reason"]
    assert commander.ask("stream_remove", {"stream": "second"})["ok"]
    eventually(lambda: is_cleared(subscriber, "streams/second/status"), "its retained status is taken away")
    assert not commander.ask("stream_remove", {"stream": "second"})["ok"]
    assert daemon.end() == 0
    assert all({each["label"] for each in one["detections"]} <= {"nut"} for one in subscriber.results("second"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"source": "synthetic://conveyor", "model": "none"}, "model: found 'none', wanted one of conveyor"),
        ({"source": "synthetic://conveyor", "model": "conveyor", "fsp": 3}, "did you mean 'fps'"),
        (
            {"source": "rtsp://me:secret@127.0.0.1/a", "model": "conveyor", "fps": "x"},
            "fps: found 'x', wanted a number",
        ),
        ({"source": "no/such/file", "model": "conveyor"}, "does not exist"),
        ({"source": "rtsp://127.0.0.1:1/a", "model": "conveyor", "password_file": "/etc/passwd"}, "is not accepted"),
        ({"source": "synthetic://conveyor", "model": "conveyor", "labels": ["none"]}, "wanted labels of the model"),
        ({"source": "synthetic://conveyor?size=8192x8192", "model": "conveyor"}, "wanted at most 50 Mpx"),
        (
            {"source": "synthetic://conveyor?size=8192x8192", "model": "conveyor", "max_mpx": 100},
            "raise [device] picture_memory_mb",
        ),
    ],
)
def test_a_stream_whose_settings_do_not_fit_is_refused_with_a_sentence(
    tmp_path: Path,
    configure: Configure,
    start_edge: StartEdge,
    subscriber: Subscriber,
    commander: Commander,
    settings: Json,
    told: str,
) -> None:
    daemon = start_edge(configure(allowing("stream_add", device={"picture_memory_mb": 1000})))
    subscriber.wait_for_state("online")
    answer = commander.ask("stream_add", {"stream": "second", "settings": settings})
    assert not answer["ok"]
    assert told in answer["reason"]
    subscriber.wait_for_results("belt", 5)
    assert daemon.end() == 0
    assert not subscriber.states("second")
    record = (tmp_path / "edge-state/commands.jsonl").read_text()
    assert "secret" not in record + daemon.log + answer["reason"]


def test_what_is_not_allowed_is_refused_and_changes_nothing(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("log_level")))
    subscriber.wait_for_results("belt", 1)
    wanted = {"mode": "x", "stream": "belt", "settings": belt(), "level": "info"}
    for name in EVERY:
        if name != "log_level":
            answer = commander.ask(name, wanted)
            assert not answer["ok"]
            assert "[commands] allow" in answer["reason"]
    assert "does not exist" in commander.ask("shutdown")["reason"]
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 5, after=before)
    assert commander.ask("log_level", {"level": "debug"})["ok"]
    assert daemon.end() == 0
    assert subscriber.states("belt") == ["running", "off"]
    assert [each["ok"] for each in audited(tmp_path)] == [False] * len(EVERY) + [True]


def test_where_nothing_is_allowed_nothing_is_listened_to(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure({"streams.belt": belt(fps=20)}))
    subscriber.wait_for_results("belt", 1)
    commander.send("restart")
    subscriber.wait_for_results("belt", 20)
    assert daemon.end() == 0
    assert not [m for m in subscriber.messages if m.topic.endswith("/ack")]
    assert not (tmp_path / "edge-state/commands.jsonl").exists()


def test_a_snapshot_shows_the_frame_with_its_masks_and_what_was_found_in_it(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    tiny = {"path": str(tiny_model(tmp_path / "tiny"))}
    door = belt(fps=20) | {"model": "tiny", "masks": [[[160, 0], [319, 0], [319, 239], [160, 239]]]}
    daemon = start_edge(configure(allowing("snapshot", **{"models.tiny": tiny, "streams.door": door})))
    subscriber.wait_for_state("online")
    answer = commander.ask("snapshot", {"stream": "door"})
    assert answer["ok"], answer["reason"]
    result = answer["result"]
    topic = f"{ROOT_TOPIC}/streams/door/snapshot"
    assert (result["topic"], result["size"]) == (topic, [320, 240])
    jpeg = subscriber.wait_for(lambda m: m.topic == topic, "the picture")
    assert (len(jpeg.raw), jpeg.retained) == (result["bytes"], False)
    picture = cv2.imdecode(np.frombuffer(jpeg.raw, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert picture.shape == (240, 320, 3)
    assert picture[100:230, 200:310].max() < 24, "what is masked is black"
    # The decoder says one box: a quarter of the 32 × 32 input, whose upper left corner is the picture's.
    assert picture[60, 0].max() > 100, "the box's left side is drawn"
    subscriber.wait_for_results("belt", 5)
    assert daemon.end() == 0


def test_snapshots_are_taken_of_a_stream_that_loses_most_of_its_frames(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    slow = tiny_model(
        tmp_path / "slow", "import time\n" + ONE_BOX.replace("    boxes", "    time.sleep(0.2)\n    boxes")
    )
    tables: dict[str, Json] = {"models.slow": {"path": str(slow), "lanes": 1, "max_batch": 1}}
    tables["streams.crowd"] = belt(fps=100) | {"model": "slow"}
    daemon = start_edge(configure(tables | {"commands": {"allow": ["snapshot"]}}))
    subscriber.wait_for_results("crowd", 1)
    answers = [commander.ask("snapshot", {"stream": "crowd"}) for _ in range(4)]
    assert daemon.end() == 0
    assert all(each["ok"] for each in answers)
    assert subscriber.results("crowd")[-1]["dropped"]["overrun"] > 20
    assert len({each["result"]["frame"] for each in answers}) == 4


def test_several_who_ask_for_a_snapshot_at_once_get_one(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("snapshot", **{"streams.slow": belt(fps=0.5)})))
    subscriber.wait_for_results("slow", 1)
    asked = [commander.send("snapshot", {"stream": "slow"}) for _ in range(10)]
    answers = [commander.answer("snapshot", each) for each in asked]
    assert daemon.end() == 0
    assert [each["ok"] for each in answers] == [True] * 8 + [False] * 2
    assert all("busy" in each["reason"] for each in answers[8:])
    subscriber.wait_for(lambda m: m.topic == f"{ROOT_TOPIC}/streams/slow/snapshot", "the picture")
    assert len([m for m in subscriber.messages if m.topic.endswith("/snapshot") and "/streams/" in m.topic]) == 1


def test_snapshots_that_are_asked_for_without_an_id_are_each_answered(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("snapshot", **{"streams.slow": belt(fps=0.5)})))
    subscriber.wait_for_results("slow", 1)
    for _ in range(12):
        commander.publish(f"{ROOT_TOPIC}/cmd/snapshot", b'{"args": {"stream": "slow"}}')

    def answers() -> list[Json]:
        return [m.body for m in subscriber.messages if m.topic == f"{ROOT_TOPIC}/cmd/snapshot/ack"]

    eventually(lambda: len(answers()) == 12, "an answer to each")
    before = len(subscriber.messages)
    subscriber.wait_for_results("slow", 1, after=before)
    assert daemon.end() == 0
    assert sorted(each["ok"] for each in answers()) == [False] * 4 + [True] * 8
    assert all(each["ok"] or "busy" in each["reason"] for each in answers())


def test_a_stream_that_is_off_says_so_also_at_the_start_and_after_its_source_has_ended(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    streams = {"streams.never": belt(enabled=False), "streams.short": belt(frames=10, delivery="every")}
    daemon = start_edge(configure(allowing("stream_off", "snapshot", **streams)))
    subscriber.wait_for_state("off", "never")
    subscriber.wait_for_state("ended", "short")
    assert commander.ask("stream_off", {"stream": "short"})["ok"]
    subscriber.wait_for_state("off", "short")
    assert "is off" in commander.ask("snapshot", {"stream": "never"})["reason"]
    assert daemon.end() == 0
    assert subscriber.states("never") == ["off"]
    assert subscriber.states("short") == ["running", "ended", "off"]


def test_a_snapshot_of_a_stream_without_frames_is_given_up(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    slow = belt(fps=0.01)
    daemon = start_edge(configure(allowing("snapshot", **{"streams.slow": slow})))
    subscriber.wait_for_state("running", "slow")
    subscriber.wait_for_results("slow", 1)
    answer = commander.ask("snapshot", {"stream": "slow"})
    assert (answer["ok"], answer["reason"]) == (False, "stream slow delivered no frame within 5 s; see its status")
    assert "does not exist" in commander.ask("snapshot", {"stream": "none"})["reason"]
    assert daemon.end() == 0


def test_a_reload_says_what_became_of_it_and_takes_back_what_commands_changed(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    tables = allowing("reload", "stream_off")
    daemon = start_edge(configure(tables))
    subscriber.wait_for_results("belt", 1)
    assert commander.ask("stream_off", {"stream": "belt"})["ok"]
    assert commander.ask("reload")["result"] == {"streams": ["belt"]}
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 3, after=before)
    configure(tables | {"streams.belt": belt(colour="red")})
    refused = commander.ask("reload")
    assert not refused["ok"]
    assert "unknown key" in refused["reason"]
    configure({"commands": tables["commands"], "streams.other": belt(fps=20)})
    assert commander.ask("reload")["result"] == {"streams": ["other"]}
    eventually(lambda: is_cleared(subscriber, "streams/belt/status"), "the status of a stream that is gone is cleared")
    assert daemon.end() == 0


def test_a_restart_is_answered_before_it_ends_the_daemon_with_exit_code_3(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("restart")))
    subscriber.wait_for_results("belt", 1)
    early = commander.ask("restart")
    assert not early["ok"]
    assert "systemd gives up on a service that restarts too often" in early["reason"]
    for _ in range(30):
        if commander.ask("restart")["ok"]:
            break
        time.sleep(1)
    assert daemon.wait() == 3
    subscriber.wait_for_state("stopped")
    assert json.loads(daemon.output)["messages_lost"] == 0


def test_the_same_id_gets_the_same_answer_and_no_second_effect(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("stream_off", "stream_on")))
    subscriber.wait_for_results("belt", 1)
    off = commander.send("stream_off", {"stream": "belt"}, command_id="off")
    first = commander.answer("stream_off", off)
    assert commander.ask("stream_on", {"stream": "belt"})["ok"]
    before = len(subscriber.messages)
    commander.send("stream_off", {"stream": "belt"}, command_id="off")
    assert commander.answer("stream_off", off, after=before) == first
    subscriber.wait_for_results("belt", 5, after=before)
    assert daemon.end() == 0


def test_the_answer_goes_to_the_response_topic_too_but_never_to_one_of_ours(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("log_level", "restart")))
    subscriber.wait_for_results("belt", 1)
    asked = commander.send("log_level", {"level": "info"}, properties=response("edge/answers/me", b"\x00\x01"))
    copy = subscriber.wait_for(lambda m: m.topic == "edge/answers/me", "the answer where it was wanted")
    assert copy.body == commander.answer("log_level", asked)
    for ours in (f"{ROOT_TOPIC}/cmd/restart", f"{ROOT_TOPIC}/status", "edge/other/cmd/restart", "edge/other/status"):
        asked = commander.send("log_level", {"level": "info"}, properties=response(ours))
        assert commander.answer("log_level", asked)["ok"]
    subscriber.wait_for_results("belt", 30)
    assert daemon.end() == 0
    assert subscriber.states() == ["online", "stopped"]
    assert not [m for m in subscriber.messages if m.topic.endswith("cmd/restart")]


def test_an_answer_carries_the_correlation_data_and_a_picture_its_type(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("snapshot")))
    subscriber.wait_for_results("belt", 1)
    commander.listen("edge/answers/me")
    commander.listen(f"{ROOT_TOPIC}/streams/belt/snapshot")
    commander.send("snapshot", {"stream": "belt"}, properties=response("edge/answers/me", b"\x00\xff"))
    eventually(lambda: len(commander.heard) == 2, "a picture and its answer")
    assert daemon.end() == 0
    # Answers go out before pictures, so the order of the two is open.
    heard = {each["ContentType"]: each for each in commander.heard}
    assert heard.keys() == {"application/json", "image/jpeg"}
    assert heard["application/json"]["CorrelationData"] == b"\x00\xff"


def test_a_retained_command_is_not_run_at_each_start(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    commander.send("stream_off", {"stream": "belt"}, command_id="old", retain=True)
    daemon = start_edge(configure(allowing("stream_off")))
    answer = commander.answer("stream_off", "old")
    subscriber.wait_for_results("belt", 10)
    assert daemon.end() == 0
    assert not answer["ok"]
    assert "publish it without retain" in answer["reason"]
    assert subscriber.states("belt") == ["running", "off"]


def test_a_command_that_is_being_retained_or_taken_away_again_is_not_run(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("restart", "stream_off")))
    subscriber.wait_for_state("running", "belt")
    assert not commander.answer("stream_off", commander.send("stream_off", {"stream": "belt"}, retain=True))["ok"]
    commander.publish(f"{ROOT_TOPIC}/cmd/restart", b"", retain=True)
    refusal = commander.answer("restart", None)
    assert not refusal["ok"]
    assert "publish it without retain" in refusal["reason"]
    assert daemon.end() == 0
    assert subscriber.states("belt") == ["running", "off"]


def test_a_pipe_is_no_source_for_a_command_and_leaves_no_thread_behind(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    daemon = start_edge(configure(allowing("stream_add")))
    subscriber.wait_for_state("online")
    settings = belt() | {"source": "pipe.mp4"}
    answer = commander.ask("stream_add", {"stream": "second", "settings": settings})
    assert not answer["ok"]
    assert "is a pipe or device, wanted a file or folder of images" in answer["reason"]
    assert daemon.end() == 0


def test_what_comes_faster_than_allowed_is_refused_and_counted(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    tables = allowing("log_level")
    tables["commands"]["max_per_min"] = 3
    daemon = start_edge(configure(tables))
    subscriber.wait_for_results("belt", 1)
    answers = [commander.ask("log_level", {"level": "info"}) for _ in range(6)]
    for _ in range(5):
        commander.send("log_level", {"level": "info"})
    eventually(
        lambda: {"taken": 3, "refused": 8, "lost": 0} in [each["commands"] for each in subscriber.telemetry()], "counts"
    )
    assert daemon.end() == 0
    assert [each["ok"] for each in answers] == [True] * 3 + [False] * 3
    assert "more than 3 commands in a minute" in answers[-1]["reason"]
    acks = [m for m in subscriber.messages if m.topic.endswith("/ack")]
    assert len(acks) == 6, "a flood of commands is no flood of answers"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")
def test_a_power_mode_is_set_and_held_against_the_governor_and_answered_when_done(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    environment = board_environment("orin-nano-super", tmp_path)
    governor = {"enabled": True, "min_dwell_s": 1}
    tables = allowing("power_mode", governor=governor)
    tables["streams.belt"] = belt(fps=30, target_p99_ms=0.5)  # for which no mode is strong enough
    daemon = start_edge(configure(tables), environment=environment)
    subscriber.wait_for(lambda m: m.schema == "result" and m.body["power_mode"] == "MAXN_SUPER", "the strongest mode")
    refused = commander.ask("power_mode", {"mode": "9W"})
    assert not refused["ok"]
    assert "power mode '9W' is not in" in refused["reason"]
    answer = commander.ask("power_mode", {"mode": "15w"})
    assert answer["result"] == {"power_mode": "15W"}
    before = len(subscriber.messages)
    subscriber.wait_for(lambda m: m.schema == "status" and m.body["power_mode"] == "15W", "the status tells it")
    subscriber.wait_for(
        lambda m: m.schema == "governor" and m.body["reason"] == "15W was requested manually",
        "the governor leaves it alone",
    )
    subscriber.wait_for_results("belt", 30, after=before)
    last = subscriber.results("belt")[-1]
    assert daemon.end() == 0
    assert last["power_mode"] == "15W"
    assert "pmode:0000" in (tmp_path / "board/var/lib/nvpmodel/status").read_text()


def test_a_power_mode_is_refused_where_there_are_none(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure(allowing("power_mode")))
    subscriber.wait_for_results("belt", 1)
    answer = commander.ask("power_mode", {"mode": "max-q"})
    assert (answer["ok"], answer["reason"]) == (False, "this is not a Jetson: it has no power modes")
    assert daemon.end() == 0


def test_a_client_of_mqtt_3_1_1_gets_its_answers_too(
    tmp_path: Path, broker: Mosquitto, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    tables = allowing("log_level") | {"mqtt": {"version": "3.1.1"}}
    daemon = start_edge(write_config(tmp_path / "edge.toml", broker.url, tables))
    subscriber.wait_for_results("belt", 1)
    assert commander.ask("log_level", {"level": "info"})["ok"]
    assert daemon.end() == 0
