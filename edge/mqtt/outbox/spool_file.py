"""Format of the spool's file: keys, checksums, destinations, and how a file of version 0.1.0 becomes one.

Version 0.1.0 knows format 1 only. It sets a file of another format aside and sends what `SELECT key, packed FROM
messages` finds in it, so neither this table nor the encoding of its rows may change.
"""

from __future__ import annotations

import sqlite3
import struct
import zlib
from dataclasses import dataclass

from edge.core.records import MESSAGE_KINDS
from edge.mqtt.outbox.codec import check_sendable, is_sealed, seal, unpack
from edge.mqtt.outbox.destination import UNKNOWN, Destination
from edge.mqtt.outbox.entry import Entry

FORMAT = 2  # kept as SQLite's user_version; 1 is without destinations and checksums
_MESSAGES = """
CREATE TABLE messages (
    key INTEGER PRIMARY KEY,  -- kind, slot, number: what is evicted together lies together, so whole pages become free
    size INTEGER NOT NULL,    -- bytes of the body
    packed BLOB NOT NULL      -- with a checksum
)"""
_DESTINATIONS = """
CREATE TABLE destinations (
    slot INTEGER PRIMARY KEY,
    packed BLOB NOT NULL,
    is_released INTEGER NOT NULL,
    unchecked_to INTEGER NOT NULL,
    checksum INTEGER NOT NULL
)"""
_NUMBER_BITS = 53  # of a key. Numbers are microseconds since 1970, below 2⁵² until 2112
_SLOT_BITS = 5
NUMBERS = (1 << _NUMBER_BITS) - 1
SLOTS = 1 << _SLOT_BITS
_BELOW_ALL = -(1 << 63)
_SEED = struct.Struct("<qq")


@dataclass(frozen=True, slots=True)
class Slot:
    """A destination as keys refer to it."""

    destination: Destination
    is_released: bool = False  # a person has decided that its messages go to the configured destination
    unchecked_to: int = -1  # rows up to this number may be without a checksum: a version before wrote them


def prefix_of(kind: int, slot: int) -> int:
    """Return how the keys of a kind and slot begin."""
    return (kind << _SLOT_BITS) + slot


def kind_of(prefix: int) -> int:
    return prefix >> _SLOT_BITS


def slot_of(prefix: int) -> int:
    return prefix & (SLOTS - 1)


def prefix_of_key(key: int) -> int:
    return key >> _NUMBER_BITS


def keys_of(prefix: int) -> tuple[int, int]:
    """Return the first and the last key that a kind can have in a slot."""
    return prefix << _NUMBER_BITS, (prefix << _NUMBER_BITS) + NUMBERS


def seal_row(key: int, size: int, packed: bytes) -> bytes:
    """Return a packed entry with the checksum of its row."""
    return seal(packed, _seed(key, size))


def _seed(key: int, size: int) -> int:
    return zlib.crc32(_SEED.pack(key, size))


def read_entry(key: int, size: int, packed: bytes, unchecked_to: int) -> Entry:
    """Decode an entry that is on disk, numbered by its key; raise DatabaseError where it is damaged."""
    try:
        if not is_sealed(packed, _seed(key, size)) and key & NUMBERS > unchecked_to:
            raise ValueError("its checksum is wrong")
        entry = unpack(packed, key)
        check_sendable(entry.message)
        if MESSAGE_KINDS[kind_of(prefix_of_key(key))] != entry.message.kind:
            raise ValueError("it is of another kind than its key")
    except (ValueError, TypeError, IndexError, struct.error) as error:
        raise sqlite3.DatabaseError(f"message {key}: {error}") from None
    entry.message.decoded_ns = entry.message.made_ns  # its place was the checksum's
    entry.is_spooled = True
    return entry


def prepare(db: sqlite3.Connection, own: Destination) -> None:
    """Create the tables of a new file; add to a file of format 1 what it lacks, its rows counting as for `own`.

    Raises DatabaseError where the file is damaged.
    """
    found = read_format(db)
    if found == FORMAT:
        return
    is_new = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0] == 0
    if is_new:
        db.execute(_MESSAGES)
    db.execute(_DESTINATIONS)
    try:
        rows, highest = db.execute("SELECT count(*), max(key & ?) FROM messages", (NUMBERS,)).fetchone()
    except sqlite3.OperationalError as error:
        raise sqlite3.DatabaseError(str(error)) from None
    if rows:
        write_slot(db, 0, Slot(own, unchecked_to=highest))
    record_rows(db, rows)
    db.execute(f"PRAGMA user_version = {FORMAT}")


def read_format(db: sqlite3.Connection) -> int:
    """Return the file's format, 0 for a new one; raise NotSupportedError for that of a later version."""
    found: int = db.execute("PRAGMA user_version").fetchone()[0]
    if not 0 <= found <= FORMAT:
        raise sqlite3.NotSupportedError(
            f"found format {found}, which another version of edge wrote, wanted at most {FORMAT}; run that version "
            "until the file is empty, or move the file away"
        )
    return found


def check_pages(db: sqlite3.Connection) -> None:
    """Raise DatabaseError where SQLite finds the file damaged, or rows are missing."""
    if (found := db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(found.splitlines()[-1])
    rows, wanted = db.execute("SELECT count(*) FROM messages").fetchone()[0], recorded_rows(db)
    if rows != wanted:
        raise sqlite3.DatabaseError(f"found {rows} rows, wanted {wanted}")


def recorded_rows(db: sqlite3.Connection) -> int:
    """Return how many rows the last change left.

    It is kept as SQLite's application_id: on the first page, which most changes write anyway.
    """
    rows: int = db.execute("PRAGMA application_id").fetchone()[0]
    return rows


def record_rows(db: sqlite3.Connection, rows: int) -> None:
    db.execute(f"PRAGMA application_id = {rows}")


def count_rows(db: sqlite3.Connection) -> dict[int, tuple[int, int]]:
    """Return messages and bytes by the prefix of their keys."""
    found, after = dict[int, tuple[int, int]](), _BELOW_ALL
    while (row := db.execute("SELECT min(key) FROM messages WHERE key > ?", (after,)).fetchone())[0] is not None:
        prefix = prefix_of_key(row[0])
        first, after = keys_of(prefix)
        query = "SELECT count(*), sum(size) FROM messages WHERE key BETWEEN ? AND ?"
        found[prefix] = db.execute(query, (first, after)).fetchone()
    if found and not 0 <= kind_of(min(found)) <= kind_of(max(found)) < len(MESSAGE_KINDS):
        raise sqlite3.DatabaseError("a key is of no kind")
    return found


def read_slots(db: sqlite3.Connection) -> dict[int, Slot]:
    """Return the destinations by slot; those that are damaged as unknown."""
    found = dict[int, Slot]()
    for number, packed, is_released, unchecked_to, checksum in db.execute("SELECT * FROM destinations"):
        if checksum == _slot_checksum(number, packed, is_released, unchecked_to):
            found[number] = Slot(Destination.unpack(packed), bool(is_released), unchecked_to)
        else:
            found[number] = Slot(UNKNOWN, unchecked_to=NUMBERS)
    return found


def write_slot(db: sqlite3.Connection, number: int, slot: Slot) -> None:
    row = (number, slot.destination.pack(), int(slot.is_released), slot.unchecked_to)
    db.execute("INSERT OR REPLACE INTO destinations VALUES (?, ?, ?, ?, ?)", (*row, _slot_checksum(*row)))


def _slot_checksum(*fields: object) -> int:
    return zlib.crc32(repr(fields).encode())
