"""Waits with a deadline, and ports."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

PATIENCE_S = 60.0  # ends a test that would hang; no promise of speed


POLL_S = 0.05


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


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
