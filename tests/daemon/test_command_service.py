"""From a request to the messages that answer it."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from edge.core.config import CommandsSettings, Config, HomeAssistantSettings
from edge.core.records import MESSAGE_KINDS, Classes, CommandRequest, Message, Result
from edge.daemon.commands.arguments import MOST_BYTES
from edge.daemon.commands.dispatcher import Outcome
from edge.daemon.commands.handlers import DaemonControl
from edge.daemon.commands.service import MOST_WAITING, CommandService, Inbox
from edge.daemon.commands.snapshots import Snapshots
from edge.daemon.homeassistant.discovery import DeviceIdentity
from edge.daemon.retained_record import RetainedRecord
from edge.mqtt.encode import MessageHead
from edge.mqtt.topics import Topics
from edge.pipeline.stream import SnapshotCallback, Stream

TOPICS = Topics("edge", "bench-01")
HOME = HomeAssistantSettings(enabled=True, prefix="home")
HEAD = MessageHead("bench-01", "0123456789")


@pytest.fixture(autouse=True)
def log_level() -> Iterator[None]:
    """Put the level back that a test has commanded."""
    before = logging.getLogger().level
    yield
    logging.getLogger().setLevel(before)


def remote(folder: Path, sent: list[Message], **tables: Any) -> CommandService:
    config = Config(**({"commands": CommandsSettings(allow=("log_level",))} | tables))
    each = CommandService(config, TOPICS, HEAD, folder, sent.append, lambda: None)
    each.start(cast(DaemonControl, None), DeviceIdentity("a board"), RetainedRecord(folder, "a machine", "a broker"))
    return each


def request(**others: Any) -> CommandRequest:
    body = json.dumps({"id": "a", "args": {"level": "info"}}).encode()
    return CommandRequest(TOPICS.command("log_level"), body, retained=False, **others)


def broken_down(*_: object) -> None:
    raise ZeroDivisionError


def ask_for_door(snapshots: Snapshots, outcomes: list[Outcome]) -> None:
    """Ask for a picture of a stream, which gives it at once."""
    takes: list[SnapshotCallback] = []
    snapshots.ask(cast(Stream, SimpleNamespace(name="door", request_snapshot=takes.append)), outcomes.append)
    nothing = Classes(np.array([], np.float32), np.array([], np.int64))
    shown = SimpleNamespace(stream="door", findings=nothing, labels=(), size_px=(8, 8), frame=0, captured_at_ns=0)
    takes[0](np.zeros((8, 8, 3), np.uint8), cast(Result, shown))


def test_an_answer_carries_the_correlation_data_of_its_asker(tmp_path: Path) -> None:
    sent: list[Message] = []
    desk = remote(tmp_path, sent)
    for number, topic in ((1, "edge/answers/me"), (2, "edge/answers/you")):
        desk.inbox.put(request(response_topic=topic, correlation=bytes([number])))
        desk.tick()
    assert [(each.topic, each.correlation) for each in sent] == [
        ("edge/bench-01/cmd/log_level/ack", b"\x01"),
        ("edge/answers/me", b"\x01"),
        ("edge/bench-01/cmd/log_level/ack", b"\x02"),
        ("edge/answers/you", b"\x02"),
    ]
    assert len({each.body for each in sent}) == 1
    assert {(each.kind, each.qos, each.retain) for each in sent} == {("answer", 1, False)}


def test_an_answer_is_sent_once_where_its_asker_wants_it_on_its_own_topic(tmp_path: Path) -> None:
    sent: list[Message] = []
    desk = remote(tmp_path, sent)
    desk.inbox.put(request(response_topic="edge/bench-01/cmd/log_level/ack"))
    desk.tick()
    assert len(sent) == 1


def test_answers_go_below_further_prefixes_where_these_are_configured(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Message] = []
    allowing = CommandsSettings(allow=("log_level",), answer_prefixes=("clients/", "office"))
    desk = remote(tmp_path, sent, commands=allowing)
    for topic in ("clients/me", "office/a/b", "clients", "officer/x", "home/me", "edge/bench-02/status", "edge2/x"):
        desk.inbox.put(request(response_topic=topic))
        desk.tick()
    assert [each.topic for each in sent if not each.topic.endswith("/ack")] == ["clients/me", "office/a/b"]
    assert "wanted one below edge/ or [commands] answer_prefixes" in caplog.text


def test_one_request_is_worked_on_a_tick(tmp_path: Path) -> None:
    sent: list[Message] = []
    desk = remote(tmp_path, sent)
    for _ in range(3):
        desk.inbox.put(request())
    for count in (1, 2, 3, 3):
        desk.tick()
        assert len(sent) == count


def test_what_came_before_the_start_waits_for_it(tmp_path: Path) -> None:
    sent: list[Message] = []
    early = CommandService(Config(), TOPICS, HEAD, tmp_path, sent.append, lambda: None)
    early.inbox.put(request())
    early.tick()
    early.close()
    assert sent == []


@pytest.mark.parametrize(
    ("allow", "home", "topics"),
    [
        ((), HomeAssistantSettings(), []),
        (("reload",), HomeAssistantSettings(), ["edge/bench-01/cmd/+"]),
        ((), HOME, ["home/status"]),
        (("stream_on",), HOME, ["edge/bench-01/cmd/+", "home/status"]),
        (
            ("stream_on", "stream_off"),
            HOME,
            ["edge/bench-01/cmd/+", "home/status", "edge/bench-01/streams/+/set"],
        ),
    ],
)
def test_only_what_is_configured_is_listened_to(
    tmp_path: Path, allow: tuple[Any, ...], home: HomeAssistantSettings, topics: list[str]
) -> None:
    config = Config(commands=CommandsSettings(allow=allow), homeassistant=home)
    assert CommandService(config, TOPICS, HEAD, tmp_path, lambda _: None, lambda: None).subscriptions == topics


def test_what_fails_on_the_way_to_the_commands_stops_none_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sent: list[Message] = []
    desk = remote(tmp_path, sent)
    with monkeypatch.context() as broken:
        broken.setattr(Snapshots, "tick", broken_down)
        desk.inbox.put(request())
        desk.tick()
    assert "Traceback" in caplog.text
    desk.inbox.put(request())
    desk.tick()
    assert [each.topic for each in sent] == ["edge/bench-01/cmd/log_level/ack"] * 2


def test_a_picture_that_cannot_be_published_is_told_to_who_asked_for_it(caplog: pytest.LogCaptureFixture) -> None:
    outcomes: list[Outcome] = []
    snapshots = Snapshots(TOPICS, broken_down, lambda: None)
    ask_for_door(snapshots, outcomes)
    snapshots.tick()
    (outcome,) = outcomes
    assert "unexpected failure (ZeroDivisionError()" in (outcome.reason or "")
    assert "Traceback" in caplog.text


def test_a_picture_gives_way_to_results_and_not_they_to_it() -> None:
    sent: list[Message] = []
    outcomes: list[Outcome] = []
    snapshots = Snapshots(TOPICS, sent.append, lambda: None)
    ask_for_door(snapshots, outcomes)
    snapshots.tick()
    assert [each.reason for each in outcomes] == [None]
    assert [each.topic for each in sent] == [TOPICS.snapshot("door")]
    assert MESSAGE_KINDS.index(sent[0].kind) > MESSAGE_KINDS.index("result")


def test_a_full_inbox_turns_the_newest_away_and_then_only_counts() -> None:
    woken: list[None] = []
    inbox = Inbox(lambda: woken.append(None))
    for number in range(3 * MOST_WAITING):
        inbox.put(CommandRequest(str(number), b"x" * (2 * MOST_BYTES), retained=False))
    taken = []
    while (each := inbox.pop()) is not None:
        taken.append(each)
    assert [int(request.topic) for request, _ in taken] == list(range(2 * MOST_WAITING))
    assert [has_room for _, has_room in taken] == [True] * MOST_WAITING + [False] * MOST_WAITING
    assert inbox.lost == MOST_WAITING
    assert len(woken) == 3 * MOST_WAITING
    assert len(taken[0][0].body) == MOST_BYTES + 1, "no more is kept of a body than says that it is too large"
