"""Damage on disk: whatever bit flips, a message comes as it was or is told and counted, and the others are sent."""

from __future__ import annotations

import contextlib
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from edge.core.clock import now_ns
from edge.core.records import Message, MessageKind
from edge.mqtt.outbox.codec import pack
from edge.mqtt.outbox.destination import Destination
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import LOWEST, Spool
from edge.mqtt.outbox.spool_file import keys_of, prefix_of, seal_row
from tests.support.spooled_outbox import eventually, spooled_outbox

FLIPS = 400
RESULT = 3  # its place among the kinds
FIRST_NUMBER_AT = 4096 + 16  # of the journal's first record, low byte first
POISON: list[dict[str, Any]] = [
    {"topic": "edge/a/#"},
    {"topic": "edge/+/results"},
    {"topic": ""},
    {"topic": "edge/\0x"},
    {"topic": "edge/\x85x"},
    {"topic": "edge/\uffffx"},
    {"topic": "edge/x", "qos": 3},
    {"topic": "edge/x", "content_type": "text\0"},
    {"topic": "edge/x", "correlation": b"x" * 32_768 * 2},
]


def opened(path: Path) -> Spool:
    spool = Spool(path, 64, 1e6, "never")
    spool.open(0)
    return spool


def stored(path: Path) -> dict[int, Message]:
    with contextlib.closing(opened(path)) as spool:
        return {entry.number: entry.message for entry in spool.read(LOWEST, 10_000)}


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    path = tmp_path / "whole.db"
    with contextlib.closing(opened(path)) as spool:
        kinds: tuple[MessageKind, ...] = ("result", "alarm", "telemetry", "result")
        for number in range(100):
            message = Message(f"edge/a/{number % 9}", b'{"n":%d}' % number * 40, kind=kinds[number % 4])
            spool.change([Entry(message, number)], ())
    return path


def test_no_flipped_bit_changes_or_hides_a_message_unsaid(whole: Path, tmp_path: Path) -> None:
    before, data, dice = stored(whole), whole.read_bytes(), random.Random(5)
    for _ in range(FLIPS):
        flipped = bytearray(data)
        at, bit = dice.randrange(len(data)), 1 << dice.randrange(8)
        flipped[at] ^= bit
        for old in tmp_path.glob("flipped.db*"):
            old.unlink()
        (tmp_path / "flipped.db").write_bytes(flipped)
        try:
            found = stored(tmp_path / "flipped.db")
        except sqlite3.Error:
            continue
        assert found == before, f"bit {bit:#x} of byte {at}"


def test_one_damaged_message_is_told_and_counted_and_all_others_are_sent(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 100, size=500)
        made.on_disk(100)
    data = bytearray((tmp_path / "outbox.db").read_bytes())
    data[data.index(b"42 xxx") + 200] ^= 4
    (tmp_path / "outbox.db").write_bytes(data)
    with spooled_outbox(tmp_path) as again:
        assert again.sent(99) == [number for number in range(100) if number != 42]
        eventually(lambda: again.outbox.state().dropped_by_cause["damaged"] == 1, "it is counted")
        alarm, reason = again.alarms[0]
        assert alarm == "outbox_disk"
        assert reason is not None
        assert "its checksum is wrong" in reason
        assert "99 messages were recovered" in reason
        assert again.outbox.state().messages == 0


def test_rows_that_have_gone_are_told_and_counted(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 100)
        made.on_disk(100)
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as db:
        db.execute("DELETE FROM messages WHERE key IN (SELECT key FROM messages LIMIT 10)")
    with spooled_outbox(tmp_path) as again:
        assert again.sent(90) == list(range(10, 100))
        eventually(lambda: again.outbox.state().dropped_by_cause["damaged"] == 10, "they are counted")


def test_damage_keeps_what_is_held_apart_from_what_is_sent(tmp_path: Path) -> None:
    old, new = Destination("mqtt://x:1883", "edge", "A"), Destination("mqtt://y:1883", "edge", "A")
    for destination, first in ((old, 0), (new, 50)):
        with spooled_outbox(tmp_path, destination=destination) as made:
            made.put(first, 50, size=500)
            made.on_disk(50)
    data = bytearray((tmp_path / "outbox.db").read_bytes())
    data[data.index(b"60 xxx") + 200] ^= 4
    (tmp_path / "outbox.db").write_bytes(data)
    with spooled_outbox(tmp_path, destination=new) as again:
        assert again.sent(49) == [number for number in range(50, 100) if number != 60]
        assert again.outbox.state().held == {str(old): 50}


@pytest.mark.parametrize("is_sealed", [True, False])
@pytest.mark.parametrize("poison", POISON)
def test_a_message_that_no_broker_accepts_keeps_no_other_from_being_sent(
    tmp_path: Path, poison: dict[str, Any], *, is_sealed: bool
) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 50)
        made.on_disk(50)
    key = keys_of(prefix_of(RESULT, 0))[0] + 7
    packed = pack(Entry(Message(**{"body": b"{}", "kind": "result"} | poison), 7))
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db", isolation_level=None)) as db:
        row = (key, 2, seal_row(key, 2, packed) if is_sealed else packed)
        db.execute("INSERT INTO messages VALUES (?, ?, ?)", row)
        if is_sealed:
            db.execute("PRAGMA application_id = 51")  # the number of rows
    with spooled_outbox(tmp_path) as again:
        assert again.sent(50) == list(range(50))
        eventually(lambda: again.outbox.state().dropped_by_cause["damaged"] == 1, "it is counted")
        assert again.alarms[0][0] == "outbox_disk"


@pytest.mark.parametrize("poison", POISON)
def test_nor_does_one_in_the_journal(tmp_path: Path, poison: dict[str, Any]) -> None:
    journal = Journal(tmp_path / "j", 4)
    killed = Outbox(100, journal)
    for each in ({"topic": "edge/a"}, poison, {"topic": "edge/b"}):
        killed.put(Message(**{"body": b"{}", "made_ns": now_ns()} | each))
    again = Outbox(100, Journal(tmp_path / "j", 4))
    assert [entry.message.topic for entry in iter(again.pop, None)] == ["edge/a", "edge/b"]
    assert again.state().dropped_by_cause["damaged"] == 1


@pytest.mark.parametrize("bit", [32, 52, 53, 58, 63])
def test_a_flipped_upper_bit_of_a_number_in_the_journal_costs_no_message(tmp_path: Path, bit: int) -> None:
    killed = Outbox(100, Journal(tmp_path / "j", 4))
    for number in range(5):
        killed.put(Message("t", b"%d " % number, kind="result"))
    data = bytearray((tmp_path / "j").read_bytes())
    data[FIRST_NUMBER_AT + bit // 8] ^= 1 << bit % 8
    (tmp_path / "j").write_bytes(data)
    with spooled_outbox(tmp_path, journal=tmp_path / "j") as again:
        again.put(5, 5)
        again.on_disk(10)
        assert sorted(again.sent(10)) == list(range(10))
    assert not again.alarms


@pytest.mark.parametrize("at", [0, 8, 24, 60])  # of checksum, number, head and text of the first record
def test_one_damaged_message_of_the_journal_is_counted_and_all_others_are_sent(tmp_path: Path, at: int) -> None:
    killed = Outbox(100, Journal(tmp_path / "j", 4))
    for number in range(5):
        killed.put(Message("t", b"%d " % number, kind="result"))
    data = bytearray((tmp_path / "j").read_bytes())
    data[FIRST_NUMBER_AT - 8 + at] ^= 1
    (tmp_path / "j").write_bytes(data)
    again = Outbox(100, Journal(tmp_path / "j", 4))
    assert [entry.message.body for entry in iter(again.pop, None)] == [b"%d " % number for number in range(1, 5)]
    assert again.state().dropped_by_cause["damaged"] == 1
