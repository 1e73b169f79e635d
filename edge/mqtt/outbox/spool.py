"""Spool of messages on disk: a SQLite file in WAL mode, for one thread.

SQLite, because its file survives a power cut, reuses free pages, finds the oldest of a kind without reading the rest,
and can be read row by row after a part of it was damaged. The file grows up to its bound and keeps its size while
anything is in it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from edge.core.clock import clock_synchronised, now_ns
from edge.core.files import open_private
from edge.core.records import MESSAGE_KINDS, DropReason, MessageKind
from edge.mqtt.outbox.codec import pack
from edge.mqtt.outbox.destination import UNKNOWN, Destination, ForeignPolicy
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.spool_file import (
    NUMBERS,
    SLOTS,
    Slot,
    check_pages,
    count_rows,
    keys_of,
    kind_of,
    prefix_of,
    prefix_of_key,
    prepare,
    read_entry,
    read_format,
    read_slots,
    record_rows,
    recorded_rows,
    seal_row,
    slot_of,
    write_slot,
)

Sync = Literal["commit", "checkpoint", "never"]
SYNCHRONOUS: dict[Sync, str] = {"commit": "FULL", "checkpoint": "NORMAL", "never": "OFF"}
PAGE_BYTES = 4096
# This fraction of the space is for changes that wait in the log until a checkpoint.
LOG_DIVISOR = 16
INDEX_BYTES = 32_768  # the log's index, a file of its own
SMALL_PAGES = 64  # a file that is not worth shrinking
# This fraction is freed at once when space runs out, so that not every commit has to.
SPARE_DIVISOR = 64
REMOVED_AT_ONCE = 1000  # of each kind: a backlog of a million would delay one change by minutes
BUSY_S = 1.0
LOWEST = -1  # below every key


@dataclass(frozen=True, slots=True)
class SpoolLevel:
    """Messages and bytes on disk that are to be sent, the time of the oldest, and what is held."""

    messages: int = 0
    bytes: int = 0
    oldest_ns: int | None = None  # monotonic; None: there is none whose age is known
    held: Mapping[str, int] = field(default_factory=dict)  # messages for each other destination


@dataclass(frozen=True, slots=True)
class Eviction:
    """A message that was removed from the disk, or not accepted, and why."""

    key: int
    kind: MessageKind
    reason: DropReason


class Spool:
    """Messages on disk; every call may raise sqlite3.Error or OSError."""

    def __init__(
        self,
        path: Path,
        max_mb: int,
        max_age_s: float,
        sync: Sync,
        destination: Destination = UNKNOWN,
        foreign: ForeignPolicy = "send",
    ) -> None:
        """Set up a file for messages to `destination`; `foreign` says what becomes of those for others."""
        self.path = path
        self.max_mb = max_mb
        self.max_age_s = max_age_s
        self.destination = destination
        self.foreign = foreign
        self._max_age_ns = int(max_age_s * 1e9)
        self._sync = sync
        self._log_pages = max(8, min(1000, max_mb * 10**6 // LOG_DIVISOR // PAGE_BYTES))
        # The log may grow to three times that: what is not in the file yet, and one transaction.
        self._limit_bytes = max(max_mb * 10**6 - 3 * self._log_pages * PAGE_BYTES - INDEX_BYTES, 0)
        self.batch_bytes = self._log_pages * PAGE_BYTES // 2  # what one transaction may add
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._ahead = 0  # how far its numbers are ahead of ours
        self._slots: dict[int, Slot] = {}  # a new file in place of a damaged one gets the same
        self._own_slot = 0
        self._counts: dict[int, tuple[int, int]] = {}  # messages and bytes by the prefix of their keys
        # By prefix, and by whether the clock is synchronised: the key up to which no age is known, so that not every
        # change reads those entries again.
        self._undated: dict[tuple[int, bool | None], int] = {}
        self._version = 0  # it counts the changes by other processes

    def open(self, first: int) -> None:
        """Open or create the file; messages numbered from `first` on will come behind all that it holds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._make_private()
        self._db = db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        try:
            read_format(db)  # before anything is written to a file that is not ours to read
            db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            db.execute("PRAGMA journal_mode = WAL")
            db.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self._sync]}")
            db.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
            db.execute(f"PRAGMA journal_size_limit = {self._log_pages * PAGE_BYTES}")
            self._inode = self.path.stat().st_ino
            with self._transaction():
                prepare(db, self.destination)
            with self._transaction("DEFERRED"):  # this takes seconds, and must not keep another process from writing
                check_pages(db)
            self.reload()
        except BaseException:
            self.close()
            raise
        highest = max((key & NUMBERS for key in self._ends("max", self._counts)), default=-1)
        self._ahead = max(highest - first + 1, 0)

    def reload(self) -> None:
        """Read anew what another process may have changed: destinations and counts."""
        db = self._connected
        self._version = db.execute("PRAGMA data_version").fetchone()[0]
        self._undated.clear()
        with self._transaction("DEFERRED"):
            stored = read_slots(db)
            if not stored:
                stored = {number: replace(slot, unchecked_to=-1) for number, slot in self._slots.items()}
                for number, slot in stored.items():
                    write_slot(db, number, slot)
            self._slots, self._counts = stored, count_rows(db)
            self._own_slot = self._slot_for(self.destination)
            if self._slots[self._own_slot].is_released:
                self._set_released(self._own_slot, is_released=False)

    def has_changed_elsewhere(self) -> bool:
        """Return whether another process has changed the file since it was opened or read anew."""
        version: int = self._connected.execute("PRAGMA data_version").fetchone()[0]
        return version != self._version

    def _slot_for(self, destination: Destination) -> int:
        """Return the slot of a destination, a new one if needed."""
        for number, slot in self._slots.items():
            if slot.destination == destination:
                return number
        used = {slot_of(prefix) for prefix in self._counts}
        used |= {number for number, slot in self._slots.items() if slot.destination == self.destination}
        free = [number for number in range(SLOTS) if number not in used]
        if not free:
            raise sqlite3.OperationalError(
                f"it holds messages for {SLOTS} destinations, wanted fewer; send or discard them with `edge outbox`"
            )
        number = min(free, key=lambda each: (each in self._slots, each))
        self._slots[number] = Slot(destination)
        write_slot(self._connected, number, self._slots[number])
        return number

    def _set_released(self, number: int, *, is_released: bool) -> None:
        self._slots[number] = replace(self._slots[number], is_released=is_released)
        write_slot(self._connected, number, self._slots[number])

    def _is_sent(self, prefix: int) -> bool:
        """Return whether messages with this prefix are to be sent, or held."""
        number = slot_of(prefix)
        slot = self._slots.get(number)
        return number == self._own_slot or self.foreign == "send" or (slot is not None and slot.is_released)

    def _ends(self, function: Literal["min", "max"], prefixes: Iterable[int]) -> list[int]:
        """Return the first or last key of each prefix."""
        query = f"SELECT {function}(key) FROM messages WHERE key BETWEEN ? AND ?"  # noqa: S608 -- one of two words
        found = [self._connected.execute(query, keys_of(prefix)).fetchone()[0] for prefix in prefixes]
        return [key for key in found if key is not None]

    @contextlib.contextmanager
    def _transaction(self, kind: Literal["IMMEDIATE", "DEFERRED"] = "IMMEDIATE") -> Iterator[None]:
        """Undo what fails; a deferred transaction keeps no other process from writing until it writes itself."""
        db, counts, slots = self._connected, dict(self._counts), dict(self._slots)
        db.execute(f"BEGIN {kind}")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            self._counts, self._slots = counts, slots
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise

    @property
    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("the file is not open")
        return self._db

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def is_there(self) -> bool:
        """Return whether the open file is still the one at its path."""
        with contextlib.suppress(OSError):
            return self.path.stat().st_ino == self._inode
        return False

    def change(self, add: Sequence[Entry], remove: Iterable[int]) -> list[Eviction]:
        """Add entries, of `batch_bytes` at most, and remove keys; return what, old or new, was evicted."""
        with self._changing():
            for key in remove:
                self._remove(key)
            evicted = [each for entry in add if (each := self._add(entry)) is not None]
            evicted += [*self._evict_aged(), *self._evict_excess()]
        return evicted

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Open a transaction that records how many rows there are at its end."""
        with self._transaction():
            before = self._rows()
            yield
            if added := self._rows() - before:
                record_rows(self._connected, recorded_rows(self._connected) + added)

    def _rows(self) -> int:
        return sum(messages for messages, _ in self._counts.values())

    def key(self, entry: Entry) -> int:
        """Return the key that an entry gets on disk."""
        slot = self._own_slot if entry.destination is None else self._slot_for(entry.destination)
        return keys_of(prefix_of(MESSAGE_KINDS.index(entry.message.kind), slot))[0] + entry.number + self._ahead

    def _add(self, entry: Entry) -> Eviction | None:
        key, size = self.key(entry), len(entry.message.body)
        if size > 2 * self.batch_bytes:
            return Eviction(key, entry.message.kind, "full")
        prefix, row = prefix_of_key(key), (key, size, seal_row(key, size, pack(entry)))
        # It is there already if the process was killed before the journal's copy was removed.
        added = self._connected.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", row)
        if any(key < passed for (each, _), passed in self._undated.items() if each == prefix):
            self._undated.clear()
        if added.rowcount:
            self._count(prefix, 1, size)
        return None

    def _remove(self, key: int) -> None:
        row = self._connected.execute("DELETE FROM messages WHERE key = ? RETURNING size", (key,)).fetchone()
        if row is not None:
            self._count(prefix_of_key(key), -1, -row[0])

    def _count(self, prefix: int, messages: int, size: int) -> None:
        before = self._counts.get(prefix, (0, 0))
        self._counts[prefix] = (before[0] + messages, before[1] + size)
        if not self._counts[prefix][0]:
            del self._counts[prefix]

    def _evict_aged(self) -> Iterator[Eviction]:
        """Remove what is known to be older than `max_age_s`."""
        made_before_ns, is_synchronised = now_ns() - self._max_age_ns, clock_synchronised()
        for prefix in sorted(self._counts):
            first, last = keys_of(prefix)
            for _ in range(REMOVED_AT_ONCE):
                found = self._read(self._undated.get((prefix, is_synchronised), first - 1) + 1, last, 1)
                if not found:
                    break
                entry = found[0]
                if not entry.is_age_known:
                    self._undated[prefix, is_synchronised] = entry.number
                elif entry.message.made_ns < made_before_ns:
                    self._remove(entry.number)
                    yield Eviction(entry.number, MESSAGE_KINDS[kind_of(prefix)], "age")
                else:
                    break

    def _evict_excess(self) -> Iterator[Eviction]:
        """Remove what exceeds the space, by lowest priority, oldest first."""
        if self._used_bytes() <= self._limit_bytes:
            return
        target_bytes = self._limit_bytes - self._limit_bytes // SPARE_DIVISOR
        by_priority = sorted(self._counts, key=lambda prefix: (-kind_of(prefix), self._is_sent(prefix), prefix))
        for prefix in by_priority:  # of a kind, those held for other destinations first
            while (excess := self._used_bytes() - target_bytes) > 0 and (rows := self._first_rows(prefix, 64)):
                for key, size in rows:
                    self._remove(key)
                    yield Eviction(key, MESSAGE_KINDS[kind_of(prefix)], "full")
                    excess -= size
                    if excess <= 0:
                        break

    def _first_rows(self, prefix: int, limit: int) -> list[tuple[int, int]]:
        query = "SELECT key, size FROM messages WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
        return self._connected.execute(query, (*keys_of(prefix), limit)).fetchall()

    def discard_held(self) -> list[Eviction]:
        """Remove some of the messages for other destinations; return them, none where none are left."""
        with self._changing():
            held = [prefix for prefix in sorted(self._counts) if slot_of(prefix) != self._own_slot]
            rows = [key for prefix in held[:1] for key, _ in self._first_rows(prefix, REMOVED_AT_ONCE)]
            for key in rows:
                self._remove(key)
        return [Eviction(key, MESSAGE_KINDS[kind_of(prefix_of_key(key))], "discarded") for key in rows]

    def release_held(self) -> None:
        """Have the messages for other destinations sent to the configured one."""
        with self._transaction():
            for number in {slot_of(prefix) for prefix in self._counts} - {self._own_slot}:
                self._slots.setdefault(number, Slot(UNKNOWN))
                self._set_released(number, is_released=True)

    def _used_bytes(self) -> int:
        pages: int = self._connected.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._connected.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * PAGE_BYTES

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return the first entries to send whose keys, now their numbers, are above `after`.

        Raises DatabaseError where one is damaged.
        """
        found = list[Entry]()
        for prefix in sorted(self._counts):
            first, last = keys_of(prefix)
            if last > after and len(found) < limit and self._is_sent(prefix):
                found += self._read(max(first, after + 1), last, limit - len(found))
        return found

    def _read(self, first: int, last: int, limit: int) -> list[Entry]:
        query = "SELECT key, size, packed FROM messages WHERE key BETWEEN ? AND ? ORDER BY key LIMIT ?"
        rows = self._connected.execute(query, (first, last, limit))
        slot = self._slots.get(slot_of(prefix_of_key(first)))
        unchecked_to = -1 if slot is None else slot.unchecked_to
        return [read_entry(key, size, packed, unchecked_to) for key, size, packed in rows]

    def level(self) -> SpoolLevel:
        """Return how much is on disk."""
        messages, size, held = 0, 0, dict[str, int]()
        for prefix, (count, count_bytes) in self._counts.items():
            if self._is_sent(prefix):
                messages, size = messages + count, size + count_bytes
            else:
                slot = self._slots.get(slot_of(prefix))
                name = str(UNKNOWN if slot is None else slot.destination)
                held[name] = held.get(name, 0) + count
        sent = [prefix for prefix in self._counts if self._is_sent(prefix)]
        oldest = [entry for key in self._ends("min", sent) for entry in self._read(key, key, 1)]
        known_ns = (entry.message.made_ns for entry in oldest if entry.is_age_known)
        return SpoolLevel(messages, size, min(known_ns, default=None), held)

    def shrink(self) -> None:
        """Release the space of an empty file."""
        if not self._counts and self.path.stat().st_size > SMALL_PAGES * PAGE_BYTES:
            self._connected.execute("VACUUM")
        self._connected.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def move_to_new_file(self) -> None:
        """Write the content of the open file to its path, from which somebody has removed it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for name in self._companions(self.path):
            name.unlink(missing_ok=True)
        self._make_private()
        with contextlib.closing(sqlite3.connect(self.path)) as copy:
            self._connected.backup(copy)
        self.close()

    def _make_private(self) -> None:
        """Create the file before SQLite does, whose further files get the permissions of this one."""
        for path in self._companions(self.path):
            if path == self.path or path.is_symlink() or path.exists():
                os.close(open_private(path, os.O_RDWR))

    def set_aside(self) -> Path:
        """Rename a damaged file, over the one that was set aside before; return its new path."""
        self.close()
        aside = self.path.with_name(f"{self.path.name}.bad")
        for bad, at in zip(self._companions(self.path), self._companions(aside), strict=True):
            at.unlink(missing_ok=True)
            if bad.exists():
                bad.rename(at)
        return aside

    @staticmethod
    def _companions(path: Path) -> list[Path]:
        return [path, path.with_name(f"{path.name}-wal"), path.with_name(f"{path.name}-shm")]
