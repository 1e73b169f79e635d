"""Spool of messages on disk: a SQLite file in WAL mode, for one thread.

SQLite, because its file survives a power cut, reuses free pages, finds the oldest of a kind without reading the rest,
and can be read row by row after a part of it was damaged. The file grows up to its bound and keeps its size while
anything is in it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.core.clock import clock_synchronised, now_ns
from edge.core.files import open_private
from edge.core.records import MESSAGE_KINDS, DropReason, MessageKind
from edge.mqtt.outbox.codec import pack, unpack
from edge.mqtt.outbox.entry import Entry

Sync = Literal["commit", "checkpoint", "never"]
SYNCHRONOUS: dict[Sync, str] = {"commit": "FULL", "checkpoint": "NORMAL", "never": "OFF"}
PAGE_BYTES = 4096
# This fraction of the space is for changes that wait in the log until a checkpoint.
LOG_DIVISOR = 16
INDEX_BYTES = 32_768  # the log's index, a file of its own
SMALL_PAGES = 64  # a file that is not worth shrinking
# This fraction is freed at once when space runs out, so that not every commit has to.
SPARE_DIVISOR = 64
AGED_AT_ONCE = 1000  # of each kind: a backlog of a million would delay one change by minutes
BUSY_S = 1.0
_TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    key INTEGER PRIMARY KEY,  -- kind and number: what is evicted together lies together, so whole pages become free
    size INTEGER NOT NULL,    -- bytes of the body
    packed BLOB NOT NULL
);
"""
_FORMAT = 1  # of the rows; a file of another format is set aside
_KIND_BITS = 58  # of a key, the number's
NUMBERS = (1 << _KIND_BITS) - 1
LOWEST = -1  # below every key


@dataclass(frozen=True, slots=True)
class SpoolLevel:
    """Messages and bytes on disk, and the time of the oldest."""

    messages: int = 0
    bytes: int = 0
    oldest_ns: int | None = None  # monotonic; None: there is none whose age is known


@dataclass(frozen=True, slots=True)
class Eviction:
    """A message that was removed from the disk, or not accepted, and why."""

    key: int
    kind: MessageKind
    reason: DropReason


class Spool:
    """Messages on disk; every call may raise sqlite3.Error or OSError."""

    def __init__(self, path: Path, max_mb: int, max_age_s: float, sync: Sync) -> None:
        self.path = path
        self.max_mb = max_mb
        self.max_age_s = max_age_s
        self._max_age_ns = int(max_age_s * 1e9)
        self._sync = sync
        self._log_pages = max(8, min(1000, max_mb * 10**6 // LOG_DIVISOR // PAGE_BYTES))
        # The log may grow to three times that: what is not in the file yet, and one transaction.
        self._limit_bytes = max(max_mb * 10**6 - 3 * self._log_pages * PAGE_BYTES - INDEX_BYTES, 0)
        self.batch_bytes = self._log_pages * PAGE_BYTES // 2  # what one transaction may add
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._ahead = 0  # how far its numbers are ahead of ours
        self._messages = self._bytes = 0
        # By kind, and by whether the clock is synchronised: the key up to which no age is known, so that not every
        # change reads those entries again.
        self._undated: dict[tuple[int, bool | None], int] = {}

    def open(self, first: int) -> None:
        """Open or create the file; messages numbered from `first` on will come behind all that it holds."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._make_private()
        self._db = db = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        db.execute("PRAGMA journal_mode = WAL")
        db.execute(f"PRAGMA synchronous = {SYNCHRONOUS[self._sync]}")
        db.execute(f"PRAGMA wal_autocheckpoint = {self._log_pages}")
        db.execute(f"PRAGMA journal_size_limit = {self._log_pages * PAGE_BYTES}")
        db.executescript(_TABLE)
        if db.execute("PRAGMA user_version").fetchone()[0] not in (0, _FORMAT):
            raise sqlite3.DatabaseError("its format is of another version")
        db.execute(f"PRAGMA user_version = {_FORMAT}")
        self._inode = self.path.stat().st_ino
        highest = max((key & NUMBERS for (key,) in self._ends("max")), default=-1)
        self._ahead = max(highest - first + 1, 0)
        self._undated.clear()
        self._messages, self._bytes = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM messages").fetchone()

    def _ends(self, function: Literal["min", "max"]) -> list[tuple[int]]:
        """Return the first or last key of each kind that is present."""
        query = f"SELECT {function}(key) FROM messages WHERE key BETWEEN ? AND ?"  # noqa: S608 -- one of two words
        found = [self._connected.execute(query, _range(kind)).fetchone() for kind in range(len(MESSAGE_KINDS))]
        return [row for row in found if row[0] is not None]

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
        db = self._connected
        messages, size = self._messages, self._bytes
        db.execute("BEGIN IMMEDIATE")
        try:
            for key in remove:
                self._remove(key)
            evicted = [each for entry in add if (each := self._add(entry)) is not None]
            evicted += [*self._evict_aged(), *self._evict_excess()]
            db.execute("COMMIT")
        except BaseException:
            self._messages, self._bytes = messages, size
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        return evicted

    def key(self, entry: Entry) -> int:
        """Return the key that an entry gets on disk."""
        return (MESSAGE_KINDS.index(entry.message.kind) << _KIND_BITS) + entry.number + self._ahead

    def _add(self, entry: Entry) -> Eviction | None:
        key, size = self.key(entry), len(entry.message.body)
        if size > 2 * self.batch_bytes:
            return Eviction(key, entry.message.kind, "full")
        # It is there already if the process was killed before the journal's copy was removed.
        added = self._connected.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?)", (key, size, pack(entry)))
        if any(key < passed for (kind, _), passed in self._undated.items() if kind == key >> _KIND_BITS):
            self._undated.clear()
        self._messages += added.rowcount
        self._bytes += added.rowcount * size
        return None

    def _remove(self, key: int) -> None:
        row = self._connected.execute("DELETE FROM messages WHERE key = ? RETURNING size", (key,)).fetchone()
        if row is not None:
            self._messages -= 1
            self._bytes -= row[0]

    def _evict_aged(self) -> Iterator[Eviction]:
        """Remove what is known to be older than `max_age_s`."""
        made_before_ns, is_synchronised = now_ns() - self._max_age_ns, clock_synchronised()
        for kind, name in enumerate(MESSAGE_KINDS):
            first, last = _range(kind)
            for _ in range(AGED_AT_ONCE):
                found = self.read(self._undated.get((kind, is_synchronised), first - 1), 1)
                if not found or found[0].number > last:
                    break
                entry = found[0]
                if not entry.is_age_known:
                    self._undated[kind, is_synchronised] = entry.number
                elif entry.message.made_ns < made_before_ns:
                    self._remove(entry.number)
                    yield Eviction(entry.number, name, "age")
                else:
                    break

    def _oldest(self) -> list[Entry]:
        """Return the oldest entry of each kind."""
        return [entry for (key,) in self._ends("min") for entry in self.read(key - 1, 1)]

    def _evict_excess(self) -> Iterator[Eviction]:
        """Remove what exceeds the space, by lowest priority, oldest first."""
        if self._used_bytes() <= self._limit_bytes:
            return
        target_bytes = self._limit_bytes - self._limit_bytes // SPARE_DIVISOR
        for kind in reversed(range(len(MESSAGE_KINDS))):
            while (excess := self._used_bytes() - target_bytes) > 0 and (
                rows := self._connected.execute(
                    "SELECT key, size FROM messages WHERE key BETWEEN ? AND ? ORDER BY key LIMIT 64", _range(kind)
                ).fetchall()
            ):
                for key, size in rows:
                    self._remove(key)
                    yield Eviction(key, MESSAGE_KINDS[kind], "full")
                    excess -= size
                    if excess <= 0:
                        break

    def _used_bytes(self) -> int:
        pages: int = self._connected.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._connected.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * PAGE_BYTES

    def read(self, after: int, limit: int) -> list[Entry]:
        """Return the first entries whose keys, now their numbers, are above `after`.

        Raises DatabaseError where one is damaged.
        """
        rows = self._connected.execute(
            "SELECT key, packed FROM messages WHERE key > ? ORDER BY key LIMIT ?", (after, limit)
        )
        return [read_entry(key, packed) for key, packed in rows]

    def level(self) -> SpoolLevel:
        """Return how much is on disk."""
        known_ns = (entry.message.made_ns for entry in self._oldest() if entry.is_age_known)
        oldest_ns = min(known_ns, default=None)
        return SpoolLevel(self._messages, self._bytes, oldest_ns)

    def shrink(self) -> None:
        """Release the space of an empty file."""
        if not self._messages and self.path.stat().st_size > SMALL_PAGES * PAGE_BYTES:
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


def _range(kind: int) -> tuple[int, int]:
    """Return the first and the last key that a kind can have."""
    return kind << _KIND_BITS, (kind << _KIND_BITS) + NUMBERS


def read_entry(number: int, packed: bytes) -> Entry:
    """Decode an entry that is on disk; raise DatabaseError where it is damaged."""
    try:
        entry = unpack(packed, number)
    except (ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(str(error)) from None
    entry.is_spooled = True
    return entry
