"""Stands before a broker and gives its answers on late, for a broker that answers before it has done what it says.

Mosquitto acknowledges a message, then writes it down: what it takes in the moment before it is killed may be in no
file, and still on its way to the subscriber, whose connection breaks. With its answers held back for longer than it
takes to do both, an acknowledgement that arrives can be relied on; those that are held back when it dies are lost.
"""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time
from collections import deque
from collections.abc import Iterator

DELAY_S = 0.5


@contextlib.contextmanager
def late_answers(broker_port: int) -> Iterator[int]:
    """Give the port to connect to instead."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=_accept, args=(server, broker_port), daemon=True).start()
        yield server.getsockname()[1]


def _accept(server: socket.socket, broker_port: int) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = server.accept()
            try:
                broker = socket.create_connection(("127.0.0.1", broker_port))
            except OSError:
                client.close()
                continue
            threading.Thread(target=_forward, args=(client, broker), daemon=True).start()
            threading.Thread(target=_answer, args=(broker, client), daemon=True).start()


def _forward(client: socket.socket, broker: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while piece := client.recv(65536):
            broker.sendall(piece)
    _shut(client, broker)


def _answer(broker: socket.socket, client: socket.socket) -> None:
    held = deque[tuple[float, bytes]]()
    with contextlib.suppress(OSError):
        while True:
            if select.select([broker], [], [], max(held[0][0] - time.monotonic(), 0) if held else None)[0]:
                piece = broker.recv(65536)
                if not piece:
                    break
                held.append((time.monotonic() + DELAY_S, piece))
            while held and held[0][0] <= time.monotonic():
                client.sendall(held.popleft()[1])
    _shut(client, broker)


def _shut(*ends: socket.socket) -> None:
    for each in ends:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
