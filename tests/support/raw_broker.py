"""A broker that speaks nonsense: malformed MQTT, by seed, to whoever connects."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable

CONNACK_5 = b"\x20\x03\x00\x00\x00"
CONNACK_3 = b"\x20\x02\x00\x00"
PATIENCE_S = 0.05  # for what the client has to say before the next packet
UNKNOWN_IDS = range(60_000, 65_536)  # far from any that a short test sends

Nonsense = Callable[[random.Random], bytes]


def varint(number: int) -> bytes:
    """Encode a remaining length, or one that is too long to be one."""
    encoded = b""
    while True:
        number, digit = divmod(number, 128)
        encoded += bytes([digit | (0x80 if number else 0)])
        if not number:
            return encoded


def packet(head: int, body: bytes) -> bytes:
    return bytes([head]) + varint(len(body)) + body


def text(content: bytes) -> bytes:
    return struct.pack("!H", len(content)) + content


def unknown_id(dice: random.Random) -> bytes:
    return struct.pack("!H", dice.choice(UNKNOWN_IDS))


def publish(dice: random.Random, topic: bytes, properties: bytes = b"\x00", qos: int = 0) -> bytes:
    number = unknown_id(dice) if qos else b""
    return packet(0x30 | qos << 1, text(topic) + number + properties + b"body")


NONSENSE: dict[str, Nonsense] = {
    "random bytes": lambda dice: dice.randbytes(dice.randint(1, 300)),
    "a random body": lambda dice: packet(dice.randrange(256), dice.randbytes(dice.randint(0, 60))),
    "a length of five bytes": lambda dice: bytes([dice.randrange(256)]) + b"\xff\xff\xff\xff\x7f",
    "a huge length": lambda dice: bytes([dice.choice([0x30, 0x40, 0x90])]) + varint(268_435_455) + dice.randbytes(2000),
    "a length that is too short": lambda _dice: b"\x30\x03" + text(b"edge/dev/cmd/reload") + b"\x00{}",
    "a length that is too long": lambda _dice: b"\x30\x7f" + text(b"edge/dev/cmd/reload") + b"\x00{}",
    "an answer to nothing": lambda dice: packet(dice.choice([0x40, 0x50, 0x62, 0x70]), unknown_id(dice)),
    "an answer without an id": lambda dice: packet(dice.choice([0x40, 0x50, 0x62, 0x70, 0x90]), dice.randbytes(1)),
    "a topic that is no UTF-8": lambda dice: publish(dice, b"edge/dev/cmd/\xff\xfe\xc3"),
    "a topic with wildcards": lambda dice: publish(dice, b"edge/#/+", qos=1),
    "a topic with a zero byte": lambda dice: publish(dice, b"edge/\0/cmd", qos=1),
    "no topic": lambda dice: publish(dice, b""),
    "a topic past the end": lambda _dice: packet(0x30, b"\xff\xff" + b"edge"),
    "a QoS of 3": lambda dice: publish(dice, b"edge/dev/cmd/reload", qos=3),
    "an unknown property": lambda dice: publish(dice, b"edge/dev/cmd/reload", b"\x02\x7f\x01"),
    "properties past the end": lambda dice: publish(dice, b"edge/dev/cmd/reload", b"\x7f\x08\xff\xff"),
    "a response topic that is no UTF-8": lambda dice: publish(dice, b"edge/dev", b"\x05\x08\x00\x02\xff\xfe"),
    "a property twice": lambda dice: publish(dice, b"edge/dev/cmd/x", b"\x04\x01\x00\x01\x01"),
    "properties of random bytes": lambda dice: publish(dice, b"edge/dev/cmd/x", varint(9) + dice.randbytes(9), qos=1),
    "a subscription that nobody made": lambda dice: packet(0x90, unknown_id(dice) + b"\x00\x00"),
    "what only clients send": lambda dice: packet(dice.choice([0x10, 0x82, 0xA2, 0xC0]), dice.randbytes(10)),
    "a goodbye of random bytes": lambda dice: packet(0xE0, dice.randbytes(dice.randint(1, 20))),
    "an authentication": lambda _dice: packet(0xF0, b"\x18\x00"),
    "a ping answer with a body": lambda dice: packet(0xD0, dice.randbytes(5)),
    "nothing": lambda _dice: b"",
    "a second CONNACK": lambda _dice: CONNACK_5,
}  # fmt: skip
NO_CONNACK: dict[str, Nonsense] = {
    "random bytes": NONSENSE["random bytes"],
    "a CONNACK of random bytes": lambda dice: packet(0x20, dice.randbytes(dice.randint(0, 40))),
    "a CONNACK of an unknown reason": lambda dice: packet(0x20, b"\x00" + bytes([dice.randrange(1, 256)]) + b"\x00"),
    "a CONNACK with bad properties": lambda dice: packet(0x20, b"\x00\x00\x14" + dice.randbytes(dice.randint(0, 20))),
    "half a CONNACK": lambda dice: CONNACK_5[: dice.randint(1, 4)],
    "a publication before CONNACK": lambda dice: publish(dice, b"edge/dev/cmd/reload"),
    "nothing": lambda _dice: b"",
}  # fmt: skip


def flipped(dice: random.Random, good: bytes) -> bytes:
    """Change a few bits of a packet."""
    changed = bytearray(good)
    for _ in range(dice.randint(1, 3)):
        if changed:
            changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
    return bytes(changed)


class RawBroker:
    """Takes connections one after another, and sends each its share of nonsense; counts what it sent."""

    def __init__(self, port: int, seed: int) -> None:
        self._dice = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", port))
        self.packets = 0
        self.connections = 0
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self.connections += 1
                with connection, contextlib.suppress(OSError):
                    connection.settimeout(PATIENCE_S)
                    self._talk(connection)

    def _talk(self, connection: socket.socket) -> None:
        hello = connection.recv(4096)
        is_5 = b"MQTT\x05" in hello
        if self._dice.random() < 0.25:
            self._send(connection, self._dice.choice(list(NO_CONNACK.values())))
            return
        connection.sendall(CONNACK_5 if is_5 else CONNACK_3)
        for _ in range(self._dice.randint(1, 4)):
            with contextlib.suppress(TimeoutError):
                if not connection.recv(65_536):
                    return
            self._send(connection, self._dice.choice(list(NONSENSE.values())))

    def _send(self, connection: socket.socket, nonsense: Nonsense) -> None:
        sent = nonsense(self._dice)
        connection.sendall(flipped(self._dice, sent) if self._dice.random() < 0.2 else sent)
        self.packets += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
