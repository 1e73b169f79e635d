"""A subscriber that keeps every message and checks it against its schema."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from jsonschema import Draft202012Validator
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.mqtt import schemas
from tests.support.configuration import DEVICE, Json
from tests.support.waiting import PATIENCE_S, eventually


@dataclass(frozen=True)
class Received:
    """One message as the subscriber got it."""

    topic: str
    raw: bytes
    retained: bool

    @property
    def body(self) -> Json:
        body: Json = json.loads(self.raw)
        return body

    @property
    def schema(self) -> str:
        """Name the schema that stands for this topic; none for what is no JSON of ours: a picture, or a question."""
        last = self.topic.rsplit("/", 1)[-1]
        if "/cmd/" in self.topic:
            return "ack" if last == "ack" else ""
        if "/streams/" in self.topic:
            return {"results": "result", "status": "stream-status", "counts": "counts"}.get(last, "")
        own = {"status": "status", "telemetry": "telemetry", "alarms": "alarm", "governor": "governor"}
        return "" if self.topic.startswith("homeassistant/") else own.get(last, "")


def lasting_session(protocol: MQTTProtocolVersion) -> Json:
    """Return what asks the broker to keep the subscriber's messages while it is away, where the protocol can."""
    if protocol != MQTTProtocolVersion.MQTTv5:
        return {}
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 3600
    return {"clean_start": False, "properties": session}


class Subscriber:
    """Collects every message of a broker, over restarts of it too, for its session outlives a connection."""

    def __init__(self, port: int, protocol: MQTTProtocolVersion) -> None:
        self._messages: list[Received] = []
        self._arrived = threading.Condition()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "subscriber", protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port, **lasting_session(protocol))
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S), "the broker did not take the subscription"

    def close(self) -> None:
        self._client.disconnect()
        with contextlib.suppress(AttributeError):  # paho's thread may end while it is being joined
            self._client.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._arrived:
            self._messages.append(Received(message.topic, bytes(message.payload), message.retain))
            self._arrived.notify_all()

    @property
    def messages(self) -> list[Received]:
        return list(self._messages)

    def wait_for(
        self, wanted: Callable[[Received], bool], what: str, *, after: int = 0, timeout_s: float = PATIENCE_S
    ) -> Received:
        """Return the first message that is wanted, skipping the first `after` messages."""
        until_s = time.monotonic() + timeout_s
        looked_at = after
        with self._arrived:
            while True:
                for message in self._messages[looked_at:]:
                    if wanted(message):
                        return message
                looked_at = max(after, len(self._messages))
                left_s = until_s - time.monotonic()
                assert left_s > 0, f"waited {timeout_s:g} s for: {what}; last: {self._messages[-3:]}"
                self._arrived.wait(left_s)

    def wait_for_state(self, state: str, stream: str | None = None, *, after: int = 0) -> Received:
        """Wait for the daemon's status, or a stream's, to be `state`."""
        topic = f"/streams/{stream}/status" if stream else f"{DEVICE}/status"
        return self.wait_for(
            lambda m: m.topic.endswith(topic) and bool(m.raw) and m.body["state"] == state,
            f"{topic} {state}",
            after=after,
        )

    def wait_for_results(self, stream: str, count: int, *, after: int = 0) -> None:
        """Wait for `count` results of a stream, not counting those among the first `after` messages."""
        topic = f"/streams/{stream}/results"
        eventually(lambda: sum(m.topic.endswith(topic) for m in self.messages[after:]) >= count, f"{count} of {topic}")

    def results(self, stream: str) -> list[Json]:
        return [m.body for m in self.messages if m.topic.endswith(f"/streams/{stream}/results")]

    def seqs(self, stream: str) -> list[int]:
        return [result["seq"] for result in self.results(stream)]

    def states(self, stream: str | None = None) -> list[str]:
        """Return the states of a stream, or of the daemon, in the order of their coming."""
        topic = f"/streams/{stream}/status" if stream else f"{DEVICE}/status"
        return [m.body["state"] for m in self.messages if m.topic.endswith(topic) and m.raw]

    def alarms(self) -> list[Json]:
        return [m.body for m in self.messages if m.schema == "alarm"]

    def telemetry(self) -> list[Json]:
        return [m.body for m in self.messages if m.schema == "telemetry"]


def closed(schema: Any) -> Any:
    """Return the schema refusing every key that it does not describe."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False} | inner if isinstance(schema.get("properties"), dict) else inner


VALIDATORS = {name: Draft202012Validator(closed(json.loads(schemas.read(name)))) for name in schemas.NAMES}


def violations(messages: Sequence[Received]) -> list[str]:
    """Tell what in the messages does not agree with the package's schemas."""
    return [
        f"{message.topic}: {error.json_path}: {error.message}"
        for message in messages
        if message.schema and message.raw  # an empty one takes a retained message away
        for error in VALIDATORS[message.schema].iter_errors(message.body)
    ]


@contextlib.contextmanager
def subscribed(port: int, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> Iterator[Subscriber]:
    """Collect a broker's messages; at the end, each must agree with its schema."""
    collector = Subscriber(port, protocol)
    try:
        yield collector
    finally:
        collector.close()
    assert not violations(collector.messages)
