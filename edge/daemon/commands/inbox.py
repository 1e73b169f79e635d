"""What came over MQTT and waits for the daemon's tick."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import replace

from edge.core.records import CommandRequest
from edge.daemon.commands.arguments import MOST_BYTES

MOST_WAITING = 64  # requests that came between two ticks


class Inbox:
    """A queue between two threads; when it is full, the newest is turned away with an answer, then only counted."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.lost = 0  # not even turned away with an answer
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[CommandRequest] = deque()
        self._turned_away: deque[CommandRequest] = deque()

    def put(self, request: CommandRequest) -> None:
        """Take a request; never waits."""
        if len(request.body) > MOST_BYTES:
            request = replace(request, body=request.body[: MOST_BYTES + 1])  # no more is kept of what is refused anyway
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(request)
            elif len(self._turned_away) < MOST_WAITING:
                self._turned_away.append(request)
            else:
                self.lost += 1
        self._wake()

    def take(self) -> tuple[CommandRequest, bool] | None:
        """Return the next request and whether there was room for it; None where none waits."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft(), True
            return (self._turned_away.popleft(), False) if self._turned_away else None
