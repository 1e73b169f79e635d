"""Recovery of messages from a damaged spool file."""

from __future__ import annotations

import contextlib
import sqlite3
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.spool import LOWEST, NUMBERS, read_entry

TRIES = 2000  # searches between damaged pages
HIGHEST = 1 << 62  # above every key


def salvage(path: Path) -> Iterator[Entry]:
    """Yield the entries that can still be read from a damaged file, numbered as before they were spooled."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(path)) as db:
        for key in sorted(_readable_keys(db)):
            entry = None
            with contextlib.suppress(sqlite3.Error):
                row = db.execute("SELECT packed FROM messages WHERE key = ?", (key,)).fetchone()
                entry = None if row is None else read_entry(key & NUMBERS, row[0])
            if entry is not None:
                yield entry


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
