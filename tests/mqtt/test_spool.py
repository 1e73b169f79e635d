"""Spool on disk: order, bounds, evictions, and ages across a restart of the kernel or a change of the clock."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import struct
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest

from edge.core.clock import now_ns
from edge.core.records import Message, MessageKind
from edge.mqtt.outbox import codec
from edge.mqtt.outbox import spool as spool_module
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.spool import LOWEST, Eviction, Spool, Sync

YEAR_S = 31_536_000.0
DAY_S = 86_400


def open_spool(path: Path, max_mb: int = 100, max_age_s: float = YEAR_S, first: int = 10**6) -> Spool:
    opened = Spool(path, max_mb, max_age_s, "never")
    opened.open(first)
    return opened


def entry(number: int, size: int = 20, kind: MessageKind = "result", age_s: float = 0) -> Entry:
    body = (b"%d " % number).ljust(size, b"x")
    return Entry(Message("t", body, kind=kind, made_ns=now_ns() - int(age_s * 1e9)), number)


def number(key: int) -> int:
    return key & (2**58 - 1)


def numbers(opened: Spool) -> list[int]:
    return sorted(number(each.number) for each in opened.read(LOWEST, 10**6))


def test_what_was_added_is_there_after_a_restart_in_the_order_of_its_numbers(tmp_path: Path) -> None:
    first = open_spool(tmp_path / "db")
    for batch in ((5, 6), (1, 2), (9,)):
        first.change([entry(number) for number in batch], ())
    first.close()
    again = open_spool(tmp_path / "db")
    assert numbers(again) == [1, 2, 5, 6, 9]
    key = again.read(LOWEST, 2)[1].number
    assert [each.message.body.split()[0] for each in again.read(key, 2)] == [b"5", b"6"]
    assert all(each.is_spooled and each.is_backlog for each in again.read(LOWEST, 9))
    assert (again.level().messages, again.level().bytes) == (5, 100)


def test_none_of_its_files_can_be_read_by_others_at_any_time(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        opened = open_spool(tmp_path / "db")
        opened.change([entry(1)], ())
        assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
            "db": 0o600, "db-wal": 0o600, "db-shm": 0o600,
        }  # fmt: skip
        for path in tmp_path.iterdir():
            path.unlink()
        opened.move_to_new_file()
        assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    finally:
        os.umask(before)


@pytest.mark.parametrize("name", ["db", "db-wal", "db-shm"])
def test_no_link_is_followed(tmp_path: Path, name: str) -> None:
    (tmp_path / "precious").write_text("precious", encoding="ascii")
    (tmp_path / name).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="symbolic links"):
        open_spool(tmp_path / "db")
    assert (tmp_path / "precious").read_text(encoding="ascii") == "precious"


def test_adding_twice_keeps_one(tmp_path: Path) -> None:
    opened = open_spool(tmp_path / "db")
    opened.change([entry(1)], ())
    opened.change([entry(1), entry(2)], ())
    assert numbers(opened) == [1, 2]
    assert opened.level().messages == 2


def test_rows_of_a_process_whose_clock_was_ahead_are_older_than_all_to_come(tmp_path: Path) -> None:
    first = open_spool(tmp_path / "db", first=10**6)
    first.change([entry(number) for number in (10**6 + 3, 10**6 + 7, 10**6 + 8)], ())
    first.close()
    again = open_spool(tmp_path / "db", first=500)
    again.change([entry(500)], ())
    assert [each.message.body.split()[0] for each in again.read(LOWEST, 9)] == [
        b"1000003",
        b"1000007",
        b"1000008",
        b"500",
    ]


def test_only_we_may_read_the_file(tmp_path: Path) -> None:
    open_spool(tmp_path / "db")
    assert (tmp_path / "db").stat().st_mode & 0o777 == 0o600


def test_what_is_too_old_goes_first(tmp_path: Path) -> None:
    opened = open_spool(tmp_path / "db", max_age_s=100)
    gone = opened.change([entry(1, age_s=200), entry(2, age_s=101), entry(3, age_s=50)], ())
    assert [(number(each.key), each.reason) for each in gone] == [(1, "age"), (2, "age")]
    assert numbers(opened) == [3]


def folder_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("size", [50, 900, 5000, 15_000])
def test_a_full_disk_share_gives_up_telemetry_then_results_then_alarms_oldest_first(tmp_path: Path, size: int) -> None:
    opened, count, largest = open_spool(tmp_path / "db", max_mb=2), 0, 0
    gone, added = list[Eviction](), Counter[str]()
    kinds: tuple[MessageKind, ...] = ("alarm", "result", "telemetry", "result")
    for _ in range(3_000_000 // (size + 120) // 4):
        batch = [entry(count + each, size, kind) for each, kind in enumerate(kinds)]
        count += len(batch)
        added.update(kinds)
        gone += opened.change(batch, ())
        largest = max(largest, folder_bytes(tmp_path))
    assert largest <= 2 * 10**6
    by_kind = {kind: [number(each.key) for each in gone if each.kind == kind] for kind in kinds}
    assert all(each.reason == "full" for each in gone)
    assert all(numbers == sorted(numbers) for numbers in by_kind.values())
    assert 0 < len(by_kind["result"]) < added["result"]
    assert added["telemetry"] - len(by_kind["telemetry"]) <= 1 + 8_000 // size, "all telemetry went before a result"
    assert not by_kind["alarm"]
    told = opened.level()
    assert told.messages == count - len(gone) == len(numbers(opened))
    assert told.bytes == sum(len(each.message.body) for each in opened.read(LOWEST, 10**6))


def test_room_that_became_free_is_used_again_and_given_back_at_the_end(tmp_path: Path) -> None:
    opened = open_spool(tmp_path / "db", max_mb=16)
    for begin in range(0, 40_000, 1000):
        batch = [entry(begin + each, 500) for each in range(1000)]
        assert not opened.change(batch, ())
        opened.change((), [opened.key(each) for each in batch])
    assert opened.level().messages == 0
    opened.shrink()
    assert folder_bytes(tmp_path) < 300_000


def test_a_message_for_which_there_is_no_room_at_all_goes_alone(tmp_path: Path) -> None:
    opened = open_spool(tmp_path / "db", max_mb=1)
    opened.change([entry(1), entry(2, kind="telemetry")], ())
    gone = opened.change([entry(3, 900_000, "answer")], ())
    assert [(number(each.key), each.kind, each.reason) for each in gone] == [(3, "answer", "full")]
    assert numbers(opened) == [1, 2]


def test_a_clock_that_was_never_set_says_nothing_of_ages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board without a battery starts in 1970 and hears of the time later."""
    kernel = codec.kernel_start()
    monkeypatch.setattr(codec, "wall_ns", lambda: 100 * 10**9)
    first = open_spool(tmp_path / "db", max_age_s=100)
    first.change([entry(1)], ())
    first.close()
    monkeypatch.setattr(codec, "wall_ns", lambda: 1_800_000_000 * 10**9)
    monkeypatch.setattr(codec, "kernel_start", lambda: kernel ^ 2)
    again = open_spool(tmp_path / "db", max_age_s=100)
    assert again.change((), ()) == []
    assert now_ns() - again.read(LOWEST, 1)[0].message.made_ns < 60 * 10**9


class Machine:
    """The clocks that the outbox asks: which start of the kernel it is, and what the wall clock tells."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.start, self.wall_s, self.is_synchronised = 7, 1_800_000_000, True
        patch.setattr(codec, "kernel_start", lambda: self.start)
        patch.setattr(codec, "wall_ns", lambda: self.wall_s * 10**9)
        for module in (codec, spool_module):
            patch.setattr(module, "clock_synchronised", lambda: self.is_synchronised, raising=False)

    def reboot(self, wall_s: int, *, is_synchronised: bool) -> None:
        self.start, self.wall_s, self.is_synchronised = self.start + 1, wall_s, is_synchronised


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def reasons(gone: Iterable[Eviction]) -> list[tuple[int, str]]:
    return [(number(each.key), each.reason) for each in gone]


@pytest.mark.parametrize("off_s", [-9 * DAY_S, -900 * DAY_S, -9000 * DAY_S])
@pytest.mark.parametrize(("then", "now"), [(False, True), (True, False), (False, False)])
def test_by_a_clock_that_was_or_is_not_synchronised_nothing_is_too_old_after_a_reboot(
    tmp_path: Path, machine: Machine, off_s: int, *, then: bool, now: bool
) -> None:
    machine.wall_s, machine.is_synchronised = 1_800_000_000 + off_s, then
    first = open_spool(tmp_path / "db", max_age_s=100)
    first.change([entry(1), entry(2, kind="alarm")], ())
    first.close()
    machine.reboot(1_800_000_000, is_synchronised=now)
    again = open_spool(tmp_path / "db", max_age_s=100)
    assert again.change((), ()) == []
    assert numbers(again) == [1, 2]


def test_by_a_clock_synchronised_then_and_now_what_is_too_old_goes_after_a_reboot(
    tmp_path: Path, machine: Machine
) -> None:
    first = open_spool(tmp_path / "db", max_age_s=100)
    first.change([entry(1), entry(2)], ())
    first.close()
    machine.reboot(machine.wall_s + 99, is_synchronised=True)
    again = open_spool(tmp_path / "db", max_age_s=100)
    assert again.change((), ()) == []
    machine.wall_s += 2
    assert reasons(again.change((), ())) == [(1, "age"), (2, "age")]


def test_ages_that_are_not_known_keep_no_others_from_becoming_too_old(tmp_path: Path, machine: Machine) -> None:
    machine.is_synchronised = False
    first = open_spool(tmp_path / "db", max_age_s=100)
    first.change([entry(each) for each in range(5, 8)], ())
    machine.is_synchronised = True
    first.change([entry(8)], ())
    first.close()
    machine.reboot(machine.wall_s + 50, is_synchronised=True)
    again = open_spool(tmp_path / "db", max_age_s=100)
    assert again.change([entry(9, age_s=90)], ()) == []
    machine.wall_s += 60
    assert reasons(again.change([entry(10)], ())) == [(8, "age")]
    # What comes before those that were passed over is found, too.
    assert reasons(again.change([entry(3, age_s=200)], ())) == [(3, "age")]
    assert numbers(again) == [5, 6, 7, 9, 10]


def test_once_the_clock_is_synchronised_what_it_can_tell_of_is_too_old(tmp_path: Path, machine: Machine) -> None:
    first = open_spool(tmp_path / "db", max_age_s=100)
    first.change([entry(1)], ())
    first.close()
    machine.reboot(machine.wall_s + 1000, is_synchronised=False)
    again = open_spool(tmp_path / "db", max_age_s=100)
    assert again.change((), ()) == []
    machine.is_synchronised = True
    assert reasons(again.change((), ())) == [(1, "age")]


def test_rows_of_earlier_versions_are_read_and_too_old_only_within_one_start_of_the_kernel(
    tmp_path: Path, machine: Machine
) -> None:
    """They do not say whether the clock was synchronised."""
    head = struct.Struct("<BBBHHhiiqqqqQ")
    made_ns = now_ns() - 200 * 10**9
    packed = head.pack(3, 1, 1, 1, 4, 4, -1, 9, 5, 6, made_ns, machine.wall_s * 10**9 - now_ns(), machine.start)
    packed += b"ttextdoorbody"
    with contextlib.closing(sqlite3.connect(tmp_path / "db", isolation_level=None)) as db:
        db.execute("CREATE TABLE messages (key INTEGER PRIMARY KEY, size INTEGER NOT NULL, packed BLOB NOT NULL)")
        db.execute("INSERT INTO messages VALUES (?, 4, ?)", ((3 << 58) + 1, packed))
        db.execute("PRAGMA user_version = 1")
    same = open_spool(tmp_path / "db", max_age_s=1000)
    found = same.read(LOWEST, 9)[0]
    read = found.message
    assert (read.topic, read.content_type, read.stream, read.body) == ("t", "text", "door", b"body")
    assert (found.times_sent, read.expiry_s, read.made_ns, found.is_age_known) == (1, 9, made_ns, True)
    machine.reboot(machine.wall_s + 9 * DAY_S, is_synchronised=True)
    again = open_spool(tmp_path / "db", max_age_s=1000)
    assert again.change((), ()) == []
    machine.start -= 1
    same = open_spool(tmp_path / "db", max_age_s=100)
    assert reasons(same.change((), ())) == [(1, "age")]


def test_a_file_of_another_version_is_refused(tmp_path: Path) -> None:
    open_spool(tmp_path / "db").close()
    with sqlite3.connect(tmp_path / "db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(sqlite3.DatabaseError, match="another version"):
        open_spool(tmp_path / "db")


@pytest.mark.parametrize(("sync", "level"), [("commit", 2), ("checkpoint", 1), ("never", 0)])
def test_each_commit_is_brought_to_the_medium_unless_less_is_asked_for(tmp_path: Path, sync: Sync, level: int) -> None:
    opened = Spool(tmp_path / "db", 100, YEAR_S, sync)
    opened.open(1)
    assert opened._connected.execute("PRAGMA synchronous").fetchone() == (level,)
    assert opened._connected.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_long_backlog_that_is_too_old_goes_in_parts(tmp_path: Path) -> None:
    """Else one transaction would take minutes, past the end of a daemon that is to stop."""
    opened = open_spool(tmp_path / "outbox.db")
    opened.change([entry(each, age_s=10) for each in range(3000)], [])
    opened.close()
    opened = open_spool(tmp_path / "outbox.db", max_age_s=5)
    gone = opened.change([], [])
    assert 0 < len(gone) <= 1500
    while more := opened.change([], []):
        gone += more
    assert [number(each.key) for each in gone] == list(range(3000))
