"""Records → messages → a broker: what is encoded, what waits, what is sent again, and what is lost and counted."""

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
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import paho.mqtt.client as mqtt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.errors import ConfigError, EdgeError
from edge.core.records import (
    DROP_CAUSES,
    BoardState,
    Classes,
    Detections,
    DropCause,
    Findings,
    Message,
    OutboxState,
    Result,
)
from edge.mqtt import schemas
from edge.mqtt.connection import try_connection
from edge.mqtt.encode import MessageHead, ResultEncoder, encode_findings, to_json
from edge.mqtt.outbox import Outbox
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.publisher import Publisher
from tests.support.counting_broker import CountingBroker

LONG_S = 15.0  # a wait that only a failing test reaches
NO_DROPS: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
needs_broker = pytest.mark.skipif(MOSQUITTO is None, reason="needs a real broker: apt-get install mosquitto")


def result(findings: Findings, **changes: Any) -> Result:
    made = Result(
        "door", "m", "ort-cpu/fp32/abc", 7, now_ns(), 1_795_242_001_123_456_789, now_ns(), (640, 480), findings,
        ("person", "car"), 1.23456, 0.5, 20.0, 0.25, 2, 3,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def detections(*found: tuple[float, float, float, float], score: float = 0.5, class_id: int = 0) -> Detections:
    count = len(found)
    boxes = np.array(found, np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, score, np.float32), np.full(count, class_id, np.int64))


def encode(made: Result, board: BoardState = BoardState(), energy_j: float | None = None) -> Message:  # noqa: B008 -- frozen
    topic = "edge/bench-01/streams/door/results"
    return ResultEncoder(MessageHead("bench-01", "0123456789")).encode(made, topic, 1, NO_DROPS, board, energy_j)


# What is encoded


def test_a_result_is_encoded_as_designed() -> None:
    body = json.loads(encode(result(detections((10.04, 20, 30, 60.55), score=0.86))).body)
    assert body["detections"] == [{"label": "person", "class_id": 0, "score": 0.86, "box": [10.0, 20.0, 20.0, 40.5]}]
    assert (body["v"], body["device"], body["boot"], body["stream"]) == (1, "bench-01", "0123456789", "door")
    assert (body["seq"], body["frame"], body["batch"], body["size"]) == (3, 7, 2, [640, 480])
    assert body["captured_at"] == "2026-11-21T06:20:01.123456Z"
    assert body["latency_ms"] == {"wait": 1.235, "preprocess": 0.5, "infer": 20.0, "decode": 0.25}
    assert (body["dropped"], body["engine"]) == (NO_DROPS, "ort-cpu/fp32/abc")
    assert (body["power_mode"], body["throttled"]) == (None, None)
    assert "energy_mj" not in body


def test_a_result_tells_the_state_of_the_board_and_its_energy_where_they_are_known() -> None:
    body = json.loads(encode(result(detections()), BoardState("MAXQ", throttled=True), 0.0412345).body)
    assert (body["power_mode"], body["throttled"], body["energy_mj"]) == ("MAXQ", True, 41.234)


def test_classes_are_encoded_without_boxes() -> None:
    classes = Classes(np.array([0.75, 0.25], np.float32), np.array([1, 0], np.int64))
    body = json.loads(encode(result(classes)).body)
    assert "detections" not in body
    assert body["classes"] == [
        {"label": "car", "class_id": 1, "score": 0.75}, {"label": "person", "class_id": 0, "score": 0.25}
    ]  # fmt: skip


def test_a_class_without_a_label_is_named_by_its_number() -> None:
    assert encode_findings(detections((0, 0, 1, 1), class_id=5), ("person",))["detections"][0]["label"] == "5"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_lacks_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"age_ms": number})


def test_text_beyond_ascii_is_sent_as_it_is() -> None:
    assert to_json({"label": "Café"}) == '{"label":"Café"}'.encode()


SIDES = st.floats(0, 8000, width=32)
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(st.lists(BOXES, max_size=5), st.floats(0, 1, width=32), st.integers(0, 99))
def test_every_result_is_as_its_schema_says(
    boxes: list[tuple[float, float, float, float]], score: float, class_id: int
) -> None:
    message = encode(result(detections(*boxes, score=score, class_id=class_id)))
    body = json.loads(message.body) | {"age_ms": 1.0}  # which is joined when it is sent
    jsonschema.validate(body, json.loads(schemas.read("result")))
    for (x1, y1, x2, y2), told in zip(boxes, body["detections"], strict=True):
        assert told["box"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.051)


# A real broker


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def eventually(condition: Callable[[], Any]) -> bool:
    until_s = time.monotonic() + LONG_S
    while not condition():
        if time.monotonic() > until_s:
            return False
        time.sleep(0.01)
    return True


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


def test_a_broker_that_is_away_does_not_hold_up_the_end() -> None:
    publisher = Publisher(mqtt_settings(free_port()), "edge-test", WILL, Outbox(10), Sent())
    publisher.start()
    publisher.put(result_message(0))
    publisher.finish(60)
    assert publisher.join(LONG_S)
    assert not publisher.connected
    assert publisher.outbox().messages == 1


def test_while_the_broker_is_away_the_oldest_results_are_dropped_and_counted() -> None:
    with publishing(free_port(), queue_messages=10) as publisher:
        for number in range(25):
            publisher.put(result_message(number))
        assert publisher.outbox().messages == 10
        assert publisher.outbox().dropped == 15


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
def test_a_connection_can_be_tried(broker: int) -> None:
    assert "5" in try_connection(mqtt_settings(broker))


def test_trying_a_broker_that_is_away_fails() -> None:
    with pytest.raises((OSError, EdgeError)):
        try_connection(mqtt_settings(free_port()))


def test_a_certificate_that_is_none_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("no certificate", encoding="utf-8")
    settings = MqttSettings(url="mqtts://127.0.0.1")
    settings = settings.model_copy(update={"ca": tmp_path / "ca.pem"})
    with pytest.raises(ConfigError, match=r"\[mqtt\] ca, cert or key cannot be used .*; wanted PEM files"):
        Publisher(settings, "edge-test", WILL, Outbox(10), Sent())


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


def test_no_more_is_on_its_way_than_the_broker_takes_and_of_the_backlog_at_most_half(tmp_path: Path) -> None:
    killed = Outbox(1000, Journal(tmp_path / "journal"))
    for _ in range(100):
        killed.put(Message("backlog", b"{}", kind="result"))
    broker = CountingBroker(b"\x21" + (10).to_bytes(2, "big"))  # receive maximum
    store = Outbox(1000, Journal(tmp_path / "journal"))
    publisher = Publisher(mqtt_settings(broker.port), "edge-test", WILL, store, Sent())
    publisher.start()
    assert eventually(lambda: len(broker.topics) == 5)
    for _ in range(20):
        publisher.put(Message("live", b"{}", kind="result"))
    assert eventually(lambda: len(broker.topics) == 10)
    time.sleep(0.3)
    assert broker.topics == ["backlog"] * 5 + ["live"] * 5
    publisher.finish(0)
    assert publisher.join(LONG_S)
    assert publisher.outbox().messages == 120


def test_a_message_longer_than_the_broker_takes_does_not_hold_up_those_behind_it() -> None:
    """Sent, it would end the connection, and be sent again on the next one, for ever."""
    broker = CountingBroker(b"\x27" + (1000).to_bytes(4, "big"))  # maximum packet size
    with publishing(broker.port) as publisher:
        publisher.put(Message("long", b"x" * 990, kind="answer"))
        publisher.put(Message("short", b"x" * 900, kind="answer"))
        assert eventually(lambda: broker.topics == ["short"])
        state = publisher.outbox()
        assert (state.messages, state.dropped_by_cause["refused"]) == (1, 1)
