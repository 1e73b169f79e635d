"""Publisher and a real broker: what is sent, sent again, refused and counted."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edge.core.records import (
    Message,
    OutboxState,
)
from edge.mqtt.connection_trial import try_connection
from edge.mqtt.encode import to_json
from tests.support.publishing import LONG_S, WILL, Sent, eventually, mqtt_settings, publishing, result_message
from tests.support.waiting import free_port

MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs a real broker: apt-get install mosquitto")


# A real broker


def accepts(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def mosquitto(folder: Path, port: int, *, anonymous: bool = True, acl: Path | None = None) -> Iterator[None]:
    config = folder / "mosquitto.conf"
    user = "user root\n" if os.geteuid() == 0 else ""  # else it cannot read the folder
    config.write_text(
        f"{user}listener {port} 127.0.0.1\nallow_anonymous {str(anonymous).lower()}\n"
        # Without a bound on what it queues, Mosquitto 2.0.11 hangs up after a message that it refuses.
        + (f"acl_file {acl}\n" if acl else "max_queued_messages 0\n"),
        encoding="utf-8",
    )
    with subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            assert eventually(lambda: accepts(port))
            yield
        finally:
            process.terminate()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    with mosquitto(tmp_path, port):
        yield port


@contextlib.contextmanager
def subscribed(port: int) -> Iterator[queue.Queue[mqtt.MQTTMessage]]:
    """Subscribe to everything and yield what comes."""
    came: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
    ready = threading.Event()
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.on_subscribe = lambda *_: ready.set()
    client.on_message = lambda _client, _userdata, message: came.put(message)
    client.connect("127.0.0.1", port)
    client.loop_start()
    client.subscribe("edge/#", 1)
    assert ready.wait(LONG_S)
    try:
        yield came
    finally:
        client.disconnect()
        client.loop_stop()


def results(came: queue.Queue[mqtt.MQTTMessage], count: int) -> list[Any]:
    """Return the next results, past whatever else comes."""
    told: list[Any] = []
    while len(told) < count:
        each = came.get(timeout=LONG_S)
        told += [json.loads(each.payload)] if each.topic.endswith("/results") else []
    return told


@pytest.mark.broker
@needs_broker
@pytest.mark.parametrize("qos", [0, 1])
def test_results_arrive_in_order_with_their_age(broker: int, qos: int) -> None:
    with subscribed(broker) as came, publishing(broker) as publisher:
        for number in range(200):
            publisher.put(result_message(number, qos=qos, age_s=100))
        told = results(came, 200)
    assert [each["seq"] for each in told] == list(range(200))
    assert all(100_000 <= each["age_ms"] < 200_000 for each in told)


@pytest.mark.broker
@needs_broker
def test_each_acknowledged_result_is_told_once_and_nothing_else_is(broker: int) -> None:
    sent = Sent()
    with publishing(broker, sent) as publisher:
        publisher.put(Message("edge/dev/telemetry", b"{}"))
        for number in range(100):
            publisher.put(result_message(number))
        assert eventually(lambda: len(sent.messages) >= 100)
        assert eventually(lambda: publisher.outbox().messages == 0)
    assert [json.loads(each.body)["seq"] for each in sent.messages] == list(range(100))


@pytest.mark.broker
@needs_broker
def test_a_retained_message_stands_for_late_subscribers(broker: int) -> None:
    with publishing(broker) as publisher:
        publisher.put(Message("edge/dev/status", b'{"state":"online"}', retain=True))
        publisher.put(Message("edge/dev/telemetry", b"{}"))
        assert eventually(lambda: publisher.outbox().messages == 0)
        with subscribed(broker) as came:
            told = came.get(timeout=LONG_S)
            assert (told.topic, told.retain, told.payload) == ("edge/dev/status", True, b'{"state":"online"}')
    assert came.empty()


LOST_PROGRAM = """
import sys, time
from edge.core.config import MqttSettings
from edge.mqtt.outbox import Outbox
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.publisher import Publisher
from edge.core.records import Message
will = Message("edge/dev/status", b'{"state":"offline"}', retain=True)
settings = MqttSettings(url=f"mqtt://127.0.0.1:{sys.argv[1]}")
publisher = Publisher(settings, "edge-lost", will, Outbox(10), lambda message, at_ns: None)
publisher.start()
publisher.put(Message("edge/dev/status", b'{"state":"online"}', retain=True))
time.sleep(60)
"""


@pytest.mark.broker
@needs_broker
def test_the_broker_speaks_the_last_will_of_a_lost_publisher(broker: int) -> None:
    with (
        subscribed(broker) as came,
        subprocess.Popen([sys.executable, "-c", LOST_PROGRAM, str(broker)]) as process,
    ):
        assert came.get(timeout=LONG_S).payload == b'{"state":"online"}'
        process.kill()
        assert came.get(timeout=LONG_S).payload == b'{"state":"offline"}'
    with subscribed(broker) as late:
        assert late.get(timeout=LONG_S).retain


@pytest.mark.broker
@needs_broker
def test_a_publisher_that_says_goodbye_leaves_no_will(broker: int) -> None:
    with subscribed(broker) as came:
        with publishing(broker) as publisher:
            publisher.put(Message("edge/dev/status", b'{"state":"stopped"}', retain=True))
            publisher.finish(LONG_S)
            assert publisher.join(LONG_S)
        assert came.get(timeout=LONG_S).payload == b'{"state":"stopped"}'
        with pytest.raises(queue.Empty):
            came.get(timeout=0.3)


@pytest.mark.broker
@needs_broker
@pytest.mark.parametrize("qos", [0, 1])
def test_finishing_sends_all_that_waits(broker: int, qos: int) -> None:
    with subscribed(broker) as came, publishing(broker) as publisher:
        for number in range(3000):
            each = result_message(number, qos=qos)
            each.body = to_json({"seq": number, "padding": "x" * 2000})
            publisher.put(each)
        publisher.finish(LONG_S)
        assert publisher.join(LONG_S)
        assert publisher.outbox() == OutboxState(0, 0, None, 0)
        assert [each["seq"] for each in results(came, 3000)] == list(range(3000))


@pytest.mark.broker
@needs_broker
def test_what_waited_for_a_broker_that_comes_late_is_sent(tmp_path: Path) -> None:
    port = free_port()
    with publishing(port) as publisher:
        publisher.put(Message("edge/dev/status", b'{"state":"online"}', retain=True))
        for number in range(50):
            publisher.put(result_message(number))
        with mosquitto(tmp_path, port):
            assert eventually(lambda: publisher.connected)
            assert eventually(lambda: publisher.outbox().messages == 0)
            with subscribed(port) as came:
                assert came.get(timeout=LONG_S).payload == b'{"state":"online"}'


@pytest.mark.broker
@needs_broker
def test_a_broker_that_comes_back_without_memory_gets_the_retained_messages_again(tmp_path: Path) -> None:
    port = free_port()
    with publishing(port) as publisher:
        publisher.put(Message("edge/dev/status", b'{"state":"online"}', retain=True))
        with mosquitto(tmp_path, port):
            assert eventually(lambda: publisher.connected and publisher.outbox().messages == 0)
        assert eventually(lambda: not publisher.connected)
        with mosquitto(tmp_path, port), subscribed(port) as came:
            assert came.get(timeout=LONG_S).payload == b'{"state":"online"}'


@pytest.mark.broker
@needs_broker
def test_refused_is_not_connected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    port = free_port()
    with mosquitto(tmp_path, port, anonymous=False), publishing(port) as publisher:
        publisher.put(result_message(0))
        assert eventually(lambda: "it refused the connection: Not authorized" in caplog.text)
        assert not publisher.connected
        assert publisher.outbox().messages == 1


@pytest.mark.broker
@needs_broker
def test_a_lost_acknowledgement_sends_again_with_the_age_of_the_first_time(broker: int) -> None:
    sent = Sent()
    with deaf_proxy(broker) as port, subscribed(broker) as came, publishing(port, sent) as publisher:
        publisher.put(result_message(0))
        first, again = results(came, 2)
        assert eventually(lambda: publisher.outbox().messages == 0)
    assert first == again
    assert first["age_ms"] >= 0
    assert sent.messages == [], "a replay says nothing of latency"


@contextlib.contextmanager
def deaf_proxy(broker: int) -> Iterator[int]:
    """Stand before the broker; the first connection hears CONNACK and then breaks, the others are left alone."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                for answers in (1, None, None):
                    client, _ = server.accept()
                    upstream = socket.create_connection(("127.0.0.1", broker))
                    threading.Thread(target=pump, args=(client, upstream, None), daemon=True).start()
                    pump(upstream, client, answers)

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def pump(source: socket.socket, sink: socket.socket, answers: int | None) -> None:
    """Copy from one socket to the other; with `answers`, only so many pieces, and then hang up."""
    with contextlib.suppress(OSError):
        while piece := source.recv(65536):
            if answers == 0:
                break
            answers = None if answers is None else answers - 1
            sink.sendall(piece)
    for each in (source, sink):
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)


@pytest.mark.broker
@needs_broker
@pytest.mark.parametrize(("version", "spoken"), [("auto", "5"), ("5", "5"), ("3.1.1", "3.1.1")])
def test_a_connection_can_be_tried(broker: int, version: str, spoken: str) -> None:
    told = try_connection(mqtt_settings(broker, version=version), "edge-test", WILL, ["edge/dev/cmd/+"])
    assert told == f"mqtt://127.0.0.1:{broker} accepts MQTT {spoken}"


# What MQTT 5 adds


def properties(came: queue.Queue[mqtt.MQTTMessage], count: int) -> dict[str, Any]:
    """Return the properties of the next messages by topic."""
    return {each.topic: each.properties for each in (came.get(timeout=LONG_S) for _ in range(count))}


@pytest.mark.broker
@needs_broker
def test_each_message_tells_its_content_type_and_what_else_was_asked_for(broker: int) -> None:
    with subscribed(broker) as came, publishing(broker) as publisher:
        publisher.put(result_message(0))
        publisher.put(Message("edge/dev/telemetry", b"{}", kind="telemetry", expiry_s=300))
        publisher.put(Message("edge/dev/snapshot", b"\xff\xd8", content_type="image/jpeg", correlation=b"17"))
        told = properties(came, 3)
    assert told["edge/dev/streams/s/results"].ContentType == "application/json"
    assert not hasattr(told["edge/dev/streams/s/results"], "MessageExpiryInterval")
    assert 290 <= told["edge/dev/telemetry"].MessageExpiryInterval <= 300
    assert told["edge/dev/snapshot"].ContentType == "image/jpeg"
    assert told["edge/dev/snapshot"].CorrelationData == b"17"


@pytest.mark.broker
@needs_broker
def test_a_broker_of_mqtt_3_gets_the_same_messages(broker: int) -> None:
    with subscribed(broker) as came, publishing(broker, version="3.1.1") as publisher:
        for number in range(100):
            message = result_message(number)
            message.expiry_s = 5
            publisher.put(message)
        assert [each["seq"] for each in results(came, 100)] == list(range(100))


@pytest.mark.broker
@needs_broker
def test_what_the_broker_refuses_is_counted_and_not_sent_again(tmp_path: Path) -> None:
    port = free_port()
    (tmp_path / "acl").write_text("topic read #\n", encoding="utf-8")
    (tmp_path / "acl").chmod(0o600)
    with mosquitto(tmp_path, port, acl=tmp_path / "acl"), publishing(port, version="5") as publisher:
        publisher.put(result_message(0))
        assert eventually(lambda: publisher.outbox().dropped_by_cause["refused"] == 1)
        assert publisher.outbox().messages == 0


@pytest.mark.broker
@needs_broker
def test_a_topic_that_the_broker_refuses_is_told_once_a_connection(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    (tmp_path / "acl").write_text("topic read #\n", encoding="utf-8")
    (tmp_path / "acl").chmod(0o600)
    with mosquitto(tmp_path, port, acl=tmp_path / "acl"), publishing(port, version="5") as publisher:
        for number in range(50):
            publisher.put(result_message(number))
        publisher.put(Message("another", b"{}"))
        assert eventually(lambda: publisher.outbox().dropped_by_cause["refused"] == 51)
    assert caplog.text.count("refused a message on") == 2
    assert caplog.text.count("refused a message on another") == 1
