"""Messages → MQTT: one thread owns the connection, sends, and reads the acknowledgements.

A broker that is away is no error: messages wait in the outbox, and the connection is tried again with a random,
growing pause. A message stays ours until the broker has acknowledged it; what a lost connection left unacknowledged
is sent again on the next one, in order. What waited on disk gets at most half of what may be on its way at once, so
that new results do not wait behind it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import select
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Protocol

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.core.clock import elapsed_ms, now_ns
from edge.core.config import MqttSettings
from edge.core.errors import EdgeError, UnansweredError
from edge.core.records import CommandRequest, DropReason, Message, OutboxState
from edge.mqtt.tls import tls_context, why_away

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 4.5  # a link that takes 2 s each way answers in it, and SIGTERM ends the daemon in 5 s
LAST_TRY_S = 0.3  # the one more time that a broker is tried on the way out
KEEPALIVE_S = 15
UNHEARD_MS = 10_000  # what was sent and not heard for so long ends the connection, before TCP's pauses grow longer
MAX_PACKET_BYTES = 262_144  # of what comes to us: requests
PUBLISH_HEAD_BYTES = 9  # at most, of what we send: type and length, the topic's length, packet id
MOST_REFUSED_TOLD = 100  # topics a connection
RECEIVE_BUFFER_BYTES = (
    65_536  # the library reads up to a hundred of these at once, before a packet's length is looked at
)
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0  # results are live again within 10 s of the link's return
CONNACK_POLL_MS = 100
IDLE_POLL_MS = 500
CLOSED_FD = -1
PROTOCOLS = {"auto": (mqtt.MQTTv5, mqtt.MQTTv311), "5": (mqtt.MQTTv5,), "3.1.1": (mqtt.MQTTv311,)}
_PROTOCOL_REFUSED = "Unsupported protocol version"


class Store(Protocol):
    """What keeps the messages that wait: see `edge.mqtt.outbox`."""

    def put(self, message: Message) -> None: ...

    on_ready: Callable[[], None]  # called where something to be sent comes from elsewhere than `put`

    def pop(self, *, backlog: bool) -> Message | None: ...

    def has_waiting(self, *, backlog: bool) -> bool: ...

    def put_back(self, messages: Iterable[Message]) -> None: ...

    def settle(self, message: Message, refused: DropReason | None = None) -> None: ...

    def renew_retained(self) -> None: ...

    def set_connected(self, *, connected: bool) -> None: ...

    def state(self, in_flight: list[Message]) -> OutboxState: ...


class Packed(Properties):
    """Properties of messages that are all alike: packed once."""

    def __init__(self, content_type: str, expiry_s: int | None, correlation: bytes | None) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self.ContentType = content_type
        if expiry_s is not None:
            self.MessageExpiryInterval = expiry_s
        if correlation is not None:
            self.CorrelationData = correlation
        # Past the check of names, which the library's class makes of each attribute.
        self.__dict__["packed"] = super().pack()  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        packed: bytes = self.__dict__["packed"]
        return packed


@lru_cache(maxsize=64)
def properties_of(content_type: str, expiry_s: int | None, correlation: bytes | None) -> Packed:
    return Packed(content_type, expiry_s, correlation)


class BrokerRefusedError(EdgeError):
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
        on_request: Callable[[CommandRequest], None] | None = None,
    ) -> None:
        """Take `on_sent(message, acknowledged_ns)`; `will` is what the broker says when we are lost.

        `on_request` gets, on the publisher's thread, what comes on the `subscriptions` (QoS 1); it must not wait.
        """
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._store = store
        self._on_sent = on_sent
        self._subscriptions = list(subscriptions)
        self._on_request = on_request
        self._in_flight: dict[int, Message] = {}  # by packet id; in the order of sending
        self._backlog_in_flight = 0  # of these, what waited on disk
        self._protocols = list(PROTOCOLS[settings.version])
        self._connack: Any = None
        self._window = settings.in_flight
        self._max_packet_bytes: int | None = None  # what the broker takes; None: it names no bound
        self._refused_topics: set[str] = set()  # that were told of on this connection
        self._retries = 0  # since a message was acknowledged: a broker that only takes connections is no working one
        self._told_connected = False
        self._finish_by_ns: int | None = None
        self._finish_backlog = True
        self._is_asleep = True  # the thread waits, or is about to
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.connected = False
        settings.credentials()
        if settings.tls:
            tls_context(settings)  # as the password file: what cannot be used is told at once
        self._thread = threading.Thread(target=self._run, name="publish", daemon=True)
        store.on_ready = self._wake

    def start(self) -> None:
        self._thread.start()

    def put(self, message: Message) -> None:
        """Queue a message; never waits."""
        self._store.put(message)
        if self._is_asleep:  # a system call for each message would hand the interpreter to and fro
            self._is_asleep = False
            self._wake()

    def outbox(self) -> OutboxState:
        return self._store.state(list(self._in_flight.values()))

    def finish(self, timeout_s: float, *, backlog: bool = True) -> None:
        """Send what waits for at most `timeout_s`, then disconnect; a broker that is away is not waited for.

        Without `backlog`, what is on disk is not waited for: it stays there.
        """
        self._finish_backlog = backlog
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
                if self._retries == 0:
                    log.exception("the connection to %s failed unexpectedly", self._settings.shown)
                if self._finish_by_ns is not None:
                    return
                self._pause()

    def _finished(self) -> bool:
        if self._finish_by_ns is None:
            return False
        if now_ns() >= self._finish_by_ns:
            return True
        state = self.outbox()
        return state.messages <= (0 if self._finish_backlog else state.disk_messages)

    def _tell_away(self, error: Exception) -> None:
        if self._retries == 0:  # once a loss, not once a try
            self._told_connected = False
            why = why_away(self._settings, error)
            log.warning("MQTT broker %s is away (%s); messages wait for it", self._settings.shown, why)

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
            if not self._told_connected:
                log.info("connected to MQTT broker %s", self._settings.shown)
            self.connected = self._told_connected = True
            self._store.set_connected(connected=True)
            self._refused_topics.clear()
            self._store.renew_retained()
            # With this set, the library leaves writing to us: several packets at once, and not one with each message.
            client.on_socket_register_write = lambda *_: None
            if self._subscriptions:
                client.subscribe([(topic, self._subscribe_options()) for topic in self._subscriptions])
            yield client
        finally:
            self.connected = False
            self._store.set_connected(connected=False)
            self._store.put_back([message for message in self._in_flight.values() if not message.retain])
            self._in_flight.clear()
            self._backlog_in_flight = 0
            client.on_socket_register_write = None
            client.disconnect()

    def _subscribe_options(self) -> Any:
        """Ask for QoS 1, and with MQTT 5 to be told of each message whether it was published to be retained."""
        if self._protocols[0] != mqtt.MQTTv5:
            return 1
        return SubscribeOptions(qos=1, retainAsPublished=True)

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
        raise BrokerRefusedError(
            f"it refused the connection: {self._connack}; see user name, password and the broker's log"
        )

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
        client.connect(self._settings.host, self._settings.port, KEEPALIVE_S, properties=_limits(protocol))
        if isinstance(connection := client.socket(), socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNHEARD_MS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._await_connack(client)
        return client

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        self._connack = reason
        # MQTT 5: the broker may take fewer messages at once than we would send.
        self._window = min(self._settings.in_flight, getattr(properties, "ReceiveMaximum", self._settings.in_flight))
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)

    def _await_connack(self, client: mqtt.Client) -> None:
        until_ns = now_ns() + int(client.connect_timeout * 1e9)
        while self._connack is None and now_ns() < min(until_ns, self._finish_by_ns or until_ns):
            if (connection := client.socket()) is None:
                return
            if connection.fileno() < 0:
                return
            poller = select.poll()
            poller.register(connection.fileno(), select.POLLIN)
            poller.poll(CONNACK_POLL_MS)
            _read(client)

    def _serve(self, client: mqtt.Client) -> None:
        """Send and read until everything is sent and we are to close; raise OSError when the connection is lost."""
        poller = select.poll()
        poller.register(self._wake_fd, select.POLLIN)
        while not self._finished():
            self._clear_wake()
            self._fill_window(client)
            if client.want_write():
                client.loop_write()
            connection = client.socket()
            if client.loop_misc() != mqtt.MQTT_ERR_SUCCESS or connection is None:
                raise ConnectionError("connection lost")
            fd = connection.fileno()
            poller.register(fd, select.POLLIN | (select.POLLOUT if client.want_write() else 0))
            state = dict(poller.poll(self._idle_ms(client))).get(fd, 0)
            self._is_asleep = False
            if state & select.POLLOUT:
                client.loop_write()
            if state & ~select.POLLOUT:
                _read(client)

    @property
    def _takes_backlog(self) -> bool:
        return self._backlog_in_flight < max(self._window // 2, 1)

    def _idle_ms(self, client: mqtt.Client) -> int:
        """Return how long to wait; what is handed over from now on wakes us, as does a link that takes more."""
        self._is_asleep = True
        has_room = len(self._in_flight) < self._window and not client.want_write()
        return 0 if has_room and self._store.has_waiting(backlog=self._takes_backlog) else IDLE_POLL_MS

    def _fill_window(self, client: mqtt.Client) -> None:
        """Send while fewer messages than the window are without acknowledgement."""
        # A link that takes nothing gets nothing: of QoS 0, which is never acknowledged, the library would hold it all.
        if client.want_write():
            return
        for _ in range(self._window - len(self._in_flight)):
            message = self._store.pop(backlog=self._takes_backlog)
            if message is None:
                return
            self._stamp_age(message)
            message.times_sent += 1
            properties = properties_of(message.content_type, message.expiry_s, message.correlation)
            if self._is_too_long(message, properties):
                self._refuse(message, f"it takes packets of at most {self._max_packet_bytes} bytes")
                continue
            info = client.publish(message.topic, message.body, message.qos, message.retain, properties)
            if info.rc != mqtt.MQTT_ERR_SUCCESS:
                self._store.put_back([message])
                raise ConnectionError(mqtt.error_string(info.rc))
            if message.qos:
                self._in_flight[info.mid] = message
                self._backlog_in_flight += message.is_backlog

    def _is_too_long(self, message: Message, properties: Packed) -> bool:
        """Tell whether the broker would end the connection for it, on the next one again, and on all to come."""
        if self._max_packet_bytes is None:
            return False
        size = PUBLISH_HEAD_BYTES + len(message.topic.encode()) + len(properties.pack()) + len(message.body)
        return size > self._max_packet_bytes

    def _refuse(self, message: Message, reason: object) -> None:
        """Give up what the broker does not take; a topic is told of once a connection, not with each message."""
        if message.topic not in self._refused_topics and len(self._refused_topics) < MOST_REFUSED_TOLD:
            self._refused_topics.add(message.topic)
            told = "broker %s refused a message on %s (%s); further ones on this topic are only counted"
            log.warning(told, self._settings.shown, message.topic, reason)
        self._store.settle(message, "refused")

    @staticmethod
    def _stamp_age(message: Message) -> None:
        if message.stream is not None and not message.times_sent:
            age_ms = max(elapsed_ms(message.captured_ns, now_ns()), 0.0)  # a clock may have been set back meanwhile
            message.body = b'%b,"age_ms":%.1f}' % (message.body[:-1], age_ms)

    def _on_acknowledged(self, client: Any, userdata: Any, mid: int, reason: Any, properties: Any) -> None:  # noqa: ARG002
        message = self._in_flight.pop(mid, None)
        if message is None:
            return
        self._retries = 0
        self._backlog_in_flight -= message.is_backlog
        if reason.is_failure:
            self._refuse(message, reason)
            return
        self._store.settle(message)
        # A replay, and what waited on disk, say nothing of latency.
        if message.stream is not None and message.times_sent == 1 and not message.is_backlog:
            self._on_sent(message, now_ns())

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ARG002
        if self._on_request is None:
            return
        response_topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", None)
        self._on_request(
            CommandRequest(message.topic, bytes(message.payload), message.retain, response_topic, correlation)
        )


def _limits(protocol: Any) -> Properties | None:
    """Return what tells an MQTT 5 broker how long a packet we take."""
    if protocol != mqtt.MQTTv5:
        return None
    limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    limits.MaximumPacketSize = MAX_PACKET_BYTES
    return limits


def _read(client: mqtt.Client) -> None:
    """Read what came; raise OSError where a packet is longer than any that is meant for us."""
    client.loop_read()
    while isinstance(connection := client.socket(), ssl.SSLSocket) and connection.pending():
        client.loop_read()  # what TLS has decrypted already wakes no poll
    announced = client._in_packet["remaining_length"]  # noqa: SLF001 -- the library itself takes up to 256 MB
    if announced > MAX_PACKET_BYTES:
        raise ConnectionError(f"it sends a packet of {announced} bytes; wanted at most {MAX_PACKET_BYTES}")


def try_connection(settings: MqttSettings, store: Store) -> str:
    """Connect to the broker once and tell which MQTT it speaks; raise OSError or EdgeError where it does not answer."""
    publisher = Publisher(settings, "", Message("edge/check", b""), store, lambda _message, _at_ns: None)
    return publisher.try_once()
