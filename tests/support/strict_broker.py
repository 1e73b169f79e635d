"""A small broker of MQTT 5 or 3.1.1 with rules of its own, and what it saw."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.raw_broker import packet, text, varint

TOPIC_LENGTH = struct.Struct("!H")


@dataclass
class Will:
    """The last will of one CONNECT."""

    client_id: str
    qos: int
    retain: bool
    topic: str = field(default="", compare=False)  # empty without a will


@dataclass
class Publication:
    """One PUBLISH."""

    topic: str
    body: bytes
    qos: int
    retain: bool


@dataclass
class StrictBroker:
    """Takes connections one after another; the rules may be changed between them."""

    connack: Callable[[Will], int | None] = lambda _will: 0  # reason code; None: it hangs up
    properties: bytes = b""  # of CONNACK (MQTT 5)
    objects: Callable[[Publication], bool] = lambda _publication: False  # it hangs up upon this message
    goodbye: int | None = None  # reason code of DISCONNECT, with which it answers each message (MQTT 5)
    suback: int = 1
    after_suback: bytes = b""
    wills: list[Will] = field(default_factory=list)
    publications: list[Publication] = field(default_factory=list)
    acknowledged: list[int] = field(default_factory=list)  # packet ids of our own messages that the client has
    hung_up: int = 0

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def topics(self) -> list[str]:
        return [each.topic for each in self.publications]

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                with connection, contextlib.suppress(OSError, EOFError):
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        is_5, is_up = False, True
        while is_up:
            head, body = _receive(connection)
            kind = head >> 4
            if kind == 1:
                is_5 = body[6] == 5
                is_up = self._accept(connection, _will(body), is_5=is_5)
            elif kind == 3:
                is_up = self._take(connection, *_publication(head, body, is_5=is_5), is_5=is_5)
            elif kind == 4:
                self.acknowledged.append(int.from_bytes(body[:2], "big"))
            elif kind == 8:
                connection.sendall(packet(0x90, body[:2] + (b"\0" if is_5 else b"") + bytes([self.suback])))
                connection.sendall(self.after_suback)
            elif kind == 12:
                connection.sendall(b"\xd0\0")

    def _accept(self, connection: socket.socket, will: Will, *, is_5: bool) -> bool:
        """Answer a CONNECT; return whether the connection goes on."""
        self.wills.append(will)
        reason = self.connack(will)
        if reason is not None:
            more = varint(len(self.properties)) + self.properties if is_5 else b""
            connection.sendall(packet(0x20, bytes([0, reason]) + more))
        return reason == 0

    def _take(self, connection: socket.socket, publication: Publication, packet_id: bytes, *, is_5: bool) -> bool:
        """Answer a PUBLISH; return whether the connection goes on."""
        if self.objects(publication):
            self.hung_up += 1
            return False
        self.publications.append(publication)
        if self.goodbye is not None and is_5:
            connection.sendall(packet(0xE0, bytes([self.goodbye])))
            return False
        if packet_id:
            connection.sendall(packet(0x40, packet_id))
        return True


def incoming(topic: bytes, body: bytes, packet_id: int) -> bytes:
    """Return a PUBLISH of QoS 1 (MQTT 3.1.1) that a broker sends."""
    return packet(0x32, text(topic) + packet_id.to_bytes(2, "big") + body)


def _receive(connection: socket.socket) -> tuple[int, bytes]:
    head = _exactly(connection, 1)[0]
    length = shift = 0
    while True:
        digit = _exactly(connection, 1)[0]
        length |= (digit & 0x7F) << shift
        shift += 7
        if not digit & 0x80:
            return head, _exactly(connection, length)


def _exactly(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        more = connection.recv(size - len(received))
        if not more:
            raise EOFError
        received += more
    return received


def _will(connect: bytes) -> Will:
    flags, at = connect[7], 10
    if connect[6] == 5:
        at += 1 + connect[at]
    size = TOPIC_LENGTH.unpack_from(connect, at)[0]
    client_id, at = connect[at + 2 : at + 2 + size].decode(), at + 2 + size
    topic = ""
    if flags & 4:
        at += 1 + connect[at] if connect[6] == 5 else 0
        topic = connect[at + 2 : at + 2 + TOPIC_LENGTH.unpack_from(connect, at)[0]].decode()
    return Will(client_id, flags >> 3 & 3, bool(flags & 0x20), topic)


def _publication(head: int, body: bytes, *, is_5: bool) -> tuple[Publication, bytes]:
    at = 2 + TOPIC_LENGTH.unpack_from(body)[0]
    topic, packet_id, qos = body[2:at].decode(), b"", head >> 1 & 3
    if qos:
        packet_id, at = body[at : at + 2], at + 2
    if is_5:
        at += 1 + body[at]
    return Publication(topic, body[at:], qos, bool(head & 1)), packet_id
