"""Queue of the messages in memory, by priority: first out, and first dropped. Not safe for threads by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from edge.core.records import MESSAGE_KINDS
from edge.mqtt.outbox.entry import Entry


class PriorityQueue:
    """Entries first in, first out within each kind; the kinds in the order of their priority."""

    def __init__(self) -> None:
        self._kinds: dict[str, deque[Entry]] = {kind: deque() for kind in MESSAGE_KINDS}
        self.bytes = 0
        self.count = 0
        self.durable = 0  # of them, those that must not get lost

    def add(self, entry: Entry) -> None:
        self._kinds[entry.message.kind].append(entry)
        self._count(entry, 1)

    def add_first(self, entry: Entry) -> None:
        self._kinds[entry.message.kind].appendleft(entry)
        self._count(entry, 1)

    def pop(self) -> Entry | None:
        """Remove and return the oldest entry of the highest priority."""
        for queue in self._kinds.values():
            if queue:
                return self._removed(queue.popleft())
        return None

    def pop_kind(self, kind: str) -> Entry | None:
        """Remove and return the oldest entry of a kind."""
        queue = self._kinds[kind]
        return self._removed(queue.popleft()) if queue else None

    def drain_durable(self, limit_bytes: int) -> list[Entry]:
        """Remove and return entries that must not get lost, of about so many bytes, by priority."""
        drained, room, durable = list[Entry](), limit_bytes, self.durable
        for queue in self._kinds.values():
            stay = list[Entry]()
            while queue and room > 0 and len(drained) < durable:
                entry = queue.popleft()
                if entry.message.qos:
                    drained.append(self._removed(entry))
                    room -= len(entry.message.body)
                else:
                    stay.append(entry)
            queue.extendleft(reversed(stay))
        return drained

    def __iter__(self) -> Iterator[Entry]:
        for queue in self._kinds.values():
            yield from queue

    def oldest(self) -> Iterator[Entry]:
        """Yield the oldest entry of each kind."""
        return (queue[0] for queue in self._kinds.values() if queue)

    def _removed(self, entry: Entry) -> Entry:
        self._count(entry, -1)
        return entry

    def _count(self, entry: Entry, sign: int) -> None:
        message = entry.message
        self.count += sign
        self.durable += sign * (message.qos > 0)
        self.bytes += sign * len(message.body)


class MemoryQueue:
    """Everything that waits in memory.

    `live` came from this process, `left` from an earlier one by way of its journal; `ahead` was read from the disk,
    where it still lies. `held` has another destination and is not sent. Of retained messages, the newest of each topic
    waits.
    """

    def __init__(self) -> None:
        self.live, self.left, self.ahead, self.held = (PriorityQueue() for _ in range(4))
        self._retained: dict[str, Entry] = {}

    def add(self, entry: Entry) -> None:
        if entry.message.retain:
            self._retained.pop(entry.message.topic, None)
            self._retained[entry.message.topic] = entry
        else:
            self.live.add(entry)

    def renew(self, retained: Iterable[Entry]) -> None:
        """Put these retained messages before all others."""
        self._retained = {entry.message.topic: entry for entry in retained}

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put popped entries, oldest first, before all others of their kind."""
        for entry in reversed(list(entries)):
            if entry.message.retain:
                self._retained.setdefault(entry.message.topic, entry)
            elif entry.is_spooled:
                self.ahead.add_first(entry)
            elif entry.destination is not None:
                self.held.add_first(entry)
            elif entry.is_backlog:
                self.left.add_first(entry)
            else:
                self.live.add_first(entry)

    def pop(self, *, backlog: bool) -> Entry | None:
        if self._retained:
            return self._retained.pop(next(iter(self._retained)))
        entry = self.live.pop()
        if entry is None and backlog:
            entry = self.left.pop() or self.ahead.pop()
        return entry

    def has_any(self, *, backlog: bool) -> bool:
        """Return whether `pop` would return an entry."""
        ready = len(self._retained) + self.live.count
        return ready + (self.left.count + self.ahead.count if backlog else 0) > 0

    def drop_to(self, bound: int) -> list[Entry]:
        """Remove and return what exceeds the bound, by lowest priority, oldest first."""
        dropped = list[Entry]()
        for kind in reversed(MESSAGE_KINDS):
            for queue in (self.left, self.live):
                while self.count > bound and (entry := queue.pop_kind(kind)) is not None:
                    dropped.append(entry)
        return dropped

    def drain_durable(self, limit_bytes: int) -> list[Entry]:
        """Remove and return what is to go to the disk, what an earlier process left before the rest."""
        drained = list[Entry]()
        for queue in (self.held, self.left, self.live):
            drained += queue.drain_durable(limit_bytes - sum(len(entry.message.body) for entry in drained))
        return drained

    @property
    def count(self) -> int:
        """Number of entries to send that are nowhere else but perhaps in the journal."""
        return len(self._retained) + self.live.count + self.left.count

    @property
    def durable(self) -> int:
        """Number of them that the disk would accept."""
        return self.live.durable + self.left.durable + self.held.durable

    @property
    def bytes(self) -> int:
        return sum(len(entry.message.body) for entry in self._retained.values()) + self.live.bytes + self.left.bytes

    def oldest(self) -> Iterator[Entry]:
        yield from self._retained.values()
        yield from self.live.oldest()
        yield from self.left.oldest()
