"""A broker that talks nonsense: no crash, bounded memory, and all is well once a good one is there."""

from __future__ import annotations

import contextlib
import json
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator

import psutil
import pytest

from edge.core.backoff import Backoff
from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.records import CommandRequest, Message
from edge.mqtt import connection as connection_module
from edge.mqtt import publisher as publisher_module
from edge.mqtt.outbox import Outbox
from edge.mqtt.publisher import Publisher
from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, belt
from tests.support.process import StartEdge
from tests.support.raw_broker import CONNACK_5, RawBroker, varint
from tests.support.subscriber import subscribed
from tests.support.waiting import eventually

PACKETS = 1000
SEED = 11
GROWTH_BYTES = 64_000_000  # of this process, with room for what the test itself keeps
FLOOD_BYTES = 200_000_000
WILL = Message("edge/bench-01/status", b'{"state":"offline"}', retain=True)
COMMANDS = "edge/bench-01/cmd/+"


@contextlib.contextmanager
def publishing(port: int, requests: list[CommandRequest]) -> Iterator[Publisher]:
    settings = MqttSettings(url=f"mqtt://127.0.0.1:{port}")
    publisher = Publisher(
        settings, "edge-test", WILL, Outbox(10_000), lambda _message, _at_ns: None, [COMMANDS], requests.append
    )
    publisher.start()
    try:
        yield publisher
    finally:
        publisher.finish(5)
        assert publisher.join(10)


def result(number: int) -> Message:
    body = json.dumps({"seq": number}).encode()
    at_ns = now_ns()
    return Message(
        "edge/bench-01/streams/s/results", body, kind="result", stream="s", captured_ns=at_ns, decoded_ns=at_ns
    )


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the publisher try again at once."""
    monkeypatch.setattr(publisher_module, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(publisher_module, "LONGEST_RETRY_S", 0.001)
    monkeypatch.setattr(connection_module, "CONNECT_TIMEOUT_S", 0.2)


@pytest.mark.broker
def test_a_thousand_malformed_packets_do_no_harm(
    mosquitto: Mosquitto, hasty: None, caplog: pytest.LogCaptureFixture
) -> None:
    raw = RawBroker(mosquitto.port, SEED)
    requests: list[CommandRequest] = []
    caplog.set_level(logging.INFO)
    rss_before = psutil.Process().memory_info().rss
    with publishing(mosquitto.port, requests) as publisher:
        for number in range(200):
            publisher.put(result(number))
        eventually(lambda: raw.packets >= PACKETS, f"{PACKETS} packets", timeout_s=300)
        raw.close()
        assert psutil.Process().memory_info().rss - rss_before < GROWTH_BYTES
        told = [record.getMessage() for record in caplog.records]
        mosquitto.start()
        eventually(lambda: publisher.connected, "a good broker is taken")
        eventually(lambda: publisher.outbox().messages == 0, "all that waited is sent")
        publisher.put(result(200))
        eventually(lambda: publisher.outbox().messages == 0, "and what comes")
    assert len(told) <= 3, "what goes on being wrong is told once"


@pytest.mark.broker
def test_the_daemon_outlives_a_malformed_broker_and_serves_a_good_one(
    mosquitto: Mosquitto, configure: Configure, start_edge: StartEdge
) -> None:
    raw = RawBroker(mosquitto.port, SEED)
    daemon = start_edge(configure({"streams.belt": belt(fps=10)}))
    eventually(lambda: raw.connections >= 8, "eight tries")
    raw.close()
    mosquitto.start()
    with subscribed(mosquitto.port) as subscriber:
        subscriber.wait_for_results("belt", 20)
        subscriber.wait_for_state("online")
        assert daemon.end() == 0
        subscriber.wait_for_state("stopped")
    assert "Traceback" not in daemon.log


class Flood:
    """Announces a packet of 256 MB after its CONNACK, and sends it for as long as somebody takes it."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.sent_bytes = 0
        self.hung_up = threading.Event()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        connection, _ = self._listener.accept()
        with self._listener, connection:
            connection.recv(4096)
            connection.sendall(CONNACK_5 + b"\x30" + varint(FLOOD_BYTES))
            with contextlib.suppress(OSError):
                while self.sent_bytes < FLOOD_BYTES:
                    self.sent_bytes += connection.send(bytes(65_536))
        self.hung_up.set()


def test_a_packet_of_hundreds_of_megabytes_is_not_taken(caplog: pytest.LogCaptureFixture) -> None:
    flood = Flood()
    with publishing(flood.port, []):
        assert flood.hung_up.wait(30)
        eventually(lambda: "wanted at most 262144" in caplog.text, "the reason is told")
    assert flood.sent_bytes < GROWTH_BYTES


class Connecting:
    """Takes every connection with a CONNACK, and hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(CONNACK_5)
                self.connections += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def test_a_broker_that_only_takes_connections_is_tried_at_growing_intervals_and_told_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses_s: list[float] = []

    def no_pause(least_s: float, most_s: float) -> float:
        pauses_s.append(most_s)
        return 0.0

    monkeypatch.setattr(publisher_module, "Backoff", lambda first_s, longest_s: Backoff(first_s, longest_s, no_pause))
    caplog.set_level(logging.INFO)
    broker = Connecting()
    with publishing(broker.port, []) as publisher:
        publisher.put(result(0))
        eventually(lambda: len(pauses_s) >= 8, "eight tries")
        broker.close()
    assert pauses_s[:6] == [0.5, 1, 2, 4, 5, 5]
    assert caplog.text.count("connected to MQTT broker") <= 2
    assert caplog.text.count("is unreachable") == 1


class Deaf:
    """Takes a connection with a CONNACK, and then reads nothing."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        self._connection, _ = self._listener.accept()
        self._connection.recv(4096)
        self._connection.sendall(CONNACK_5)

    def close(self) -> None:
        self._connection.close()
        self._listener.close()


def test_what_a_stalled_connection_does_not_take_waits_in_the_outbox_for_qos_0_too() -> None:
    deaf = Deaf()
    with publishing(deaf.port, []) as publisher:
        eventually(lambda: publisher.connected, "the connection")
        for number in range(5000):  # 100 MB, of which the sockets hold a few
            each = result(number)
            each.qos, each.body = 0, each.body[:-1] + b',"padding":"' + b"x" * 20_000 + b'"}'
            publisher.put(each)
        assert settled(lambda: publisher.outbox().messages) > 4000
        deaf.close()


def settled(read: Callable[[], int]) -> int:
    """Return a number once it has not changed for a while."""
    before = -1
    while before != (now := read()):
        before = now
        time.sleep(1)
    return now
