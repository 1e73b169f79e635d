"""What waits to be sent, in memory."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from edge.clock import now_ns
from edge.records import Message, OutboxState


class Outbox:
    """What waits to be sent; when it is full, the oldest message that is not retained is dropped and counted."""

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._lock = threading.Lock()
        self._messages: deque[Message] = deque()
        self._retained: dict[str, Message] = {}  # the newest of each topic, for a broker that has forgotten
        self._bytes = 0
        self._dropped = 0

    def put(self, message: Message) -> None:
        with self._lock:
            if message.retain:
                self._forget(self._retained.get(message.topic))
                self._retained[message.topic] = message
            self._messages.append(message)
            self._bytes += len(message.body)
            self._hold_bound()

    def _forget(self, older: Message | None) -> None:
        """Take out a retained message that a newer one of its topic stands for."""
        before = len(self._messages)
        self._messages = deque(each for each in self._messages if each is not older)
        if older is not None and len(self._messages) < before:
            self._bytes -= len(older.body)

    def _hold_bound(self) -> None:
        """Drop the oldest messages that are not retained until no more than the bound wait, or none of them is left."""
        excess = len(self._messages) - self._bound
        kept: list[Message] = []
        while excess > 0 and self._messages:
            message = self._messages.popleft()
            if message.retain:
                kept.append(message)
                continue
            excess -= 1
            self._bytes -= len(message.body)
            self._dropped += 1
        self._messages.extendleft(reversed(kept))

    def pop(self) -> Message | None:
        with self._lock:
            if not self._messages:
                return None
            message = self._messages.popleft()
            self._bytes -= len(message.body)
            return message

    def put_back(self, messages: Iterable[Message]) -> None:
        """Put messages that were not acknowledged before all others, oldest first."""
        with self._lock:
            for message in reversed(list(messages)):
                self._messages.appendleft(message)
                self._bytes += len(message.body)
            self._hold_bound()

    def renew_retained(self) -> None:
        """Put the newest message of each retained topic first: a new connection starts with them."""
        with self._lock:
            rest = [message for message in self._messages if not message.retain]
            self._messages = deque([*self._retained.values(), *rest])
            self._bytes = sum(len(message.body) for message in self._messages)
            self._hold_bound()

    def count_dropped(self, messages: int) -> None:
        with self._lock:
            self._dropped += messages

    def state(self, in_flight: list[Message]) -> OutboxState:
        """Tell what waits here and what was sent without an acknowledgement yet."""
        with self._lock:
            oldest_ns = min((message.made_ns for message in (*in_flight, *self._messages)), default=None)
            oldest_s = None if oldest_ns is None else round((now_ns() - oldest_ns) / 1e9, 3)
            in_flight_bytes = sum(len(message.body) for message in in_flight)
            return OutboxState(
                len(self._messages) + len(in_flight),
                self._bytes + in_flight_bytes,
                oldest_s,
                self._dropped,
            )
