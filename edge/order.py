"""A stream's results back in capture order, after several lanes have worked on them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge.records import Result


class Order:
    """Publishes results in the order of their tickets and numbers them; bounded by making early lanes wait.

    A frame that failed is handed in as None: its place is freed, and no number is spent on it.
    """

    def __init__(self, publish: Callable[[Result], None], places: int) -> None:
        """Take `publish`, which is called for one result at a time, and how many results may wait for a late one."""
        self._publish = publish
        self._places = places
        self._turn = threading.Condition()
        self._waiting: dict[int, Result | None] = {}
        self._next_ticket = 0
        self._next_seq = 0
        self._open = True

    def hand_in(self, ticket: int, result: Result | None) -> None:
        with self._turn:
            while self._open and ticket != self._next_ticket and len(self._waiting) >= self._places:
                self._turn.wait()
            self._waiting[ticket] = result
            while self._next_ticket in self._waiting:
                self._release(self._waiting.pop(self._next_ticket))

    def _release(self, result: Result | None) -> None:
        self._next_ticket += 1
        self._turn.notify_all()
        if result is not None:
            result.seq = self._next_seq
            self._next_seq += 1
            self._publish(result)

    def close(self) -> None:
        """Let no lane wait any more."""
        with self._turn:
            self._open = False
            self._turn.notify_all()
