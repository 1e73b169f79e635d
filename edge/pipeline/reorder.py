"""A stream's results back in capture order, after several lanes have worked on them at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

from edge.core.records import Result


class ReorderBuffer:
    """Publishes results in the order of their tickets and numbers them; bounded by making early lanes wait.

    A frame that failed is handed in as None: its place is freed, and no number is spent on it. Nor is one spent on a
    result that the gate keeps back.
    """

    def __init__(
        self, publish: Callable[[Result], None], places: int, passes: Callable[[Result], bool] = lambda _: True
    ) -> None:
        """Take `publish`, which is called for one result at a time, and how many results may wait for a late one.

        `passes` is asked about each result in capture order, and answers whether it is to be published.
        """
        self._publish = publish
        self._passes = passes
        self._places = places
        self._turn = threading.Condition()
        self._waiting: dict[int, Result | None] = {}
        self._next_ticket = 0
        self.next_seq = 0  # may be set before the first result
        self._open = True

    def hand_in(self, ticket: int, result: Result | None) -> bool:
        """Take a frame's result, or None for a frame that gives none; False where it comes after `close`."""
        with self._turn:
            # A frame that failed never waits: its lane may hold the very frame that is waited for.
            while (
                self._open and result is not None and ticket != self._next_ticket and len(self._waiting) >= self._places
            ):
                self._turn.wait()
            if not self._open:  # another stream of this name may be giving its numbers
                return False
            self._waiting[ticket] = result
            while self._next_ticket in self._waiting:
                self._release(self._waiting.pop(self._next_ticket))
            return True

    def _release(self, result: Result | None) -> None:
        self._next_ticket += 1
        self._turn.notify_all()
        if result is not None and self._passes(result):
            result.seq = self.next_seq
            self.next_seq += 1
            self._publish(result)

    def close(self) -> None:
        """Publish what waits without what it waits for, let no lane wait any more, and let go of who was told."""
        with self._turn:
            self._open = False
            for ticket in sorted(self._waiting):
                self._next_ticket = ticket
                self._release(self._waiting.pop(ticket))
            self._publish, self._passes = _nobody, _none_passes
            self._turn.notify_all()


def _nobody(result: Result) -> None:
    """Stand where the publishing was."""


def _none_passes(result: Result) -> bool:  # noqa: ARG001 -- stands where the gate was
    return False
