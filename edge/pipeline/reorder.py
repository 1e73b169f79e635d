"""A stream's results back in capture order, after several lanes have worked on them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge.core.records import Result

Publish = Callable[[Result], None]
Passes = Callable[[Result], bool]


class ReorderBuffer:
    """Publishes results in the order of their tickets and numbers them; bounded by making early lanes wait.

    A frame that failed is handed in as None: its place is freed, and it takes no number. Nor does a result that the
    filter withholds.
    """

    def __init__(
        self,
        publish: Publish,
        capacity: int,
        passes: Passes = lambda _: True,
        withhold: Publish = lambda _: None,
    ) -> None:
        """Take `publish`, called for one result at a time, and how many results may wait for a late one.

        `passes` decides for each result, in capture order, whether it is published; `withhold` gets the others.
        """
        self._publish = publish
        self._passes = passes
        self._withhold = withhold
        self._capacity = capacity
        self._turn = threading.Condition()
        self._waiting: dict[int, Result | None] = {}
        self._next_ticket = 0
        self.next_seq = 0  # may be set before the first result
        self._open = True

    def hand_in(self, ticket: int, result: Result | None) -> bool:
        """Accept a frame's result, or None for a frame without one; return False after `close`."""
        with self._turn:
            # A frame that failed never waits: its lane may hold the very frame that is waited for.
            while self._open and result is not None and ticket != self._next_ticket and self._is_full:
                self._turn.wait()
            if not self._open:  # another stream of this name may be giving its numbers
                return False
            self._waiting[ticket] = result
            while self._next_ticket in self._waiting:
                self._release(self._waiting.pop(self._next_ticket))
            return True

    @property
    def _is_full(self) -> bool:
        return len(self._waiting) >= self._capacity

    def _release(self, result: Result | None) -> None:
        self._next_ticket += 1
        self._turn.notify_all()
        if result is None:
            return
        if not self._passes(result):
            self._withhold(result)
            return
        result.seq = self.next_seq
        self.next_seq += 1
        self._publish(result)

    def close(self) -> None:
        """Publish the results that wait, let no lane wait any more, and forget `publish`."""
        with self._turn:
            self._open = False
            for ticket in sorted(self._waiting):
                self._next_ticket = ticket
                self._release(self._waiting.pop(ticket))
            self._publish = _discard  # whose owner would otherwise be kept alive
            self._turn.notify_all()


def _discard(result: Result) -> None:
    """Publish to nobody."""
