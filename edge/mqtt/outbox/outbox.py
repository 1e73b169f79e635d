"""Store-and-forward queue of outgoing messages: producers put, the publisher pops and settles.

A message waits in memory, with a copy in the journal, so that it outlives the process. When the broker is unreachable
for longer than a moment, or more waits than memory may hold, the spooler moves messages to the disk. Messages that this
process holds in memory go out first; the backlog, from the disk or from an earlier process, follows them.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from edge.core.clock import now_ns, wall_ns
from edge.core.records import DROP_REASONS, MESSAGE_KINDS, DiskState, DropReason, Message, MessageKind, OutboxState
from edge.mqtt.outbox.codec import check_sendable, pack, unpack
from edge.mqtt.outbox.destination import ForeignPolicy
from edge.mqtt.outbox.entry import NO_COPY, Entry
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.memory_queue import MemoryQueue
from edge.mqtt.outbox.spool import Eviction, SpoolLevel
from edge.mqtt.outbox.spool_file import NUMBERS

# From this fraction of the capacity of memory or journal on, messages go to the disk.
HIGH_FRACTION = 0.75
# With a smaller fraction that the disk accepts, it could not help: the rest has QoS 0, and is searched each time.
WORTH_FRACTION = 1 / 16
LOW_AHEAD = 64  # so few entries read ahead from the disk ask for more


class Outbox:
    """Bounded queue that never waits for the disk; without journal and disk, memory alone holds it."""

    def __init__(self, bound: int, journal: Journal | None = None, foreign: ForeignPolicy = "hold") -> None:
        """Hold at most `bound` messages in memory: past that, the oldest of the lowest priority are dropped.

        `foreign` says what becomes of what the journal has for another destination than ours.
        """
        self.bound = bound
        self._journal = journal
        self._lock = threading.Lock()
        self._queue = MemoryQueue()
        self._retained: dict[str, Entry] = {}  # the newest of each topic, for a broker that has forgotten
        self._settled: dict[int, int] = {}  # key and bytes of what the broker has and the disk still holds
        self._number = wall_ns() // 1000  # so that no earlier process, which may have lost its files, had higher ones
        self._dropped_by_kind: dict[MessageKind, int] = dict.fromkeys(MESSAGE_KINDS, 0)
        self._dropped_by_cause: dict[DropReason, int] = dict.fromkeys(DROP_REASONS, 0)
        self._dropped_on_disk = 0  # for lack of space
        self._without_copy = 0
        self._moving: list[Entry] = []  # on their way from memory to the disk
        self._spool_level = SpoolLevel()
        self._disk: DiskState = "off"
        self.disconnected_since_ns: int | None = now_ns()  # monotonic; None while the broker is connected
        self.on_ready: Callable[[], None] = lambda: None  # called when the disk has provided something to send
        self.on_pressure: Callable[[], None] = lambda: None  # called when the disk may have something to do
        if journal is not None:
            self._restore(journal, foreign)
        self.first_number = self._number  # of this process

    def _restore(self, journal: Journal, foreign: ForeignPolicy) -> None:
        """Queue what an earlier process left in the journal."""
        for at, stored, data in journal.recover():
            # The checksum does not cover a number's upper bits: one too high is damaged, its message is not.
            number = stored if stored <= NUMBERS else self._number
            try:
                entry = unpack(data, number)
                check_sendable(entry.message)
            except ValueError:
                journal.remove(at)
                self._count(None, "damaged")
                continue
            destination = journal.destination_at(at)
            if destination is not None and foreign == "discard":
                journal.remove(at)
                self._count(entry.message.kind, "discarded")
                continue
            entry.copy_at = at
            entry.destination = destination if foreign == "hold" else None
            (self._queue.left if entry.destination is None else self._queue.held).add(entry)
            self._number = max(self._number, number + 1)
        self.count_damaged(journal.damaged)

    # For producers

    def put(self, message: Message) -> None:
        with self._lock:
            entry = Entry(message, self._number)
            self._number += 1
            if message.retain:
                self._retained[message.topic] = entry
            elif message.qos and self._journal is not None:
                entry.copy_at = self._journal.add(entry.number, pack(entry))
                self._without_copy += entry.copy_at == NO_COPY
            self._queue.add(entry)
            self._hold_bound()
            is_near_limit = self._is_near_limit()
        if is_near_limit:
            self.on_pressure()

    def _hold_bound(self) -> None:
        if self._queue.count > self.bound:
            for entry in self._queue.drop_to(self.bound):
                self._remove_copy(entry)
                self._count(entry.message.kind, "full")

    def _remove_copy(self, entry: Entry) -> None:
        if self._journal is not None and entry.copy_at != NO_COPY:
            self._journal.remove(entry.copy_at)
        entry.copy_at = NO_COPY

    def _count(self, kind: MessageKind | None, reason: DropReason) -> None:
        if kind is not None:
            self._dropped_by_kind[kind] += 1
        self._dropped_by_cause[reason] += 1

    # For the publisher

    def pop(self, *, backlog: bool = True) -> Entry | None:
        """Remove and return what goes out next; from the backlog only if asked to."""
        with self._lock:
            entry = self._queue.pop(backlog=backlog)
            runs_dry = entry is not None and entry.is_spooled and self._queue.ahead.count in (LOW_AHEAD, 0)
        if runs_dry:
            self.on_pressure()
        return entry

    def has_waiting(self, *, backlog: bool) -> bool:
        """Return whether `pop` would return an entry."""
        return self._queue.has_any(backlog=backlog)

    def put_back(self, entries: Iterable[Entry]) -> None:
        """Put entries that were not acknowledged, oldest first, before all others of their kind."""
        with self._lock:
            self._queue.put_back(entries)
            self._hold_bound()

    def settle(self, entry: Entry, refused: DropReason | None = None) -> None:
        """Forget an entry that the broker has acknowledged, or refused for good."""
        message = entry.message
        with self._lock:
            self._remove_copy(entry)
            if refused is not None:
                self._count(message.kind, refused)
            if message.retain and not message.body and self._retained.get(message.topic) is entry:
                del self._retained[message.topic]  # the broker has nothing of that topic any more
            if entry.is_spooled:
                self._settled[entry.number] = len(message.body)
            is_first = entry.is_spooled and len(self._settled) == 1
        if is_first:
            self.on_pressure()

    def renew_retained(self) -> None:
        """Put the newest message of each retained topic first: a new connection starts with them."""
        with self._lock:
            self._queue.renew(self._retained.values())
            self._hold_bound()

    def retained_topics(self) -> set[str]:
        """Return the topics of which the broker may hold a message of this process, or of an earlier one to clear."""
        with self._lock:
            return set(self._retained)

    def set_connected(self, *, connected: bool) -> None:
        """Note whether the broker is connected: during a long outage, the disk is used."""
        self.disconnected_since_ns = None if connected else now_ns()
        self.on_pressure()

    def state(self, in_flight: Sequence[Entry] = ()) -> OutboxState:
        """Return counts, bytes and age of what waits, including what is in flight without an acknowledgement."""
        with self._lock:
            moving = (entry for entry in self._moving if entry.destination is None)
            unspooled = [*(entry for entry in in_flight if not entry.is_spooled), *moving]
            oldest = (*unspooled, *self._queue.oldest())
            times_ns = [entry.message.made_ns for entry in oldest if entry.is_age_known]
            level = self._spool_level
            disk_messages = max(level.messages - len(self._settled), 0)
            disk_bytes = max(level.bytes - sum(self._settled.values()), 0)
            if disk_messages and level.oldest_ns is not None:
                times_ns.append(level.oldest_ns)
            return OutboxState(
                self._queue.count + len(unspooled) + disk_messages,
                self._queue.bytes + sum(len(entry.message.body) for entry in unspooled) + disk_bytes,
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
                self._held(),
            )

    def _held(self) -> dict[str, int]:
        in_memory = Counter(str(entry.destination) for entry in (*self._queue.held, *self._moving) if entry.destination)
        return dict(in_memory + Counter(self._spool_level.held))

    # For the spooler

    def _is_near_limit(self) -> bool:
        is_worth_it = self._queue.durable >= WORTH_FRACTION * self.bound
        return (is_worth_it and self._queue.count >= HIGH_FRACTION * self.bound) or (
            self._journal is not None and self._journal.fullness >= HIGH_FRACTION
        )

    @property
    def is_near_limit(self) -> bool:
        """True while more waits than memory, or the journal, should hold."""
        with self._lock:
            return self._is_near_limit()

    def has_waited(self, longer_than_ns: int) -> bool:
        """Return whether a message of this process has waited in memory for so long, connected or not."""
        with self._lock:
            oldest_ns = min((entry.message.made_ns for entry in self._queue.live.oldest()), default=None)
        return oldest_ns is not None and now_ns() - oldest_ns >= longer_than_ns

    def holds_durable(self) -> bool:
        """Return whether memory holds messages that must not get lost."""
        return self._queue.durable > 0

    def holds_foreign(self) -> bool:
        """Return whether memory holds messages of another destination."""
        return self._queue.held.count > 0

    def drain_durable(self, limit_bytes: int) -> list[Entry]:
        """Remove and return entries of about so many bytes; `note_spooled` or `put_back_drained` must follow."""
        with self._lock:
            self._moving = self._queue.drain_durable(limit_bytes)
            return self._moving

    def put_back_drained(self) -> None:
        with self._lock:
            moving, self._moving = self._moving, []
            self._queue.put_back(moving)
            self._hold_bound()

    def note_spooled(self, settled: Iterable[int], evicted: Iterable[Eviction], level: SpoolLevel) -> None:
        """Note that what was drained is on disk now, and what no longer is."""
        with self._lock:
            for entry in self._moving:
                self._remove_copy(entry)
            self._moving = []
            for key in settled:
                self._settled.pop(key, None)
            for each in evicted:
                self._count(each.kind, each.reason)
                self._dropped_on_disk += each.reason == "full"
            self._spool_level = level

    def note_spool_level(self, level: SpoolLevel) -> None:
        self._spool_level = level

    def note_disk(self, disk: DiskState) -> None:
        self._disk = disk

    def add_ahead(self, entries: Iterable[Entry]) -> None:
        """Queue what was read ahead from the disk."""
        with self._lock:
            for entry in entries:
                self._queue.ahead.add(entry)
        self.on_ready()

    @property
    def ahead(self) -> int:
        """Number of entries that were read ahead from the disk and wait in memory."""
        return self._queue.ahead.count

    def settled_keys(self) -> list[int]:
        """Return the keys of what the disk still holds and no longer needs to."""
        with self._lock:
            return list(self._settled)

    def count_damaged(self, messages: int) -> None:
        """Count what could not be read from disk or journal; its kind is unknown."""
        with self._lock:
            self._dropped_by_cause["damaged"] += messages

    # For the end of the process

    def left_in_memory(self) -> tuple[int, int]:
        """Return how many messages stay in memory: with a copy in the journal, and without."""
        with self._lock:
            rest = [*self._moving, *self._queue.live, *self._queue.left, *self._queue.held]
        copied = sum(entry.copy_at != NO_COPY for entry in rest)
        return copied, len(rest) - copied

    def close_journal(self) -> None:
        with self._lock:
            journal, self._journal = self._journal, None
            if journal is not None:
                journal.close()
