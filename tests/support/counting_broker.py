"""A broker that takes connections and messages, and acknowledges none."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any


class CountingBroker:
    """Speaks just enough MQTT 5 to take a connection, with what its CONNACK says besides."""

    def __init__(self, properties: bytes = b"") -> None:
        self.topics: list[str] = []
        self.packets: list[bytes] = []  # as they came, but for their heads
        self._connack = bytes([0x20, 3 + len(properties), 0, 0, len(properties)]) + properties
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError, EOFError):
            connection, _ = self._server.accept()
            with connection.makefile("rb") as stream:
                while head := stream.read(1):
                    body = stream.read(_remaining_length(stream))
                    if head[0] >> 4 == 1:
                        connection.sendall(self._connack)
                    elif head[0] >> 4 == 3:
                        self.packets.append(body)
                        self.topics.append(body[2 : 2 + int.from_bytes(body[:2], "big")].decode())


def _remaining_length(stream: Any) -> int:
    length = shift = 0
    while True:
        byte: int = stream.read(1)[0]
        length |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return length
