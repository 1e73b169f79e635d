"""Records → MQTT: one thread owns the connection, sends, and reads the acknowledgements.

A broker that is away is no error: messages wait in a bounded queue, and the connection is tried again with a random,
growing pause. A message stays ours until the broker has acknowledged it; what a lost connection left unacknowledged
is sent again on the next one, in order.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import random
import select
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion

from edge.clock import elapsed_ms, now_ns, utc_text
from edge.config import MqttSettings
from edge.errors import EdgeError, UnansweredError
from edge.records import BoardState, Classes, DropCause, Findings, Message, OutboxState, Request, Result
from edge.tls import tls_context, why_away

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 3.0
LAST_TRY_S = 0.3  # the one more time that a broker is tried on the way out
KEEPALIVE_S = 15
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 15.0
CONNACK_POLL_MS = 100
IDLE_POLL_MS = 500
CLOSED_FD = -1
PROTOCOLS = {"auto": (mqtt.MQTTv5, mqtt.MQTTv311), "5": (mqtt.MQTTv5,), "3.1.1": (mqtt.MQTTv311,)}
_PROTOCOL_REFUSED = "Unsupported protocol version"


def to_json(value: Any) -> bytes:
    """Encode a message body; NaN and infinity, which JSON lacks, are refused."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False, ensure_ascii=False).encode()


class ResultEncoder:
    """Turns the results of one device into messages."""

    def __init__(self, device: str, boot: str) -> None:
        self._head = {"v": 1, "device": device, "boot": boot}

    def encode(
        self,
        result: Result,
        topic: str,
        qos: int,
        dropped: dict[DropCause, int],
        board: BoardState,
        energy_j: float | None,
    ) -> Message:
        """Make the message of a result; `energy_j` is what an image of its model took of late."""
        body = self._head | {
            "stream": result.stream,
            "model": result.model,
            "seq": result.seq,
            "frame": result.frame,
            "captured_at": utc_text(result.captured_at_ns),
            "size": result.size_px,
            **found(result.findings, result.labels),
            "latency_ms": {
                "wait": round(result.wait_ms, 3),
                "preprocess": round(result.preprocess_ms, 3),
                "infer": round(result.infer_ms, 3),
                "decode": round(result.decode_ms, 3),
            },
            "batch": result.batch,
            "dropped": dropped,
            "engine": result.engine,
            "power_mode": board.power_mode,
            "throttled": board.throttled,
        }
        if energy_j is not None:
            body["energy_mj"] = round(1000 * energy_j, 3)
        return Message(
            topic,
            to_json(body),
            qos,
            kind="result",
            stream=result.stream,
            captured_ns=result.captured_ns,
            decoded_ns=result.decoded_ns,
        )


def found(findings: Findings, labels: Sequence[str]) -> dict[str, Any]:
    """Return the findings as they stand in a message; a class without a label is named by its number."""
    ids = findings.class_ids.tolist()
    scores = findings.scores.tolist()
    names = [labels[each] if each < len(labels) else str(each) for each in ids]
    if isinstance(findings, Classes):
        return {
            "classes": [
                {"label": name, "class_id": each, "score": round(score, 4)}
                for name, each, score in zip(names, ids, scores, strict=True)
            ]
        }
    return {
        "detections": [
            {
                "label": name,
                "class_id": each,
                "score": round(score, 4),
                "box": [round(x1, 1), round(y1, 1), round(x2 - x1, 1), round(y2 - y1, 1)],
            }
            for name, each, score, (x1, y1, x2, y2) in zip(names, ids, scores, findings.boxes.tolist(), strict=True)
        ]
    }


class Store(Protocol):
    """What keeps the messages that wait: see `edge.outbox`."""

    def put(self, message: Message) -> None: ...

    def pop(self) -> Message | None: ...

    def put_back(self, messages: Iterable[Message]) -> None: ...

    def renew_retained(self) -> None: ...

    def count_dropped(self, messages: int) -> None: ...

    def state(self, in_flight: list[Message]) -> OutboxState: ...


class RefusedError(EdgeError):
    """The broker answered and said no."""


class Publisher:
    """Sends messages from a thread of its own; `on_sent` is called there for each acknowledged result."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        will: Message,
        store: Store,
        on_sent: Callable[[Message, int], None],
        subscriptions: Sequence[str] = (),
        on_request: Callable[[Request], None] | None = None,
    ) -> None:
        """Take `on_sent(message, acknowledged_ns)`; `will` is what the broker says when we are lost.

        `on_request` gets, on the publisher's thread, what comes on the `subscriptions` (QoS 1); it must not wait.
        """
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._store = store
        self._on_sent = on_sent
        self._subscriptions = [(topic, 1) for topic in subscriptions]
        self._on_request = on_request
        self._in_flight: dict[int, Message] = {}  # by packet id; in the order of sending
        self._protocols = list(PROTOCOLS[settings.version])
        self._connack: Any = None
        self._window = settings.in_flight
        self._retries = 0
        self._finish_by_ns: int | None = None
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.connected = False
        settings.credentials()
        if settings.tls:
            tls_context(settings)  # as the password file: what cannot be used is told at once
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message; never waits."""
        self._store.put(message)
        self._wake()

    def outbox(self) -> OutboxState:
        return self._store.state(list(self._in_flight.values()))

    def finish(self, timeout_s: float) -> None:
        """Send what waits for at most `timeout_s`, then disconnect; a broker that is away is not waited for."""
        self._finish_by_ns = now_ns() + int(timeout_s * 1e9)
        self._wake()

    def try_once(self) -> str:
        """Connect and disconnect, without a thread; return what answered."""
        self._connect().disconnect()
        version = "5" if self._protocols[0] == mqtt.MQTTv5 else "3.1.1"
        return f"{self._settings.shown} takes MQTT {version}"

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread's end after `finish`; False where it has not come. Nothing may be put after it."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            return False
        if self._wake_fd != CLOSED_FD:
            os.close(self._wake_fd)
            self._wake_fd = CLOSED_FD
        return True

    def _run(self) -> None:
        while not self._finished():
            try:
                with self._connection() as client:
                    self._serve(client)
            except (OSError, ValueError, EdgeError) as error:
                self._tell_away(error)
                if self._finish_by_ns is not None:
                    return
                self._pause()
            except Exception:  # the top of a thread: whatever the client library throws, the next try is a fresh one
                log.exception("the connection to %s failed unexpectedly", self._settings.shown)
                self._pause()

    def _finished(self) -> bool:
        if self._finish_by_ns is None:
            return False
        return now_ns() >= self._finish_by_ns or not self.outbox().messages

    def _tell_away(self, error: Exception) -> None:
        if self._retries == 0:  # once a loss, not once a try
            broker, bound = self._settings.shown, self._settings.queue_messages
            why = why_away(self._settings, error)
            log.warning("MQTT broker %s is away (%s); up to %d messages wait in memory", broker, why, bound)

    def _pause(self) -> None:
        """Wait a random time within a growing bound, so that a fleet does not come back at once."""
        bound_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._retries, 8))
        self._retries += 1
        until_ns = now_ns() + int(random.uniform(bound_s / 2, bound_s) * 1e9)  # noqa: S311 -- no secret depends on it
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while self._finish_by_ns is None and (left_ns := until_ns - now_ns()) > 0:
            if poller.poll(left_ns / 1e6):
                self._clear_wake()

    def _wake(self) -> None:
        if self._wake_fd != CLOSED_FD:
            os.eventfd_write(self._wake_fd, 1)

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    @contextlib.contextmanager
    def _connection(self) -> Iterator[mqtt.Client]:
        """Connect; on the way out, take back what was not acknowledged."""
        client = self._connect()
        try:
            log.info("connected to MQTT broker %s", self._settings.shown)
            self.connected, self._retries = True, 0
            self._store.renew_retained()
            if self._subscriptions:
                client.subscribe(self._subscriptions)
            yield client
        finally:
            self.connected = False
            self._store.put_back(message for message in self._in_flight.values() if not message.retain)
            self._in_flight.clear()
            client.disconnect()

    def _connect(self) -> mqtt.Client:
        """Connect with MQTT 5, or where the broker does not take that, with 3.1.1."""
        for protocol in tuple(self._protocols):
            client = self._open(protocol)
            if self._connack is not None and not self._connack.is_failure:
                self._protocols.sort(key=lambda each: each != protocol)  # what worked is tried first the next time
                return client
            client.disconnect()
            if self._connack is not None and str(self._connack) != _PROTOCOL_REFUSED:
                break  # old brokers refuse version 5, or just hang up; this one says something else
        if self._connack is None:
            raise UnansweredError("it hung up on CONNECT, or did not answer; see the broker's log")
        raise RefusedError(f"it refused the connection: {self._connack}; see user name, password and the broker's log")

    def _open(self, protocol: Any) -> mqtt.Client:
        """Open a connection and wait for the broker's answer to it."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self._client_id, protocol=protocol)
        client.connect_timeout = CONNECT_TIMEOUT_S if self._finish_by_ns is None else LAST_TRY_S
        client.max_inflight_messages_set(self._settings.in_flight)
        client.will_set(self._will.topic, self._will.body, self._will.qos, self._will.retain)
        username, password = self._settings.credentials()  # read anew, as they may be renewed
        if username is not None:
            client.username_pw_set(username, password)
        if self._settings.tls:
            client.tls_set_context(tls_context(self._settings))
        client.on_connect = self._on_connect
        client.on_publish = self._on_acknowledged
        client.on_message = self._on_message
        self._connack = None
        client.connect(self._settings.host, self._settings.port, KEEPALIVE_S)
        self._await_connack(client)
        return client

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        self._connack = reason
        # MQTT 5: the broker may take fewer messages at once than we would send.
        self._window = min(self._settings.in_flight, getattr(properties, "ReceiveMaximum", self._settings.in_flight))

    def _await_connack(self, client: mqtt.Client) -> None:
        until_ns = now_ns() + int(client.connect_timeout * 1e9)
        while self._connack is None and now_ns() < until_ns and (connection := client.socket()) is not None:
            if connection.fileno() < 0:
                return
            poller = select.poll()
            poller.register(connection.fileno(), select.POLLIN)
            poller.poll(CONNACK_POLL_MS)
            client.loop_read()

    def _serve(self, client: mqtt.Client) -> None:
        """Send and read until everything is sent and we are to close; raise OSError when the connection is lost."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while not self._finished():
            self._clear_wake()
            self._fill_window(client)
            connection = client.socket()
            if client.loop_misc() != mqtt.MQTT_ERR_SUCCESS or connection is None:
                raise ConnectionError("connection lost")
            fd = connection.fileno()
            poller.register(fd, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
            state = dict(poller.poll(IDLE_POLL_MS)).get(fd, 0)
            if state & select.POLLOUT:
                client.loop_write()
            if state & ~select.POLLOUT:
                client.loop_read()

    def _fill_window(self, client: mqtt.Client) -> None:
        """Send while fewer messages than the window are without acknowledgement."""
        while len(self._in_flight) < self._window:
            message = self._store.pop()
            if message is None:
                return
            self._stamp_age(message)
            message.times_sent += 1
            info = client.publish(message.topic, message.body, message.qos, message.retain)
            if info.rc != mqtt.MQTT_ERR_SUCCESS:
                self._store.put_back([message])
                raise ConnectionError(mqtt.error_string(info.rc))
            if message.qos:
                self._in_flight[info.mid] = message

    @staticmethod
    def _stamp_age(message: Message) -> None:
        if message.stream is not None and not message.times_sent:
            age_ms = elapsed_ms(message.captured_ns, now_ns())
            message.body = b'%b,"age_ms":%.1f}' % (message.body[:-1], age_ms)

    def _on_acknowledged(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:  # noqa: ARG002
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        if reason.is_failure:
            log.warning("broker %s refused a message on %s: %s", self._settings.shown, message.topic, reason)
            self._store.count_dropped(1)
        elif message.stream is not None and message.times_sent == 1:  # a replay says nothing of latency
            self._on_sent(message, now_ns())

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ARG002
        if self._on_request is None:
            return
        response_topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", None)
        self._on_request(Request(message.topic, bytes(message.payload), message.retain, response_topic, correlation))


def try_connection(settings: MqttSettings, store: Store) -> str:
    """Connect to the broker once and tell which MQTT it speaks; raise OSError or EdgeError where it does not answer."""
    publisher = Publisher(settings, "", Message("edge/check", b""), store, lambda _message, _at_ns: None)
    return publisher.try_once()
