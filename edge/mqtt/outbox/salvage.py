"""Recovery of messages from a damaged spool file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edge.mqtt.outbox.destination import UNKNOWN
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.spool import LOWEST
from edge.mqtt.outbox.spool_file import (
    FORMAT,
    NUMBERS,
    Slot,
    prefix_of_key,
    read_entry,
    read_slots,
    recorded_rows,
    slot_of,
)

TRIES = 2000  # searches between damaged pages
HIGHEST = 1 << 62  # above every key
FIRST = Slot(UNKNOWN, unchecked_to=NUMBERS)  # of all rows of format 1
LOST = Slot(UNKNOWN)  # of a row whose destination cannot be read any more


def salvage(path: Path) -> Iterator[Entry]:
    """Yield the entries that can still be read from a damaged file, numbered as before they were spooled."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        slots = _readable_slots(db)
        for key in sorted(_readable_keys(db)):
            slot = FIRST if slots is None else slots.get(slot_of(prefix_of_key(key)), LOST)
            entry = None
            with contextlib.suppress(sqlite3.Error):
                row = db.execute("SELECT size, packed FROM messages WHERE key = ?", (key,)).fetchone()
                entry = None if row is None else read_entry(key, row[0], row[1], slot.unchecked_to)
            if entry is not None:
                entry.number = key & NUMBERS
                entry.destination = None if slots is None else slot.destination
                yield entry


def count_messages(path: Path) -> int:
    """Return how many messages a damaged file holds or should hold; 0 where neither can be read."""
    rows = 0
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        rows = recorded_rows(db)
        rows = max(rows, db.execute("SELECT count(*) FROM messages").fetchone()[0])
    return rows


def _readable_slots(db: sqlite3.Connection) -> dict[int, Slot] | None:
    """Return the destinations; None for a file without any, whose messages count as for the configured one."""
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] < FORMAT:
            return None
        return read_slots(db)
    except sqlite3.Error:
        return {}


def _readable_keys(db: sqlite3.Connection) -> set[int]:
    """Find the keys before, behind and between damaged pages: from both ends, then from the middle of each gap."""
    found = set[int]()
    gaps = deque([(LOWEST, HIGHEST)])
    for _ in range(TRIES):
        if not gaps:
            break
        low, high = gaps.popleft()
        first = _walk(db, found, "ASC", low, high)
        last = None if first is None else _walk(db, found, "DESC", low, high)
        if first is not None and last is not None and last - first > 1:
            middle = (first + last) // 2
            gaps += [(first, middle + 1), (middle, last)]
    return found


def _walk(db: sqlite3.Connection, found: set[int], order: Literal["ASC", "DESC"], low: int, high: int) -> int | None:
    """Add the keys between two others in order; return the last one read, None after reading all of them."""
    reached = low if order == "ASC" else high
    try:
        ask = f"SELECT key FROM messages WHERE key > ? AND key < ? ORDER BY key {order}"  # noqa: S608 -- one of two words
        for (reached,) in db.execute(ask, (low, high)):
            found.add(reached)
    except sqlite3.Error:
        return reached
    return None
