"""Waits with a deadline, and ports."""

from __future__ import annotations

import contextlib
import secrets
import socket
import time
from collections.abc import Callable

PATIENCE_S = 60.0  # ends a test that would hang; no promise of speed


POLL_S = 0.05


# Below the ports that the kernel gives to connections and to whoever binds port 0.
_PORTS = list(range(10_000, 32_000))
_RESERVED: list[socket.socket] = []


def free_port() -> int:
    """Return a port that nothing listens on, and that is given to no other test of this machine."""
    while True:
        port = secrets.choice(_PORTS)
        # A name in the kernel's own space is one process's until that ends, whoever asks meanwhile.
        mine = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.socket() as probe:
            mine.bind(f"\0edge-tests-port-{port}")
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
            probe.bind(("127.0.0.1", port))
            _RESERVED.append(mine)
            return port
        mine.close()


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds; fail saying what did not come."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f"waited {timeout_s:g} s for: {what}"
        time.sleep(POLL_S)


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False
