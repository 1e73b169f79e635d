"""MQTT connection: opening with version fallback, CONNACK, and the packets that pass over it."""

from __future__ import annotations

import select
import socket
import ssl
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from edge.core.clock import now_ns
from edge.core.config import MqttSettings
from edge.core.errors import EdgeError, UnansweredError
from edge.core.records import CommandRequest, Message
from edge.mqtt.tls import tls_context

CONNECT_TIMEOUT_S = 4.5  # a link with a delay of 2 s each way answers within it, and SIGTERM ends the daemon in 5 s
LAST_CONNECT_TIMEOUT_S = 0.3  # of the one more attempt on the way out
KEEPALIVE_S = 15
UNACKNOWLEDGED_MS = 10_000  # data that TCP has not acknowledged for so long ends the connection
MAX_PACKET_BYTES = 262_144  # of what we receive: requests
PUBLISH_HEAD_BYTES = 9  # at most, of what we send: type and length, the topic's length, packet id
RECEIVE_BUFFER_BYTES = 65_536  # the library reads up to a hundred of these before it looks at a packet's length
CONNACK_POLL_MS = 100
PROTOCOLS = {"auto": (mqtt.MQTTv5, mqtt.MQTTv311), "5": (mqtt.MQTTv5,), "3.1.1": (mqtt.MQTTv311,)}
_PROTOCOL_REFUSED = "Unsupported protocol version"


class BrokerRefusedError(EdgeError):
    """The broker answered and said no."""


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
        will: Message,
        on_acknowledged: Callable[[int, Any], None] = lambda _packet_id, _reason: None,
        on_request: Callable[[CommandRequest], None] | None = None,
    ) -> None:
        """Set up callbacks, called from `read`; raise ConfigError where credentials or certificates are unusable."""
        self._settings = settings
        self._client_id = client_id
        self._will = will
        self._on_acknowledged = on_acknowledged
        self._on_request = on_request
        self._protocols = list(PROTOCOLS[settings.version])
        self._connack: Any = None
        self._client: mqtt.Client  # from `open` on
        self.window = settings.in_flight  # messages that may be unacknowledged at once
        self._max_packet_bytes: int | None = None  # that the broker accepts; None: no limit named
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
            client = self._connect(protocol)
            if self._connack is not None and not self._connack.is_failure:
                self._protocols.sort(key=lambda each: each != protocol)  # what worked is tried first the next time
                # With this set, the library leaves writing to us: several packets at once, not one for each message.
                client.on_socket_register_write = lambda *_: None
                self._client = client
                return
            client.disconnect()
            if self._connack is not None and str(self._connack) != _PROTOCOL_REFUSED:
                break  # old brokers refuse version 5, or just hang up; this one says something else
        if self._connack is None:
            raise UnansweredError("it hung up on CONNECT, or did not answer; see the broker's log")
        raise BrokerRefusedError(
            f"it refused the connection: {self._connack}; check user name, password and the broker's log"
        )

    def close(self) -> None:
        self._client.on_socket_register_write = None
        self._client.disconnect()

    def _connect(self, protocol: Any) -> mqtt.Client:
        """Connect with one MQTT version and wait for CONNACK."""
        client = mqtt.Client(CallbackAPIVersion.VERSION2, self._client_id, protocol=protocol)
        client.connect_timeout = CONNECT_TIMEOUT_S if self.deadline_ns is None else LAST_CONNECT_TIMEOUT_S
        client.max_inflight_messages_set(self._settings.in_flight)
        client.will_set(self._will.topic, self._will.body, self._will.qos, self._will.retain)
        username, password = self._settings.credentials()  # read again, as they may have been renewed
        if username is not None:
            client.username_pw_set(username, password)
        if self._settings.tls:
            client.tls_set_context(tls_context(self._settings))
        client.on_connect = self._on_connack
        client.on_publish = lambda _client, _userdata, mid, reason, _properties: self._on_acknowledged(mid, reason)
        client.on_message = self._on_message
        self._connack = None
        client.connect(self._settings.host, self._settings.port, KEEPALIVE_S, properties=_limits(protocol))
        if isinstance(connection := client.socket(), socket.socket):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
        self._await_connack(client)
        return client

    def _on_connack(self, client: Any, userdata: Any, flags: Any, reason: Any, properties: Any) -> None:  # noqa: ARG002
        self._connack = reason
        # MQTT 5: the broker may allow fewer unacknowledged messages than we would send.
        self.window = min(self._settings.in_flight, getattr(properties, "ReceiveMaximum", self._settings.in_flight))
        self._max_packet_bytes = getattr(properties, "MaximumPacketSize", None)

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
            self._client.subscribe([(topic, options) for topic in topics])

    def publish(self, message: Message) -> int:
        """Queue a message for the socket; return its packet id. Raises ConnectionError when the connection is lost."""
        properties = packed_properties(message.content_type, message.expiry_s, message.correlation)
        info = self._client.publish(message.topic, message.body, message.qos, message.retain, properties)
        if info.rc != mqtt.MQTT_ERR_SUCCESS:
            raise ConnectionError(mqtt.error_string(info.rc))
        return info.mid

    def refusal(self, message: Message) -> str | None:
        """Return why the broker would end the connection over a message, and the next one again; None if it would not.

        It names in CONNACK how long a packet may be (MQTT 5).
        """
        if self._max_packet_bytes is None:
            return None
        properties = packed_properties(message.content_type, message.expiry_s, message.correlation)
        size = PUBLISH_HEAD_BYTES + len(message.topic.encode()) + len(properties.pack()) + len(message.body)
        if size <= self._max_packet_bytes:
            return None
        return f"it accepts packets of at most {self._max_packet_bytes} bytes"

    @property
    def wants_write(self) -> bool:
        """True while packets are queued for the socket."""
        return self._client.want_write()

    def write(self) -> None:
        self._client.loop_write()

    def read(self) -> None:
        """Read what has arrived; raise OSError where a packet is longer than any request may be."""
        _read(self._client)

    def keep_alive(self) -> int:
        """Ping the broker when that is due; return the socket's descriptor. Raises ConnectionError when it is lost."""
        connection = self._client.socket()
        if self._client.loop_misc() != mqtt.MQTT_ERR_SUCCESS or connection is None:
            raise ConnectionError("connection lost")
        descriptor: int = connection.fileno()
        return descriptor


def try_connection(settings: MqttSettings) -> str:
    """Connect to the broker once; return its address and MQTT version. Raises OSError or EdgeError on failure."""
    connection = MqttConnection(settings, "", Message("edge/check", b""))
    connection.open()
    connection.close()
    return f"{settings.shown} accepts MQTT {connection.version}"


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
    announced = client._in_packet["remaining_length"]  # noqa: SLF001 -- the library itself takes up to 256 MB
    if announced > MAX_PACKET_BYTES:
        raise ConnectionError(f"it sends a packet of {announced} bytes; wanted at most {MAX_PACKET_BYTES}")
