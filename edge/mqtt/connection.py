"""MQTT connection: opening with version fallback, CONNACK, and the packets that pass over it."""

from __future__ import annotations

import logging
import select
import socket
import ssl
import struct
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt import MQTTException
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.errors import EdgeError, UnansweredError
from edge.core.records import CommandRequest, Message
from edge.mqtt.broker_reasons import (
    MOST_SHOWN,
    NOT_OVER_A_MESSAGE,
    PROTOCOL_REFUSED,
    QOS_NOT_SUPPORTED,
    RETAIN_NOT_SUPPORTED,
    explain_end,
    explain_refusal,
)
from edge.mqtt.tls import tls_context

log = logging.getLogger(__name__)

CONNECT_TIMEOUT_S = 4.5  # a link with a delay of 2 s each way answers within it, and SIGTERM ends the daemon in 5 s
LAST_CONNECT_TIMEOUT_S = 0.3  # of the one more attempt on the way out
KEEPALIVE_S = 15
UNACKNOWLEDGED_MS = 10_000  # data that TCP has not acknowledged for so long ends the connection
MAX_PACKET_BYTES = 262_144  # of what we receive: requests
MAX_SKIPPED_BYTES = 134_217_728  # a longer packet is not even read to its end
# Of a packet that is skipped: its topic and packet id, to acknowledge it, and a body that is seen to be too long.
KEPT_BYTES = 2 * MAX_PACKET_BYTES
MOST_TOPIC_BYTES = 65_535
MOST_BODY_BYTES = 268_435_455
PUBLISH_HEAD_BYTES = 9  # at most, of what we send: type and length, the topic's length, packet id
RECEIVE_BUFFER_BYTES = 65_536  # the library reads up to a hundred of these before it looks at a packet's length
CONNACK_POLL_MS = 100
PROTOCOLS = {"auto": (mqtt.MQTTv5, mqtt.MQTTv311), "5": (mqtt.MQTTv5,), "3.1.1": (mqtt.MQTTv311,)}
# QoS and retention of the will that are tried after a retained one of QoS 1, where a broker of MQTT 3.1.1 hangs up.
LESSER_WILLS = ((1, False), (0, True), (0, False))


class BrokerRefusedError(EdgeError):
    """The broker answered and said no."""


class ConnectionEndedError(ConnectionError):
    """A connection that had been accepted is lost; `code` is the reason that the broker gave in DISCONNECT, if any."""

    def __init__(self, told: str, code: int | None) -> None:
        super().__init__(told)
        self.code = code

    @property
    def may_be_over_a_message(self) -> bool:
        """True unless the broker gave a reason that no message can have caused."""
        return self.code not in NOT_OVER_A_MESSAGE


class _Beginning(bytearray):
    """The beginning of a packet that is too long; what follows is discarded as the library appends it."""

    def __iadd__(self, more: Any) -> _Beginning:  # type: ignore[misc]
        self.extend(more[: max(KEPT_BYTES - len(self), 0)])
        return self


class PackedProperties(Properties):
    """Properties of messages that are all alike, packed once."""

    def __init__(self, content_type: str, expiry_s: int | None, correlation: bytes | None) -> None:
        super().__init__(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        self.ContentType = content_type
        if expiry_s is not None:
            self.MessageExpiryInterval = expiry_s
        if correlation is not None:
            self.CorrelationData = correlation
        # Bypasses the check of names that the library's class makes of each attribute.
        self.__dict__["packed"] = super().pack()  # type: ignore[no-untyped-call]

    def pack(self) -> bytes:
        packed: bytes = self.__dict__["packed"]
        return packed


@lru_cache(maxsize=64)
def packed_properties(content_type: str, expiry_s: int | None, correlation: bytes | None) -> PackedProperties:
    return PackedProperties(content_type, expiry_s, correlation)


class MqttConnection:
    """A connection to one broker, opened again as often as it is lost; all its calls come from one thread."""

    def __init__(
        self,
        settings: MqttSettings,
        client_id: str,
        will: Message | None,
        on_acknowledged: Callable[[int, Any], None] = lambda _packet_id, _reason: None,
        on_request: Callable[[CommandRequest], None] | None = None,
    ) -> None:
        """Set up callbacks, called from `read`; raise ConfigError where credentials or certificates are unusable."""
        self._settings = settings
        self.client_id = client_id
        self._will = will
        self._on_acknowledged = on_acknowledged
        self._on_request = on_request
        self._protocols = list(PROTOCOLS[settings.version])
        self._connack: Any = None
        self._connack_properties: Any = None
        self._ended: tuple[Any, Any] | None = None  # reason and properties of the broker's DISCONNECT
        self._topics: list[str] = []  # of the newest subscription
        self._client: mqtt.Client  # from `open` on
        self.window = settings.in_flight  # messages that may be unacknowledged at once
        self._max_packet_bytes: int | None = None  # that the broker accepts; None: no limit named
        self._max_qos = 1
        self._retains = True
        self._has_hung_up = False  # on the last CONNECT
        self.limits: list[str] = []  # what the broker does not do of what we would use, in sentences
        self.is_subscription_answered = False
        self.refused_topics: list[str] = []  # of it
        self.deadline_ns: int | None = None  # once set, by whichever thread, no attempt to connect outlasts it
        settings.credentials()
        if settings.tls:
            tls_context(settings)

    @property
    def version(self) -> str:
        """MQTT version to try first: the one that worked last."""
        return "5" if self._protocols[0] == mqtt.MQTTv5 else "3.1.1"

    def open(self) -> None:
        """Connect with MQTT 5 or, where the broker does not speak it, 3.1.1; raise OSError or EdgeError on failure."""
        for protocol in tuple(self._protocols):
            client = self._negotiate(protocol)
            if client is not None:
                self._protocols.sort(key=lambda each: each != protocol)  # what worked is tried first the next time
                # With this set, the library leaves writing to us: several packets at once, not one for each message.
                client.on_socket_register_write = lambda *_: None
                self._client = client
                return
            if self._connack is not None and self._connack.value != PROTOCOL_REFUSED:
                break  # old brokers refuse version 5, or just hang up; this one says something else
        if self._connack is None:
            raise UnansweredError("it hung up on CONNECT, or did not answer; see the broker's log")
        raise BrokerRefusedError(explain_refusal(self._connack, self._connack_properties, self.client_id))

    def _negotiate(self, protocol: Any) -> mqtt.Client | None:
        """Connect with one MQTT version, asking less where the broker does not take our will; None if it refuses us."""
        client = self._attempt(protocol, 1, retains=True)
        if self._connack is None:
            return self._find_will(protocol) if self._will is not None and protocol != mqtt.MQTTv5 else None
        while client is None:
            code = self._connack.value if self._connack is not None else None
            if code == RETAIN_NOT_SUPPORTED and self._retains:
                client = self._attempt(protocol, self._max_qos, retains=False)
            elif code == QOS_NOT_SUPPORTED and self._max_qos:
                client = self._attempt(protocol, 0, retains=self._retains)
            else:
                return None
        return client

    def _find_will(self, protocol: Any) -> mqtt.Client | None:
        """Find a will upon which a broker of MQTT 3.1.1, which cannot say why, does not hang up."""
        for max_qos, retains in LESSER_WILLS:
            if not self._has_hung_up:
                return None
            client = self._attempt(protocol, max_qos, retains=retains)
            if client is None:
                continue
            client.disconnect()
            # The first time it may have hung up for another reason, such as its own start.
            return self._attempt(protocol, 1, retains=True) or self._attempt(protocol, max_qos, retains=retains)
        return None

    def _attempt(self, protocol: Any, max_qos: int, *, retains: bool) -> mqtt.Client | None:
        """Connect once, with a will of at most this QoS; return None where the broker refuses it or hangs up."""
        self._max_qos, self._retains = max_qos, retains
        client = self._connect(protocol)
        if self._connack is not None and not self._connack.is_failure:
            return client
        self._has_hung_up = self._connack is None and client.socket() is None
        client.disconnect()
        return None

    def close(self) -> None:
        self._client.on_socket_register_write = None
        self._client.disconnect()

    def _connect(self, protocol: Any) -> mqtt.Client:
        """Connect with one MQTT version and wait for CONNACK."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self.client_id, protocol=protocol)
        client.connect_timeout = CONNECT_TIMEOUT_S if self.deadline_ns is None else LAST_CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(self._settings.in_flight)
        if (will := self._will) is not None:
            client.will_set(will.topic, will.body, self._qos(will), will.retain and self._retains)
        username, password = self._settings.credentials()  # read again, as they may have been renewed
        if username is not None:
            client.username_pw_set(username, password)
        if self._settings.tls:
            client.tls_set_context(tls_context(self._settings))
        client.on_connect = self._on_connack
        client.on_publish = lambda _client, _userdata, mid, reason, _properties: self._on_acknowledged(mid, reason)
        client.on_message = self._on_message
        client.on_subscribe = self._on_suback
        client.on_disconnect = self._on_disconnect
        self._connack = self._connack_properties = self._ended = None
        self.is_subscription_answered = False
        client.connect(self._settings.host, self._settings.port, KEEPALIVE_S, properties=_limits(protocol))
        if isinstance(connection := client.socket(), socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._await_connack(client)
        return client

    def _on_connack(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        self._connack, self._connack_properties = reason, properties
        if reason.is_failure:
            return
        # MQTT 5: the broker may allow fewer unacknowledged messages than we would send.
        self.window = min(self._settings.in_flight, getattr(properties, "ReceiveMaximum", self._settings.in_flight))
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)
        self._max_qos = min(self._max_qos, getattr(properties, "MaximumQoS", self._max_qos))
        self._retains = self._retains and bool(getattr(properties, "RetainAvailable", True))
        self._note_limits()

    def _on_disconnect(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        if flags.is_disconnect_packet_from_server:
            self._ended = (reason, properties)

    def _on_suback(self, client: Any, userdata: Any, packet_id: Any, reasons: Any, properties: Any) -> None:  # noqa: ARG002
        refused = [
            f"{topic} ({reason})" for topic, reason in zip(self._topics, reasons, strict=False) if reason.is_failure
        ]
        self.is_subscription_answered, self.refused_topics = True, refused
        if refused:
            named = ", ".join(refused)
            self.limits.append(f"it refused a subscription, so that no commands come: {named}; check its access list")

    def _lost(self) -> ConnectionEndedError:
        """Return the error of a connection that is lost, with the reason if the broker gave one."""
        if self._ended is None:
            return ConnectionEndedError("connection lost", None)
        return ConnectionEndedError(
            f"it ended the connection: {explain_end(*self._ended, self.client_id)}", self._ended[0].value
        )

    def _note_limits(self) -> None:
        self.limits = []
        if not self._retains:
            self.limits.append("it retains no messages: who subscribes later sees no status until the next change")
        if self._max_qos < 1:
            lost = "messages are not acknowledged, and may be lost with the connection"
            self.limits.append(f"its maximum QoS is 0: {lost}")

    def _await_connack(self, client: mqtt.Client) -> None:
        until_ns = now_ns() + int(client.connect_timeout * 1e9)
        while self._connack is None and now_ns() < min(until_ns, self.deadline_ns or until_ns):
            connection = client.socket()
            if connection is None or connection.fileno() < 0:
                return
            poller = select.poll()
            poller.register(connection.fileno(), select.POLLIN)
            poller.poll(CONNACK_POLL_MS)
            _read(client)

    def _on_message(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ARG002
        if self._on_request is None:
            return
        if len(message.payload) > MAX_PACKET_BYTES:
            text = "MQTT broker %s sent a message on %s that is too long, and is skipped; wanted at most %d bytes"
            log.warning(text, self._settings.shown, message.topic[:MOST_SHOWN], MAX_PACKET_BYTES)
            return
        response_topic = getattr(message.properties, "ResponseTopic", None)
        correlation = getattr(message.properties, "CorrelationData", None)
        self._on_request(
            CommandRequest(message.topic, bytes(message.payload), message.retain, response_topic, correlation)
        )

    def subscribe(self, topics: Sequence[str]) -> None:
        """Subscribe with QoS 1; with MQTT 5, have each message say whether it was published as retained."""
        is_5 = self._protocols[0] == mqtt.MQTTv5
        options: Any = SubscribeOptions(qos=1, retainAsPublished=True) if is_5 else 1
        if topics:
            self._topics = list(topics)
            self._client.subscribe([(topic, options) for topic in topics])

    def publish(self, message: Message) -> int | None:
        """Queue a message for the socket; return its packet id, or None where no acknowledgement will come.

        Raises ConnectionEndedError when the connection is lost.
        """
        if message.retain and not message.body and not self._retains:
            return None  # it would clear what this broker does not have
        properties = packed_properties(message.content_type, message.expiry_s, message.correlation)
        qos, retain = self._qos(message), message.retain and self._retains
        info = self._client.publish(message.topic, message.body, qos, retain, properties)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise self._lost()
        return info.mid if qos else None

    def _qos(self, message: Message) -> int:
        return min(message.qos, self._max_qos)

    def refusal(self, message: Message) -> str | None:
        """Return why a message can never be sent: MQTT has no such message, or it is longer than the broker takes.

        None if it can be sent. How long a packet may be, the broker names in CONNACK (MQTT 5).
        """
        topic = message.topic.encode()
        if not 0 < len(topic) <= MOST_TOPIC_BYTES or any(sign in topic for sign in (b"#", b"+", b"\0")):
            return "nothing can be published on such a topic"
        if len(message.body) > MOST_BODY_BYTES:
            return f"it has {len(message.body)} bytes; MQTT messages have at most {MOST_BODY_BYTES}"
        try:
            properties = packed_properties(message.content_type, message.expiry_s, message.correlation).pack()
        except (MQTTException, struct.error, ValueError) as error:
            return f"its properties cannot be sent: {error}"
        size = PUBLISH_HEAD_BYTES + len(topic) + len(properties) + len(message.body)
        if self._max_packet_bytes is None or size <= self._max_packet_bytes:
            return None
        return f"it accepts packets of at most {self._max_packet_bytes} bytes"

    @property
    def wants_write(self) -> bool:
        """True while packets are queued for the socket."""
        return self._client.want_write()

    def write(self) -> None:
        self._client.loop_write()

    def read(self) -> None:
        """Read what has arrived; raise OSError where a packet is too long even to be skipped."""
        _read(self._client)

    def keep_alive(self) -> int:
        """Ping the broker when that is due; return the socket's descriptor.

        Raises ConnectionEndedError when the connection is lost.
        """
        connection = self._client.socket()
        if self._client.loop_misc() != mqtt.MQTT_ERR_SUCCESS or connection is None:
            raise self._lost()
        descriptor: int = connection.fileno()
        return descriptor


def _limits(protocol: Any) -> Properties | None:
    """Return the CONNECT properties that limit the packets sent to us (MQTT 5)."""
    if protocol != mqtt.MQTTv5:
        return None
    limits = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    limits.MaximumPacketSize = MAX_PACKET_BYTES
    return limits


def _read(client: mqtt.Client) -> None:
    client.loop_read()
    while isinstance(connection := client.socket(), ssl.SSLSocket) and connection.pending():
        client.loop_read()  # no poll wakes for data that TLS has already decrypted
    packet = client._in_packet  # noqa: SLF001 -- the library itself takes up to 256 MB
    announced = packet["remaining_length"]
    if announced <= MAX_PACKET_BYTES:
        return
    if packet["command"] & 0xF0 != mqtt.PUBLISH or announced > MAX_SKIPPED_BYTES:
        raise ConnectionError(f"it sends a packet of {announced} bytes; wanted at most {MAX_PACKET_BYTES}")
    if not isinstance(packet["packet"], _Beginning):
        packet["packet"] = _Beginning(packet["packet"][:KEPT_BYTES])
