"""What waits in memory, by kind: what goes out first, and what is given up first. Not safe for threads by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator

from edge.core.records import MESSAGE_KINDS, Message


class ByKind:
    """Messages in order within each kind."""

    def __init__(self) -> None:
        self._kinds: dict[str, deque[Message]] = {kind: deque() for kind in MESSAGE_KINDS}
        self.bytes = 0
        self.count = 0
        self.durable = 0  # of them, those that must not get lost

    def add(self, message: Message) -> None:
        self._kinds[message.kind].append(message)
        self._counted(message, 1)

    def add_first(self, message: Message) -> None:
        self._kinds[message.kind].appendleft(message)
        self._counted(message, 1)

    def pop(self) -> Message | None:
        """Take the oldest of the kind that goes out first."""
        for queue in self._kinds.values():
            if queue:
                return self._taken(queue.popleft())
        return None

    def pop_least(self, kind: str) -> Message | None:
        """Take the oldest of a kind."""
        queue = self._kinds[kind]
        return self._taken(queue.popleft()) if queue else None

    def take_durable(self, limit_bytes: int) -> list[Message]:
        """Take messages that must not get lost, of about so many bytes, what goes out first before the rest."""
        taken, room, durable = list[Message](), limit_bytes, self.durable
        for queue in self._kinds.values():
            stay = list[Message]()
            while queue and room > 0 and len(taken) < durable:
                message = queue.popleft()
                if message.qos:
                    taken.append(self._taken(message))
                    room -= len(message.body)
                else:
                    stay.append(message)
            queue.extendleft(reversed(stay))
        return taken

    def __iter__(self) -> Iterator[Message]:
        for queue in self._kinds.values():
            yield from queue

    def oldest(self) -> Iterator[Message]:
        """Yield the oldest of each kind."""
        return (queue[0] for queue in self._kinds.values() if queue)

    def _taken(self, message: Message) -> Message:
        self._counted(message, -1)
        return message

    def _counted(self, message: Message, sign: int) -> None:
        self.count += sign
        self.durable += sign * (message.qos > 0)
        self.bytes += sign * len(message.body)


class Waiting:
    """Everything that waits in memory.

    `live` came from this process; `left` from an earlier one, by its journal; `ahead` was read from the disk, where it
    still lies. Of retained messages the newest of each topic waits.
    """

    def __init__(self) -> None:
        self.live, self.left, self.ahead = ByKind(), ByKind(), ByKind()
        self._retained: dict[str, Message] = {}

    def add(self, message: Message) -> None:
        if message.retain:
            self._retained.pop(message.topic, None)
            self._retained[message.topic] = message
        else:
            self.live.add(message)

    def renew(self, retained: Iterable[Message]) -> None:
        """Let these go out before all others."""
        self._retained = {message.topic: message for message in retained}

    def put_back(self, messages: Iterable[Message]) -> None:
        """Put back what was taken, before all others of its kind, oldest first."""
        for message in reversed(list(messages)):
            if message.retain:
                self._retained.setdefault(message.topic, message)
            elif message.is_shelved:
                self.ahead.add_first(message)
            elif message.is_backlog:
                self.left.add_first(message)
            else:
                self.live.add_first(message)

    def pop(self, *, backlog: bool) -> Message | None:
        if self._retained:
            return self._retained.pop(next(iter(self._retained)))
        message = self.live.pop()
        if message is None and backlog:
            message = self.left.pop() or self.ahead.pop()
        return message

    def has_any(self, *, backlog: bool) -> bool:
        """Tell whether `pop` would return a message."""
        ready = len(self._retained) + self.live.count
        return ready + (self.left.count + self.ahead.count if backlog else 0) > 0

    def drop_to(self, bound: int) -> list[Message]:
        """Take out, and return, what is more than the bound: what goes out last, and of that the oldest."""
        dropped = list[Message]()
        for kind in reversed(MESSAGE_KINDS):
            for queue in (self.left, self.live):
                while self.count > bound and (message := queue.pop_least(kind)) is not None:
                    dropped.append(message)
        return dropped

    def take_durable(self, limit_bytes: int) -> list[Message]:
        """Take what is to go to the disk, what an earlier process left before the rest."""
        taken = self.left.take_durable(limit_bytes)
        return taken + self.live.take_durable(limit_bytes - sum(len(message.body) for message in taken))

    @property
    def count(self) -> int:
        """How many wait that are nowhere else but perhaps in the journal."""
        return len(self._retained) + self.live.count + self.left.count

    @property
    def durable(self) -> int:
        """How many of them the disk would take."""
        return self.live.durable + self.left.durable

    @property
    def bytes(self) -> int:
        return sum(len(message.body) for message in self._retained.values()) + self.live.bytes + self.left.bytes

    def oldest(self) -> Iterator[Message]:
        yield from self._retained.values()
        yield from self.live.oldest()
        yield from self.left.oldest()
