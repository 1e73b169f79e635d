"""What is taken as a command, how often, and once only: the pure part."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from edge.core.config import CommandName, CommandsSettings
from edge.core.records import CommandRequest
from edge.daemon.commands.arguments import ARGS, MOST_BYTES, CommandError, checked_args, id_of, read_object
from edge.daemon.commands.audit_log import MOST_BYTES as MOST_AUDITED
from edge.daemon.commands.audit_log import AuditLog, shown_args
from edge.daemon.commands.dispatcher import MOST_KNOWN, WINDOW_NS, Dispatcher, Outcome, RateLimit
from edge.mqtt import schemas
from edge.mqtt.encode import MessageHead
from edge.mqtt.topics import Topics
from tests.support.configuration import Json

SCHEMA = json.loads(schemas.read("command"))
TOPICS = Topics("site/edge", "bench-01")
HEAD = MessageHead("bench-01", "0123456789")

# Around what is valid. Numbers like 1.0 are left out: to JSON Schema that is an integer, to us it is not.
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer()),
    st.text(max_size=70),
    st.sampled_from(["belt", "a.b-c_1", ".a", "info", "max-q", "", "x" * 64, "x" * 65, "id\n", "é"]),
)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)
ARG_TABLES = st.dictionaries(st.sampled_from(["stream", "mode", "level", "settings", "other"]), VALUES, max_size=3)
BODIES = st.dictionaries(
    st.sampled_from(["id", "args", "more"]), VALUES | ARG_TABLES, max_size=3
) | st.fixed_dictionaries(
    {
        "args": st.fixed_dictionaries(
            {}, optional={"stream": SCALARS, "mode": SCALARS, "level": SCALARS, "settings": VALUES}
        )
    },
    optional={"id": SCALARS},
)


def is_taken(name: CommandName, values: Json) -> bool:
    try:
        checked_args(name, values)
    except CommandError:
        return False
    return True


@pytest.mark.parametrize("name", ARGS)
@given(values=BODIES)
def test_what_is_taken_is_what_the_schema_says(name: CommandName, values: Json) -> None:
    validator = Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA["$defs"]})
    assert is_taken(name, values) == validator.is_valid(values)


VALID: dict[CommandName, Json] = {
    "power_mode": {"mode": "max-q"},
    "reload": {},
    "stream_on": {"stream": "belt"},
    "stream_off": {"stream": "belt"},
    "stream_add": {"stream": "new.one", "settings": {"source": "synthetic://conveyor"}},
    "stream_remove": {"stream": "belt"},
    "snapshot": {"stream": "belt"},
    "log_level": {"level": "debug"},
    "restart": {},
}


@pytest.mark.parametrize("name", ARGS)
def test_the_plain_form_of_each_command_is_taken(name: CommandName) -> None:
    assert is_taken(name, {"id": "1", "args": VALID[name]})
    assert Draft202012Validator(SCHEMA).is_valid({"id": "1", "args": VALID[name]})
    assert is_taken(name, {}) == (not VALID[name])


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\xff{}", "not UTF-8"),
        (b"{", "not JSON"),
        (b"[]", "type list"),
        (b'{"args":{"stream":"a","stream":"b"}}', "twice"),
        (b'{"args":NaN}', "NaN is not a JSON number"),
        (b'{"args":1e999}', "1e999 is not a JSON number"),
        (b'{"id":' + b"9" * 5000 + b"}", "not JSON"),
        (b"[" * 60_000, "not JSON"),
        (b'{"args":' + b'{"a":' * 40 + b"1" + b"}" * 41, "deeper than 16 levels"),
        (b" " * (MOST_BYTES + 1), "larger than 65536 bytes"),
    ],
)
def test_a_body_that_is_no_plain_json_is_refused_with_a_sentence(body: bytes, told: str) -> None:
    with pytest.raises(CommandError, match=told):
        read_object(body)


def test_an_empty_body_stands_for_no_id_and_no_args() -> None:
    assert read_object(b"") == {}


@pytest.mark.parametrize(("value", "told"), [("a", "a"), (7, 7), (None, None), (True, None), (1.5, None), ("", None)])
def test_an_id_that_is_none_is_left_out_of_the_answer(value: Any, told: Any) -> None:
    assert id_of({"id": value, "junk": 1}) == told


def broken_down(*_: object) -> None:
    raise ZeroDivisionError


class Desk:
    """Commands with effects that only count, or that end when they are told to."""

    def __init__(self, *allow: str, max_per_min: int = 6000) -> None:
        self.runs: list[tuple[str, Any]] = []
        self.answers: list[Json] = []
        self.askers: list[CommandRequest] = []
        self.audited: list[tuple[Json, Any]] = []
        self.ends: list[Callable[[Outcome], None]] = []
        effects: Any = {name: self._effect(name) for name in ARGS}
        settings = CommandsSettings(allow=cast(Any, allow), max_per_min=max_per_min)
        self.commands = Dispatcher(settings, HEAD, effects, self._answer, lambda *line: self.audited.append(line))

    def _effect(self, name: str) -> Callable[[Any, Callable[[Outcome], None]], None]:
        def run(args: Any, told: Callable[[Outcome], None]) -> None:
            self.runs.append((name, args))
            if name == "snapshot":
                self.ends.append(told)
            elif name == "restart":
                raise ZeroDivisionError
            else:
                told(Outcome({}))

        return run

    def _answer(self, _name: str, askers: list[CommandRequest], answer: Json) -> None:
        json.dumps(answer)
        self.answers.append(answer)
        self.askers.extend(askers)

    def send(self, name: CommandName, command_id: Any = None, **others: Any) -> None:
        body = json.dumps({"id": command_id, "args": VALID[name]}).encode()
        self.commands.accept(name, CommandRequest(TOPICS.command(name), body, retained=False), **others)


def test_a_command_is_run_and_answered_by_its_name_and_id() -> None:
    desk = Desk("log_level")
    desk.send("log_level", "a")
    (answer,) = desk.answers
    assert (answer["id"], answer["command"], answer["ok"], answer["result"]) == ("a", "log_level", True, {})
    assert answer["device"] == "bench-01"


def test_the_same_id_twice_runs_once_and_is_answered_twice_alike() -> None:
    desk = Desk("log_level", "stream_off")
    for _ in range(2):
        desk.send("log_level", "a")
    assert desk.answers[0] == desk.answers[1]
    desk.send("stream_off", "a")  # another command, another matter
    assert [name for name, _ in desk.runs] == ["log_level", "stream_off"]


def test_an_id_as_a_number_is_not_the_id_as_a_text() -> None:
    desk = Desk("log_level")
    for command_id in (1, "1", 1):
        desk.send("log_level", command_id)
    assert len(desk.runs) == 2


def test_who_asks_again_while_it_is_at_work_waits_for_the_one_answer() -> None:
    desk = Desk("snapshot")
    for _ in range(3):
        desk.send("snapshot", "a")
    assert desk.answers == []
    desk.ends[0](Outcome({}))
    desk.commands.settle()
    assert (len(desk.runs), len(desk.answers), len(desk.askers)) == (1, 1, 3)
    desk.ends[0](Outcome({}))  # told a second time by mistake
    desk.commands.settle()
    assert len(desk.answers) == 1


def test_commands_without_an_id_run_each_time() -> None:
    desk = Desk("log_level")
    for _ in range(2):
        desk.send("log_level")
    assert len(desk.runs) == 2


def test_only_the_newest_answers_are_kept() -> None:
    desk = Desk("log_level")
    for number in range(MOST_KNOWN + 1):
        desk.send("log_level", number)
    desk.send("log_level", 1)
    assert len(desk.runs) == MOST_KNOWN + 1
    desk.send("log_level", 0)
    assert len(desk.runs) == MOST_KNOWN + 2
    assert len(desk.commands._known) == MOST_KNOWN


def test_a_refusal_is_not_kept_so_that_trying_again_helps() -> None:
    desk = Desk("log_level")
    desk.send("log_level", "a", has_room=False)
    assert "busy" in desk.answers[0]["reason"]
    desk.send("log_level", "a")
    assert [answer["ok"] for answer in desk.answers] == [False, True]


def test_a_defect_of_ours_is_an_answer_too(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("restart")
    desk.send("restart", "a")
    assert "unexpected failure (ZeroDivisionError()" in desk.answers[0]["reason"]
    assert "Traceback" in caplog.text


def test_of_commands_that_are_alike_each_is_answered_in_whatever_order_they_end() -> None:
    desk = Desk("snapshot")
    for _ in range(9):
        desk.send("snapshot")
    for told in reversed(desk.ends[1:]):
        told(Outcome({}))
    desk.commands.settle()
    assert [answer["ok"] for answer in desk.answers] == [True] * 8
    desk.commands.close()
    assert [answer["ok"] for answer in desk.answers] == [True] * 8 + [False]


def test_a_defect_in_the_checks_of_a_command_is_answered_and_counted(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk("log_level")
    with monkeypatch.context() as broken:
        broken.setattr("edge.daemon.commands.dispatcher.checked_args", broken_down)
        desk.send("log_level", "a")
    (answer,) = desk.answers
    assert (answer["id"], answer["ok"], desk.commands.refused) == ("a", False, 1)
    assert "unexpected failure (ZeroDivisionError()" in answer["reason"]
    assert "Traceback" in caplog.text
    assert [line for line, _ in desk.audited] == desk.answers
    desk.send("log_level", "a")
    assert desk.answers[-1]["ok"]


def test_a_command_that_cannot_be_recorded_is_answered_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk("log_level")
    monkeypatch.setattr(desk.commands, "_audit", broken_down)
    desk.send("log_level", "a")
    assert [answer["ok"] for answer in desk.answers] == [True]
    assert "Traceback" in caplog.text


def test_an_answer_that_cannot_be_sent_is_replaced_by_one_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    desk = Desk("snapshot")
    desk.send("snapshot", "a")
    desk.ends[0](Outcome({"bytes": b"no JSON"}))
    desk.commands.settle()
    (answer,) = desk.answers
    assert (answer["id"], answer["ok"], answer["result"]) == ("a", False, None)
    assert "unexpected failure (TypeError(" in answer["reason"]
    assert [line["ok"] for line, _ in desk.audited] == [True, False]
    assert "Traceback" in caplog.text


def test_where_no_answer_can_be_sent_the_next_command_is_run_still(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk("log_level", "snapshot")
    desk.send("snapshot", "a")
    with monkeypatch.context() as broken:
        broken.setattr(desk.commands, "_answer", broken_down)
        desk.send("log_level", "b")
        desk.commands.close()
    assert caplog.text.count("Traceback") == 4
    desk.send("log_level", "c")
    assert [answer["id"] for answer in desk.answers] == ["c"]


def test_what_is_at_work_when_the_daemon_stops_is_answered() -> None:
    desk = Desk("snapshot")
    desk.send("snapshot", "a")
    desk.commands.close()
    assert "the daemon stops" in desk.answers[0]["reason"]


def test_a_topic_that_no_command_could_have_is_counted_and_has_no_answer() -> None:
    desk = Desk("log_level")
    for name in ("", "Log_Level", "log level", "x" * 33, "é", "log_level\n"):
        desk.commands.accept(name, CommandRequest("t", b"{}", retained=False))
    assert (desk.commands.refused, desk.answers, desk.audited) == (6, [], [])


def test_so_many_are_taken_in_any_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr("edge.daemon.commands.dispatcher.now_ns", lambda: now)
    rate_limit = RateLimit(2)
    assert [rate_limit.acquire() for _ in range(3)] == [True, True, False]
    now = WINDOW_NS - 1
    assert not rate_limit.acquire()
    now = WINDOW_NS
    assert [rate_limit.acquire() for _ in range(3)] == [True, True, False]


def test_credentials_are_not_recorded_wherever_they_stand() -> None:
    url = "rtsp://me:secret@camera/main"
    shown = shown_args({"stream": "door", "settings": {"source": url, "labels": [url], url: {"deep": [[url]]}}})
    assert "secret" not in json.dumps(shown)
    assert shown["settings"]["source"] == "rtsp://…@camera/…"
    assert len(shown_args({"a": "x" * 10_000})) < 3000


def test_credentials_in_a_camera_s_path_or_query_are_not_recorded() -> None:
    source = "RTSP://camera/user=admin_password=secret1_channel=1?anything=secret2"
    shown = shown_args({"settings": {"source": source, "password": "secret3"}})
    assert "secret" not in json.dumps(shown)
    assert shown["settings"]["source"] == "RTSP://camera/…"


def test_the_record_of_commands_is_bounded_with_one_older_file(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path)
    for number in range(25):
        audit.write({"number": number, "text": "é" * 20_000})
    assert sorted(each.name for each in tmp_path.iterdir()) == ["commands.jsonl", "commands.jsonl.1"]
    assert all(each.stat().st_size <= MOST_AUDITED for each in tmp_path.iterdir())
    newest = [json.loads(line) for line in (tmp_path / "commands.jsonl").read_text().splitlines()]
    assert newest[-1]["number"] == 24


def test_the_record_is_private_and_follows_no_link(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    audit = AuditLog(tmp_path)
    audit.write({"command": "reload"})
    assert (tmp_path / "commands.jsonl").stat().st_mode & 0o777 == 0o600
    (tmp_path / "commands.jsonl").unlink()
    (tmp_path / "commands.jsonl").symlink_to(tmp_path / "elsewhere")
    audit.write({"command": "reload"})
    assert not (tmp_path / "elsewhere").exists()
    assert "not recorded" in caplog.text


def test_a_disk_that_takes_no_record_is_told_once_and_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "commands.jsonl").mkdir()
    audit = AuditLog(tmp_path)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            audit.write({"command": "reload"})
    assert caplog.text.count("not recorded") == 1
    assert caplog.text.count('{"command": "reload"}') == 3
    (tmp_path / "commands.jsonl").rmdir()
    audit.write({"command": "reload"})
    assert (tmp_path / "commands.jsonl").read_text() == '{"command": "reload"}\n'


@pytest.mark.parametrize("topic", ["site/edge/answers", "site/edge/a b/ü", "site/edge/bench-01/answers/me"])
def test_an_answer_goes_where_it_is_wanted_below_the_prefix(topic: str) -> None:
    assert TOPICS.is_for_answers(topic)


@pytest.mark.parametrize("topic", ["clients/me", "clients/me/status", "a/b/c"])
def test_an_answer_goes_below_another_prefix_only_where_that_is_allowed(topic: str) -> None:
    assert TOPICS.is_for_answers(topic, ("clients", "a/b/"))
    assert not TOPICS.is_for_answers(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "a/+",
        "#",
        "$SYS/x",
        "a\0b",
        "a\nb",
        "x" * 1025,
        "\ud800",
        "site/edge/bench-01",
        "site/edge/bench-01/cmd/restart",
        "site/edge/bench-01/status",
        "site/edge/other/cmd/restart",
        "site/edge/other/streams/door/results",
        "site/edge/other/telemetry",
        "site/edge/nested/other/status",
        "site/edge",
        "site/edge-2/bench-01/x",
        "me/answers",
        "site",
    ],
)
def test_an_answer_goes_to_no_topic_where_it_could_be_taken_for_something_else(topic: str) -> None:
    assert not TOPICS.is_for_answers(topic)


@pytest.mark.parametrize(
    ("topic", "command", "stream"),
    [
        ("site/edge/bench-01/cmd/reload", "reload", None),
        ("site/edge/bench-01/cmd/reload/ack", None, None),
        ("site/edge/bench-01/cmd/", None, None),
        ("site/edge/bench-01/streams/door/set", None, "door"),
        ("site/edge/bench-01/streams/set", None, None),
        ("site/edge/bench-01/streams//set", None, None),
        ("site/edge/bench-01/streams/a/b/set", None, None),
        ("site/edge/other/cmd/reload", None, None),
    ],
)
def test_a_topic_says_which_command_or_stream_is_meant(topic: str, command: str | None, stream: str | None) -> None:
    assert (TOPICS.commanded(topic), TOPICS.switched_stream(topic)) == (command, stream)
