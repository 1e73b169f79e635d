"""Commands of all kinds of nonsense: no crash, nothing done that is not allowed, the valid answered."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from edge.core.config import CommandName, CommandsSettings
from edge.core.records import CommandRequest
from edge.daemon.commands.arguments import ARGS
from edge.daemon.commands.dispatcher import Dispatcher, Outcome
from edge.mqtt import schemas
from edge.mqtt.encode import MessageHead
from tests.support.broker import Mosquitto
from tests.support.commander import ROOT_TOPIC, commanding
from tests.support.configuration import Configure, Json, belt
from tests.support.long_form import IS_LONG
from tests.support.process import StartEdge
from tests.support.subscriber import VALIDATORS, Subscriber

SEED = 20261121
DIRECT = 10_000 if IS_LONG else 2_000
BY_BROKER = 1_500 if IS_LONG else 600
A_ROUND = 30  # fewer than may wait at once
ALLOWED: tuple[CommandName, ...] = ("log_level", "snapshot", "stream_on")
SCHEMA = json.loads(schemas.read("command"))["$defs"]
HEAD = MessageHead("bench-01", "0123456789")

STRINGS = [
    "belt",
    "info",
    "warning",
    "max-q",
    "15W",
    "",
    "../../etc/passwd",
    "a" * 70,
    "é\n\0",
    "\ud83d",
    "🙂",
    "+/#",
    "__class__",
]
SOURCES = ["synthetic://conveyor", "/etc/shadow", "file:///dev/zero", "rtsp://a:b@127.0.0.1:1/x", "v4l2:///dev/mem"]
NUMBERS = [0, -1, 1, 2**31, 2**63, -(2**64), 10**400, 0.5, 1e308, -1e-320]


def some_value(dice: random.Random, depth: int = 3) -> Any:
    kinds: list[Callable[[], Any]] = [
        lambda: None,
        lambda: dice.random() < 0.5,
        lambda: dice.choice(NUMBERS),
        lambda: dice.choice(STRINGS + SOURCES),
        lambda: [some_value(dice, depth - 1) for _ in range(dice.randrange(4))],
        lambda: {
            dice.choice([*STRINGS, "stream", "id"]): some_value(dice, depth - 1) for _ in range(dice.randrange(4))
        },
    ]
    return dice.choice(kinds[:4] if depth == 0 else kinds)()


def valid_args(dice: random.Random, name: CommandName) -> Json:
    """Return arguments that a device may well be asked by; of streams that there are, and not."""
    stream = dice.choice(["belt", "other", "a.b"])
    args: dict[str, Json] = {
        "power_mode": {"mode": dice.choice(["max-q", "15W", "0"])},
        "log_level": {"level": dice.choice(["info", "warning", "error"])},
        "stream_add": {"stream": stream, "settings": {"source": dice.choice(SOURCES), "model": "conveyor"}},
        "reload": {},
        "restart": {},
    }
    return args.get(name, {"stream": stream})


def mutated(dice: random.Random, body: Json) -> Json:
    """Change one thing of a body that was valid."""
    place = dice.choice([body, body["args"]])
    change = dice.randrange(3)
    if change == 0 or not place:
        place[dice.choice(["id", "args", "stream", "level", "Level", "v", "\0", "🙂"])] = some_value(dice)
    elif change == 1:
        place[dice.choice(sorted(place))] = some_value(dice)
    else:
        del place[dice.choice(sorted(place))]
    return body


def damaged(dice: random.Random, raw: bytes) -> bytes:
    """Change, cut or double some bytes of a text that was JSON."""
    raw_bytes = bytearray(raw)
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(raw_bytes) + 1)
        raw_bytes[at : at + dice.randrange(4)] = dice.randbytes(dice.randrange(3))
    return bytes(raw_bytes)


def payload(dice: random.Random, name: CommandName, number: int) -> bytes:
    body = {"id": f"fuzz {number}", "args": valid_args(dice, name)}
    plain = json.dumps(body).encode()
    kinds: list[Callable[[], bytes]] = [
        lambda: plain,
        lambda: json.dumps(mutated(dice, body)).encode(),
        lambda: json.dumps(some_value(dice)).encode(),
        lambda: damaged(dice, plain),
        lambda: dice.randbytes(dice.randrange(200)),
        lambda: plain.replace(b'{"id"', b'{"id":1,"id"'),
        lambda: plain[:-1] + b',"args":{}}',
        lambda: dice.choice([b"[", b'{"a":', b'{"args":[']) * dice.choice([100, 1000, 12_000]),
        lambda: b'{"id":' + b"7" * dice.choice([20, 400, 5000]) + b"}",
        lambda: plain.decode().encode(dice.choice(["utf-16", "utf-32", "utf-7"])),
        lambda: plain + b" " * dice.choice([0, 65_000, 70_000]),
        lambda: dice.choice([b"", b"null", b"{}", b"NaN", b"\xef\xbb\xbf{}", b'{"args":{"level":"\\ud800"}}']),
    ]
    return dice.choice(kinds)()


def is_valid(name: CommandName, raw: bytes) -> bool:
    """Tell, by the published schema alone, whether a device must take this body."""

    def once(pairs: list[tuple[str, Any]]) -> Json:
        assert len(dict(pairs)) == len(pairs)
        return dict(pairs)

    def refuse(_text: str) -> None:
        raise AssertionError

    try:
        body = json.loads(raw.decode() or "{}", object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError, AssertionError):
        return False
    whole = len(raw) <= 65_536 and not raw.startswith(b"\xef\xbb\xbf")
    return whole and Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": SCHEMA}).is_valid(body)


class Watched:
    """Commands whose effects only say that they were run."""

    def __init__(self) -> None:
        self.ran: list[CommandName] = []
        self.answers: list[Json] = []
        settings = CommandsSettings(allow=ALLOWED, max_per_min=6000)
        effects: Any = {name: self._effect(name) for name in ARGS}
        self.commands = Dispatcher(settings, HEAD, effects, lambda *sent: self.answers.append(sent[2]), lambda *_: None)

    def _effect(self, name: CommandName) -> Callable[[Any, Callable[[Outcome], None]], None]:
        def run(args: Any, told: Callable[[Outcome], None]) -> None:
            self.ran.append(name)
            told(Outcome({}))

        return run


def test_payloads_do_what_is_allowed_and_valid_and_nothing_else() -> None:
    dice = random.Random(SEED)
    watched, valid = Watched(), 0
    for number in range(DIRECT):
        if number % 1000 == 0:  # so that nothing is refused for being too much in a minute
            watched = Watched()
        name = dice.choice(list(ARGS))
        raw = payload(dice, name, number)
        watched.ran.clear()
        watched.answers.clear()
        watched.commands.accept(name, CommandRequest(f"x/cmd/{name}", raw, retained=False))
        must_run = name in ALLOWED and is_valid(name, raw)
        valid += must_run
        (answer,) = watched.answers
        assert watched.ran == ([name] if must_run else []), raw[:200]
        assert answer["ok"] == must_run, raw[:200]
        VALIDATORS["ack"].validate(json.loads(json.dumps(answer, ensure_ascii=False).encode()))
    assert DIRECT / 33 < valid < DIRECT / 3


@pytest.mark.broker
def test_a_daemon_outlives_them_and_stays_as_it_was(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    allow = ["log_level", "snapshot", "stream_on"]
    config = configure({"commands": {"allow": allow, "max_per_min": 6000}, "streams.belt": belt(fps=5)})
    daemon = start_edge(config)
    subscriber.wait_for_results("belt", 1)
    dice = random.Random(SEED + 1)
    topics: list[str] = [*ARGS, "none", "a b", "ü", "x" * 300, "log_level/ack", "log_level/deeper", ""]
    wanted: dict[str, CommandName] = {}
    with commanding(broker, subscriber) as commander:
        for start in range(0, BY_BROKER, A_ROUND):
            for number in range(start, start + A_ROUND):
                topic = dice.choice(topics)
                name = next((each for each in ARGS if each == topic), dice.choice(list(ARGS)))
                raw = payload(dice, name, number)
                if topic == name and topic in allow and is_valid(name, raw) and b'"fuzz ' in raw:
                    wanted[json.loads(raw)["id"]] = name
                if topic != "log_level/ack":  # which is where answers are
                    commander.publish(f"{ROOT_TOPIC}/cmd/{topic}", raw)
            assert commander.ask("log_level", {"level": "info"})["ok"]
        answers = {command_id: commander.answer(name, command_id) for command_id, name in wanted.items()}
    before = len(subscriber.messages)
    subscriber.wait_for_results("belt", 3, after=before)
    assert daemon.end() == 0
    assert len(answers) > 20
    assert all(each["ok"] or "stream" in each["reason"] for each in answers.values())
    assert subscriber.states() == ["online", "stopped"]
    assert subscriber.states("belt") == ["running", "off"]
    assert {m.topic.split("/")[3] for m in subscriber.messages if "/streams/" in m.topic} == {"belt"}
    did = {m.topic.split("/")[3] for m in subscriber.messages if m.topic.endswith("/ack") and m.body["ok"]}
    assert did == set(allow)
    assert "Traceback" not in daemon.log
