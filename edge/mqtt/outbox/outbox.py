"""What waits to be sent, as those see it who hand messages over and who send them.

A message waits in memory, with a copy in the journal, so that the end of the process does not lose it. Where the broker
is away for longer than a moment, or more waits than memory may hold, `Shelving` moves it to the disk. What was made by
this process and lies in memory goes out first; the backlog, from the disk or from an earlier process, comes after it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence

from edge.core.clock import now_ns, wall_ns
from edge.core.records import DROP_REASONS, MESSAGE_KINDS, DiskState, DropReason, Message, MessageKind, OutboxState
from edge.mqtt.outbox.codec import pack, unpack
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.memory_queue import Waiting
from edge.mqtt.outbox.spool import Gone, Stock

# From this share of what memory or the journal may hold on, messages go to the disk.
HIGH_SHARE = 0.75
# With fewer of those that the disk takes, it could not help: the rest has QoS 0, and is searched through each time.
WORTH_SHARE = 1 / 16
LOW_AHEAD = 64  # so few messages of the disk in memory ask for more


class Outbox:
    """What waits to be sent; never waits for the disk. Without a journal and a disk, memory alone holds it."""

    def __init__(self, bound: int, journal: Journal | None = None) -> None:
        """Take how many messages may wait in memory: past that, the oldest of what goes out last are dropped."""
        self.bound = bound
        self._journal = journal
        self._lock = threading.Lock()
        self._waiting = Waiting()
        self._retained: dict[str, Message] = {}  # the newest of each topic, for a broker that has forgotten
        self._settled: dict[int, int] = {}  # key and bytes of what the broker took and the disk still holds
        self._number = wall_ns() // 1000  # so that no earlier process, which may have lost its files, had higher ones
        self._dropped_by_kind: dict[MessageKind, int] = dict.fromkeys(MESSAGE_KINDS, 0)
        self._dropped_by_cause: dict[DropReason, int] = dict.fromkeys(DROP_REASONS, 0)
        self._dropped_on_disk = 0  # for want of room
        self._without_copy = 0
        self._moving: list[Message] = []  # on their way from memory to the disk
        self._stock = Stock()
        self._disk: DiskState = "off"
        self.away_since_ns: int | None = now_ns()  # monotonic; None while the broker is there
        self.on_ready: Callable[[], None] = lambda: None  # called where the disk has given something to be sent
        self.on_pressure: Callable[[], None] = lambda: None  # called where the disk may have to do something
        if journal is not None:
            self._take_over(journal)
        self.first_number = self._number  # of this process

    def _take_over(self, journal: Journal) -> None:
        """Take what an earlier process left in the journal."""
        for at, number, data in journal.left():
            try:
                message = unpack(data, number)
            except ValueError:
                journal.remove(at)
                self._count(None, "damaged")
                continue
            message.copy_at = at
            self._waiting.left.add(message)
            self._number = max(self._number, number + 1)

    # Those who hand messages over

    def put(self, message: Message) -> None:
        with self._lock:
            message.number = self._number
            self._number += 1
            if message.retain:
                self._retained[message.topic] = message
            elif message.qos:
                self._copy(message)
            self._waiting.add(message)
            self._hold_bound()
            pressed = self._is_pressed()
        if pressed:
            self.on_pressure()

    def _copy(self, message: Message) -> None:
        if self._journal is not None:
            message.copy_at = self._journal.add(message.number, pack(message))
            self._without_copy += message.copy_at < 0

    def _hold_bound(self) -> None:
        if self._waiting.count > self.bound:
            self._forget(self._waiting.drop_to(self.bound))

    def _forget(self, messages: Iterable[Message]) -> None:
        for message in messages:
            self._uncopy(message)
            self._count(message.kind, "full")

    def _uncopy(self, message: Message) -> None:
        if self._journal is not None and message.copy_at >= 0:
            self._journal.remove(message.copy_at)
        message.copy_at = -1

    def _count(self, kind: MessageKind | None, reason: DropReason) -> None:
        if kind is not None:
            self._dropped_by_kind[kind] += 1
        self._dropped_by_cause[reason] += 1

    # The one who sends

    def pop(self, *, backlog: bool = True) -> Message | None:
        """Take what goes out next; of the backlog only where that is asked for."""
        with self._lock:
            message = self._waiting.pop(backlog=backlog)
            runs_dry = message is not None and message.is_shelved and self._waiting.ahead.count in (LOW_AHEAD, 0)
        if runs_dry:
            self.on_pressure()
        return message

    def has_waiting(self, *, backlog: bool) -> bool:
        """Tell whether `pop` would return a message."""
        return self._waiting.has_any(backlog=backlog)

    def put_back(self, messages: Iterable[Message]) -> None:
        """Put messages that were not acknowledged before all others of their kind, oldest first."""
        with self._lock:
            self._waiting.put_back(messages)
            self._hold_bound()

    def settle(self, message: Message, refused: DropReason | None = None) -> None:
        """Forget a message that the broker has taken, or refused for good."""
        with self._lock:
            self._uncopy(message)
            if refused is not None:
                self._count(message.kind, refused)
            if message.retain and not message.body and self._retained.get(message.topic) is message:
                del self._retained[message.topic]  # the broker has nothing of that topic any more
            if message.is_shelved:
                self._settled[message.number] = len(message.body)
            first = message.is_shelved and len(self._settled) == 1
        if first:
            self.on_pressure()

    def renew_retained(self) -> None:
        """Put the newest message of each retained topic first: a new connection starts with them."""
        with self._lock:
            self._waiting.renew(self._retained.values())
            self._hold_bound()

    def set_connected(self, *, connected: bool) -> None:
        """Note whether the broker is there: where it is away for long, the disk is used."""
        self.away_since_ns = None if connected else now_ns()
        self.on_pressure()

    def state(self, in_flight: Sequence[Message] = ()) -> OutboxState:
        """Tell what waits here and what was sent without an acknowledgement yet."""
        with self._lock:
            unshelved = [*(message for message in in_flight if not message.is_shelved), *self._moving]
            times_ns = [message.made_ns for message in (*unshelved, *self._waiting.oldest())]
            settled_bytes = sum(self._settled.values())
            disk_messages = max(self._stock.messages - len(self._settled), 0)
            disk_bytes = max(self._stock.bytes - settled_bytes, 0)
            if disk_messages and self._stock.oldest_ns is not None:
                times_ns.append(self._stock.oldest_ns)
            return OutboxState(
                self._waiting.count + len(unshelved) + disk_messages,
                self._waiting.bytes + sum(len(message.body) for message in unshelved) + disk_bytes,
                round(max(now_ns() - min(times_ns), 0) / 1e9, 3) if times_ns else None,
                sum(self._dropped_by_cause.values()),
                dict(self._dropped_by_kind),
                dict(self._dropped_by_cause),
                disk_messages,
                disk_bytes,
                self._disk,
                self._journal is not None,
                self._without_copy,
                self._dropped_on_disk,
            )

    # The disk

    def _is_pressed(self) -> bool:
        is_worth_it = self._waiting.durable >= WORTH_SHARE * self.bound
        return (is_worth_it and self._waiting.count >= HIGH_SHARE * self.bound) or (
            self._journal is not None and self._journal.fullness >= HIGH_SHARE
        )

    def has_waited(self, longer_than_ns: int) -> bool:
        """Tell whether a message of this process has waited in memory for so long, broker or no broker."""
        with self._lock:
            oldest_ns = min((message.made_ns for message in self._waiting.live.oldest()), default=None)
        return oldest_ns is not None and now_ns() - oldest_ns >= longer_than_ns

    @property
    def is_pressed(self) -> bool:
        """Whether more waits than memory, or the journal, should hold."""
        with self._lock:
            return self._is_pressed()

    def holds_durable(self) -> bool:
        """Whether memory has messages that must not get lost."""
        return self._waiting.durable > 0

    def take_for_disk(self, limit_bytes: int) -> list[Message]:
        """Take messages of about so many bytes; `shelved` or `give_back` comes after it."""
        with self._lock:
            self._moving = self._waiting.take_durable(limit_bytes)
            return self._moving

    def give_back(self) -> None:
        """Put back what was taken for the disk."""
        with self._lock:
            moving, self._moving = self._moving, []
            self._waiting.put_back(moving)
            self._hold_bound()

    def shelved(self, settled: Iterable[int], gone: Iterable[Gone], stock: Stock) -> None:
        """Note that what was taken is on the disk now, and what is not any more."""
        with self._lock:
            for message in self._moving:
                self._uncopy(message)
            self._moving = []
            for key in settled:
                self._settled.pop(key, None)
            for each in gone:
                self._count(each.kind, each.reason)
                self._dropped_on_disk += each.reason == "full"
            self._stock = stock

    def note_stock(self, stock: Stock) -> None:
        self._stock = stock

    def read_ahead(self, messages: Iterable[Message]) -> None:
        """Take what the disk has to send next."""
        with self._lock:
            for message in messages:
                self._waiting.ahead.add(message)
        self.on_ready()

    @property
    def ahead(self) -> int:
        """How many messages of the disk are in memory, to be sent next."""
        return self._waiting.ahead.count

    def settled(self) -> list[int]:
        """Return the keys of what the disk holds and need not."""
        with self._lock:
            return list(self._settled)

    def count_damaged(self, messages: int) -> None:
        """Count what could not be read on the disk; of which kind it was is not known."""
        with self._lock:
            self._dropped_by_cause["damaged"] += messages

    def note_disk(self, disk: DiskState) -> None:
        self._disk = disk

    def left_in_memory(self) -> tuple[int, int]:
        """Return how many messages wait in memory for good: with a copy in the journal, and without."""
        with self._lock:
            rest = [*self._moving, *self._waiting.live, *self._waiting.left]
        copied = sum(message.copy_at >= 0 for message in rest)
        return copied, len(rest) - copied

    def close_journal(self) -> None:
        with self._lock:
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.close()
