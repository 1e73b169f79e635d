"""The disk's part of the outbox: a SQLite file in WAL mode, for one thread.

SQLite, because its file stays whole over a power cut, is bounded by a number of pages that are used again, finds the
oldest of a kind without reading the rest, and can be read row by row where a part of it was damaged.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from edge.clock import now_ns, wall_ns
from edge.outbox.form import CLOCK_SET_NS, kernel_start, pack, unpack
from edge.records import MESSAGE_KINDS, DropReason, Message, MessageKind

Sync = Literal["commit", "checkpoint", "never"]
SYNCHRONOUS: dict[Sync, str] = {"commit": "FULL", "checkpoint": "NORMAL", "never": "OFF"}
PAGE_BYTES = 4096
# Of what may be used, this part is a checkpoint's: changes lie in the log until then.
LOG_SHARE = 16
INDEX_BYTES = 32_768  # the log's index, a file of its own
SMALL_PAGES = 256  # a file that is not worth shrinking
LOWEST = -(2**63)  # below every number
# Freed in one go when there is no room, so that not every commit has to.
SPARE_SHARE = 64
BUSY_S = 1.0
_TABLE = """
CREATE TABLE IF NOT EXISTS messages (
    number INTEGER PRIMARY KEY,  -- the order in which they were handed over
    kind INTEGER NOT NULL,       -- from what goes out first, 0, to what is given up first
    size INTEGER NOT NULL,       -- bytes of the body
    made_ns INTEGER NOT NULL,    -- monotonic, within one start of the kernel
    made_at_ns INTEGER NOT NULL, -- wall time
    start INTEGER NOT NULL,      -- which start of the kernel that was
    packed BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS by_kind ON messages (kind, number, size);
"""
_FORMAT = 1  # of the rows; a file of another format is set aside


@dataclass(frozen=True, slots=True)
class Stock:
    """What lies on the shelf."""

    messages: int = 0
    bytes: int = 0
    oldest_ns: int | None = None  # monotonic


@dataclass(frozen=True, slots=True)
class Gone:
    """A message that had to give way."""

    number: int
    kind: MessageKind
    reason: DropReason


class Shelf:
    """Messages on disk; every call may raise sqlite3.Error or OSError."""

    def __init__(self, path: Path, max_mb: int, max_age_s: float, sync: Sync) -> None:
        self.path = path
        self._max_age_ns = int(max_age_s * 1e9)
        self._sync = sync
        self._start = kernel_start() >> 1  # SQLite's integers have a sign
        self._log_pages = max(8, min(1000, max_mb * 10**6 // LOG_SHARE // PAGE_BYTES))
        # The log may grow to twice that: what was not brought to the file yet, and one transaction.
        self._room_bytes = max(max_mb * 10**6 - 2 * self._log_pages * PAGE_BYTES - INDEX_BYTES, 0)
        self.batch_bytes = self._log_pages * PAGE_BYTES // 2  # what one transaction may add
        self._db: sqlite3.Connection | None = None
        self._inode = 0
        self._messages = self._bytes = 0

    def open(self, first: int) -> None:
        """Open or make the file; what it holds is numbered below `first`, so that it is older than all to come."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
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
        os.chmod(self.path, 0o600)  # noqa: PTH101 -- results are not for everybody
        self._inode = self.path.stat().st_ino
        self._number_below(first)
        self._messages, self._bytes = db.execute("SELECT count(*), coalesce(sum(size), 0) FROM messages").fetchone()

    def _number_below(self, first: int) -> None:
        highest = self._connected.execute("SELECT max(number) FROM messages").fetchone()[0]
        if highest is not None and highest >= first:
            self._connected.execute("UPDATE messages SET number = number - ?", (highest - first + 1,))

    @property
    def _connected(self) -> sqlite3.Connection:
        if self._db is None:
            raise sqlite3.OperationalError("the file is not open")
        return self._db

    @property
    def is_open(self) -> bool:
        return self._db is not None

    def is_there(self) -> bool:
        """Tell whether the open file is still the one at its place."""
        with contextlib.suppress(OSError):
            return self.path.stat().st_ino == self._inode
        return False

    def change(self, add: Sequence[Message], remove: Iterable[int]) -> list[Gone]:
        """Add and remove messages in one transaction; return what, old or new, had to give way."""
        db = self._connected
        messages, size = self._messages, self._bytes
        db.execute("BEGIN IMMEDIATE")
        try:
            for number in remove:
                self._remove(number)
            for message in add:
                self._add(message)
            gone = [*self._too_old(), *self._make_room()]
            db.execute("COMMIT")
        except BaseException:
            self._messages, self._bytes = messages, size
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
            raise
        return gone

    def _add(self, message: Message) -> None:
        made_at_ns = wall_ns() - (now_ns() - message.made_ns)
        row = (
            message.number,
            MESSAGE_KINDS.index(message.kind),
            len(message.body),
            message.made_ns,
            made_at_ns,
            self._start,
            pack(message),
        )
        # It is there already where the process was killed before the journal's copy was taken away.
        added = self._connected.execute("INSERT OR IGNORE INTO messages VALUES (?, ?, ?, ?, ?, ?, ?)", row).rowcount
        self._messages += added
        self._bytes += added * len(message.body)

    def _remove(self, number: int) -> None:
        row = self._connected.execute("DELETE FROM messages WHERE number = ? RETURNING size", (number,)).fetchone()
        if row is not None:
            self._messages -= 1
            self._bytes -= row[0]

    def _too_old(self) -> Iterator[Gone]:
        """Remove what is older than it may become; the oldest come first, so that only those are looked at."""
        made_before_ns, made_before_at_ns = now_ns() - self._max_age_ns, wall_ns() - self._max_age_ns
        while rows := self._connected.execute(
            "SELECT number, kind, size, start = ?, made_ns, made_at_ns FROM messages ORDER BY number LIMIT 64",
            (self._start,),
        ).fetchall():
            for number, kind, _size, of_this_start, made_ns, made_at_ns in rows:
                was_set = made_at_ns > CLOCK_SET_NS  # else nothing is known of its age
                if not (made_ns < made_before_ns if of_this_start else was_set and made_at_ns < made_before_at_ns):
                    return
                self._remove(number)
                yield Gone(number, MESSAGE_KINDS[kind], "age")

    def _make_room(self) -> Iterator[Gone]:
        """Remove, where more is used than may be, what goes out last, and of that the oldest."""
        if self._used_bytes() <= self._room_bytes:
            return
        wanted_bytes = self._room_bytes - self._room_bytes // SPARE_SHARE
        for kind in reversed(range(len(MESSAGE_KINDS))):
            while (excess := self._used_bytes() - wanted_bytes) > 0 and (
                rows := self._connected.execute(
                    "SELECT number, size FROM messages WHERE kind = ? ORDER BY number LIMIT 64", (kind,)
                ).fetchall()
            ):
                for number, size in rows:
                    self._remove(number)
                    yield Gone(number, MESSAGE_KINDS[kind], "full")
                    excess -= size
                    if excess <= 0:
                        break

    def _used_bytes(self) -> int:
        pages: int = self._connected.execute("PRAGMA page_count").fetchone()[0]
        free: int = self._connected.execute("PRAGMA freelist_count").fetchone()[0]
        return (pages - free) * PAGE_BYTES

    def read(self, after: int, limit: int) -> list[Message]:
        """Return the oldest messages that are numbered above `after`; raise DatabaseError where one is damaged."""
        rows = self._connected.execute(
            "SELECT number, packed FROM messages WHERE number > ? ORDER BY number LIMIT ?", (after, limit)
        )
        return [_message(number, packed) for number, packed in rows]

    def stock(self) -> Stock:
        oldest = self.read(LOWEST, 1)
        return Stock(self._messages, self._bytes, oldest[0].made_ns if oldest else None)

    def shrink(self) -> None:
        """Give the space of an empty file back."""
        if not self._messages and self.path.stat().st_size > SMALL_PAGES * PAGE_BYTES:
            self._connected.execute("VACUUM")
        self._connected.execute("PRAGMA wal_checkpoint(TRUNCATE)")

    def close(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            with contextlib.suppress(sqlite3.Error):
                db.close()

    def move_to_new_file(self) -> None:
        """Write what the open file holds to its place, from which somebody has taken it."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for name in self._companions(self.path):
            name.unlink(missing_ok=True)
        with contextlib.closing(sqlite3.connect(self.path)) as copy:
            self._connected.backup(copy)
        self.close()

    def set_aside(self) -> Path:
        """Put a damaged file aside, instead of the one that was put aside before; return where it is now."""
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


# Ways to the numbers of the messages: one of them may get past the page that is damaged.
_WAYS = (
    "SELECT number FROM messages INDEXED BY by_kind",
    "SELECT number FROM messages NOT INDEXED ORDER BY number",
    "SELECT number FROM messages NOT INDEXED ORDER BY number DESC",
)


def salvaged(path: Path) -> Iterator[Message]:
    """Yield what can still be read of a damaged file, oldest first."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        numbers = set[int]()
        for way in _WAYS:
            with contextlib.suppress(sqlite3.Error):
                numbers.update(number for (number,) in db.execute(way))
        for number in sorted(numbers):
            message = None
            with contextlib.suppress(sqlite3.Error):
                row = db.execute("SELECT packed FROM messages WHERE number = ?", (number,)).fetchone()
                message = None if row is None else _message(number, row[0])
            if message is not None:
                yield message


def _message(number: int, packed: bytes) -> Message:
    try:
        message = unpack(packed, number)
    except (ValueError, TypeError) as error:
        raise sqlite3.DatabaseError(str(error)) from None
    message.is_shelved = True
    return message
