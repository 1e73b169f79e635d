"""Whoever sends commands: a client of its own, beside the subscriber that sees all."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from tests.support.broker import Mosquitto
from tests.support.configuration import DEVICE, Json
from tests.support.subscriber import Subscriber
from tests.support.waiting import PATIENCE_S

ROOT_TOPIC = f"edge/{DEVICE}"


class Commander:
    """Sends commands and finds their answers among what the subscriber got."""

    def __init__(self, broker: Mosquitto, subscriber: Subscriber) -> None:
        self._subscriber = subscriber
        self._ids = itertools.count(1)
        connected = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "commander", protocol=MQTTProtocolVersion.MQTTv5)
        self.heard: list[Json] = []  # the properties of messages on the topics that are listened to
        self._client.on_connect = lambda *_: connected.set()
        self._client.on_message = lambda _client, _userdata, message: self.heard.append(vars(message.properties))
        self._client.connect("127.0.0.1", broker.port)
        self._client.loop_start()
        assert connected.wait(PATIENCE_S), "the broker did not take the commander"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def listen(self, topic: str) -> None:
        """Subscribe, and wait until the broker knows."""
        subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.subscribe(topic, 1)
        assert subscribed.wait(PATIENCE_S), "the broker did not take the subscription"

    def publish(self, topic: str, body: bytes, *, retain: bool = False, properties: Any = None) -> None:
        """Publish, and wait until the broker has it."""
        self._client.publish(topic, body, 1, retain, properties).wait_for_publish(PATIENCE_S)

    def send(self, name: str, args: Json | None = None, *, command_id: Any = None, **others: Any) -> Any:
        """Send a command; return its id."""
        command_id = command_id if command_id is not None else f"test {next(self._ids)}"
        body = {"id": command_id} | ({} if args is None else {"args": args})
        self.publish(f"{ROOT_TOPIC}/cmd/{name}", json.dumps(body).encode(), **others)
        return command_id

    def answer(self, name: str, command_id: Any, *, after: int = 0) -> Json:
        """Wait for the answer to the command of this id."""
        topic = f"{ROOT_TOPIC}/cmd/{name}/ack"
        wanted = self._subscriber.wait_for(
            lambda m: m.topic == topic and m.body["id"] == command_id, f"an answer to {name}", after=after
        )
        answer = wanted.body
        assert answer["ok"] == (answer["reason"] is None) == (answer["result"] is not None)
        return answer

    def ask(self, name: str, args: Json | None = None) -> Json:
        """Send a command and return its answer."""
        return self.answer(name, self.send(name, args))


@contextmanager
def commanding(broker: Mosquitto, subscriber: Subscriber) -> Iterator[Commander]:
    commander = Commander(broker, subscriber)
    try:
        yield commander
    finally:
        commander.close()


def response(topic: str, correlation: bytes | None = None) -> Properties:
    """Return what asks for an answer on this topic (MQTT 5)."""
    properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    properties.ResponseTopic = topic
    if correlation is not None:
        properties.CorrelationData = correlation
    return properties
