"""A publisher at work, and messages for it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.records import (
    Message,
)
from edge.mqtt.encode import to_json
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher

LONG_S = 15.0  # a wait that only a failing test reaches


def eventually(condition: Callable[[], Any]) -> bool:
    until_s = time.monotonic() + LONG_S
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


class Sent:
    """What the publisher says was acknowledged."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def __call__(self, message: Message, acknowledged_ns: int) -> None:
        assert message.decoded_ns <= acknowledged_ns <= now_ns()
        self.messages.append(message)


WILL = Message("edge/dev/status", b'{"state":"offline"}', retain=True)


def mqtt_settings(port: int, **keys: Any) -> MqttSettings:
    return MqttSettings.model_validate({"url": f"mqtt://127.0.0.1:{port}", **keys})


@contextlib.contextmanager
def publishing(port: int, sent: Sent | None = None, **keys: Any) -> Iterator[Publisher]:
    settings = mqtt_settings(port, **keys)
    publisher = Publisher(settings, "edge-test", WILL, Outbox(settings.queue_messages), sent or Sent())
    publisher.start()
    finished = False
    try:
        yield publisher
        finished = publisher.join(0)
    finally:
        if not finished:
            publisher.finish(0)
            assert publisher.join(LONG_S)


def result_message(number: int, *, qos: int = 1, age_s: float = 0.0) -> Message:
    captured_ns = now_ns() - int(age_s * 1e9)
    body = to_json({"seq": number})
    return Message("edge/dev/streams/s/results", body, qos, stream="s", captured_ns=captured_ns, decoded_ns=captured_ns)
