"""Spooler between memory and disk: when it writes, and the order in which the backlog is sent."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from edge.core.clock import now_ns
from edge.core.records import Message
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.spool import Eviction
from tests.support.spooled_outbox import PATIENCE_S, SpooledOutbox, eventually, spooled_outbox


def test_while_the_broker_is_there_nothing_is_written(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, memory_s=60) as made:
        made.outbox.set_connected(connected=True)
        made.put(0, 1000)
        assert made.sent(1000) == list(range(1000))
        made.outbox.set_connected(connected=True)
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_what_waits_for_a_broker_that_is_there_and_takes_nothing_goes_to_disk_too(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, memory_s=0.3) as made:
        made.outbox.set_connected(connected=True)
        made.put(0, 100)
        made.on_disk(100)
        assert made.sent(100) == list(range(100))


def test_a_short_break_stays_in_memory_and_in_order(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, memory_s=60) as made:
        made.put(0, 10)
        time.sleep(0.1)
        made.put(10, 10)
        assert made.sent(20) == list(range(20))
        assert not made.path.exists()


def test_what_waits_longer_goes_to_disk_and_is_sent_in_order(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 3000)
        made.on_disk(3000)
        assert made.outbox.state().messages == 3000
        assert made.sent(3000) == list(range(3000))
        eventually(lambda: made.outbox.state().messages == 0, "nothing waits")
    with spooled_outbox(tmp_path) as again:
        assert again.outbox.state().messages == 0


def test_a_new_start_sends_what_the_one_before_left_on_disk(tmp_path: Path) -> None:
    for first in (0, 500):
        with spooled_outbox(tmp_path, memory_s=60) as made:
            made.put(first, 500)
        assert made.outbox.state().disk_messages == first + 500, "all is on disk at the end"
    with spooled_outbox(tmp_path) as made:
        assert made.sent(1000) == list(range(1000))


def test_live_messages_go_out_before_the_backlog_and_that_by_kind(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, memory_s=3) as made:
        made.put(0, 10)
        made.put(10, 2, "telemetry")
        made.put(12, 2, "alarm")
        made.on_disk(14)
        made.outbox.set_connected(connected=True)
        eventually(lambda: made.outbox.ahead == 14, "the disk was read")
        made.put(14, 1, "telemetry")
        made.put(15, 1, "result")
        made.outbox.put(Message("status", b"16 ", retain=True))
        assert made.sent(17) == [16, 15, 14, 12, 13, *range(10), 10, 11]


def test_of_the_backlog_nothing_is_taken_where_it_is_not_asked_for(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 5)
        made.on_disk(5)
        made.outbox.set_connected(connected=True)
        eventually(lambda: made.outbox.has_waiting(backlog=True), "the disk was read")
        assert not made.outbox.has_waiting(backlog=False)
        assert made.outbox.pop(backlog=False) is None
        assert made.outbox.pop(backlog=True) is not None


def test_what_was_under_way_when_the_broker_left_is_sent_again_before_what_came_after_it(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 1000)
        made.on_disk(1000)
        made.outbox.set_connected(connected=True)
        eventually(lambda: made.outbox.has_waiting(backlog=True), "the disk was read")
        under_way = [entry for entry in (made.outbox.pop() for _ in range(64)) if entry]
        made.outbox.set_connected(connected=False)
        made.outbox.put_back(under_way)
        made.put(1000, 100)
        made.on_disk(1100)
        assert made.sent(1100) == list(range(1100))


def test_more_than_memory_may_hold_goes_to_disk_also_while_the_broker_is_there(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, bound=1000, memory_s=60) as made:
        made.outbox.set_connected(connected=True)
        for first in range(0, 3000, 100):
            made.put(first, 100)
            eventually(lambda: made.outbox.state().messages - made.outbox.state().disk_messages < 800, "memory is free")
        state = made.outbox.state()
        assert (state.messages, state.dropped) == (3000, 0)
        assert sorted(made.sent(3000)) == list(range(3000))


def test_without_a_disk_memory_is_bounded_and_that_is_told(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, bound=100, max_mb=0) as made:
        made.put(0, 150)
        eventually(lambda: bool(made.alarms), "an alarm")
        assert made.alarms[0][1] is not None
        assert made.alarms[0][1].endswith(
            " exceeded the 100 messages in memory ([mqtt] queue_messages), and the disk is off ([outbox] max_mb)"
        )
        state = made.outbox.state()
        assert (state.messages, state.dropped_by_kind["result"], state.dropped_by_cause["full"]) == (100, 50, 50)
        assert state.disk == "off"
        assert made.sent(100) == list(range(50, 150))
        eventually(lambda: made.alarms[-1] == ("outbox_full", None), "the alarm is cleared")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_share_is_told_and_ends_when_all_is_sent(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, max_mb=1) as made:
        for first in range(0, 4000, 500):
            made.put(first, 500, size=500)
            eventually(lambda: made.outbox.state().messages == made.outbox.state().disk_messages, "all is on disk")
        eventually(lambda: bool(made.alarms), "an alarm")
        alarm, reason = made.alarms[0]
        assert alarm == "outbox_full"
        assert reason is not None
        assert reason.endswith(" exceeded the 1 MB on disk ([outbox] max_mb)")
        state = made.outbox.state()
        assert state.messages + state.dropped == 4000
        assert made.sent(state.messages) == list(range(state.dropped, 4000))
        eventually(lambda: made.alarms[-1] == ("outbox_full", None), "the alarm is cleared")


def test_what_is_too_old_is_told_as_that_and_a_further_cause_in_addition(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, max_mb=1, max_age_s=1000) as made:
        for number in range(3):
            made.outbox.put(Message("t", b"%d " % number, kind="result", made_ns=now_ns() - 2000 * 10**9))
        eventually(lambda: bool(made.alarms), "an alarm")
        age = "messages were dropped: 3 were older than 1000 s ([outbox] max_age_s)"
        assert made.alarms == [("outbox_full", age)]
        for first in range(0, 4000, 500):
            made.put(first, 500, size=500)
            eventually(lambda: made.outbox.state().messages == made.outbox.state().disk_messages, "all is on disk")
        eventually(lambda: len(made.alarms) == 2, "a second alarm")
        assert made.alarms[1][1] is not None
        assert made.alarms[1][1].startswith(age + "; ")
        assert made.alarms[1][1].endswith(" exceeded the 1 MB on disk ([outbox] max_mb)")
        made.sent(made.outbox.state().messages)
        eventually(lambda: made.alarms[-1] == ("outbox_full", None), "the alarm is cleared")


def test_the_journal_holds_what_is_not_on_disk(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with spooled_outbox(tmp_path, journal=journal) as made:
        made.put(0, 2000, size=1000)
        made.on_disk(2000)
        made.outbox.set_connected(connected=True)
        assert made.outbox._journal is not None
        assert made.outbox._journal.recover() == [], "no copy stays of what is on disk"
        assert made.outbox.state().without_copy == 0
    assert not journal.exists(), "nothing waits in memory"


def test_what_a_killed_process_left_in_the_journal_goes_behind_what_it_left_on_disk(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with spooled_outbox(tmp_path, journal=journal, memory_s=3) as killed:
        killed.put(0, 100)
        killed.on_disk(100)
        killed.outbox.set_connected(connected=True)
        killed.put(100, 100)
        copy = journal.read_bytes()
        assert len(killed.sent(200)) == 200
        eventually(lambda: killed.outbox.state().messages == 0, "nothing waits")
    with spooled_outbox(tmp_path) as made:
        made.put(0, 100)
        made.on_disk(100)
    journal.write_bytes(copy)
    with spooled_outbox(tmp_path, journal=journal, memory_s=60) as again:
        assert sorted(again.sent(200)) == list(range(200))
        assert all(again.outbox.state().dropped_by_cause[cause] == 0 for cause in ("full", "damaged"))


def test_a_journal_that_fills_sends_its_messages_to_disk(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path, journal=tmp_path / "journal", memory_s=60) as made:
        for first in range(0, 100, 5):
            made.put(first, 5, size=100_000)
            time.sleep(0.02)
        eventually(lambda: made.outbox.state().disk_messages > 0, "some are on disk")
        assert made.outbox.state().dropped == 0
        assert sorted(made.sent(100)) == list(range(100))


@pytest.mark.parametrize("connected", [False, True])
@pytest.mark.parametrize("messages", [0, 10])
def test_where_there_is_nothing_to_do_the_disk_is_looked_at_once_a_commit(
    tmp_path: Path, messages: int, *, connected: bool
) -> None:
    with spooled_outbox(tmp_path, commit_s=0.1) as made:
        made.put(0, messages)
        made.on_disk(messages)
        looks, state = list[int](), made.outbox.state
        made.outbox.set_connected(connected=connected)
        eventually(lambda: not connected or made.outbox.ahead == messages, "the disk was read")
        made.outbox.state = lambda *_: looks.append(1) or state()  # type: ignore[method-assign, func-returns-value]
        time.sleep(1)
        assert len(looks) < 40


def test_neither_putting_nor_sending_nor_the_end_waits_for_a_disk_that_hangs(tmp_path: Path) -> None:
    made, hangs, goes_on = SpooledOutbox(tmp_path), threading.Event(), threading.Event()
    spool = made.spooler._spool
    assert spool is not None
    change = spool.change

    def hanging_change(add: Sequence[Entry], remove: Iterable[int]) -> list[Eviction]:
        hangs.set()
        goes_on.wait()
        return change(add, remove)

    spool.change = hanging_change  # type: ignore[method-assign]
    made.put(0, 10)
    made.spooler.start()
    assert hangs.wait(PATIENCE_S)
    made.put(10, 20)
    assert made.outbox.state().messages == 30
    assert made.sent(20) == list(range(10, 30))
    assert not made.spooler.close(0.05), "it is told that the disk did not take all"
    assert made.outbox.left_in_memory() == (0, 10)
    goes_on.set()
    assert made.spooler.close(PATIENCE_S)
    assert made.outbox.state().disk_messages == 10


def test_what_comes_to_disk_before_what_was_read_already_is_sent_too(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.put(0, 600)
        made.on_disk(600)
        made.outbox.set_connected(connected=True)
        eventually(lambda: made.outbox.ahead > 0, "the disk was read")
        made.outbox.set_connected(connected=False)
        made.put(600, 5, "alarm")
        made.on_disk(605)
        assert sorted(made.sent(605)) == list(range(605))


def test_messages_that_the_disk_does_not_take_do_not_press_it(tmp_path: Path) -> None:
    """Of QoS 0 nothing is spooled: however much of it waits, each further message must not search through all of it."""
    with spooled_outbox(tmp_path, bound=100, memory_s=60) as made:
        for _ in range(200):
            made.outbox.put(Message("t", b"0 ", 0, kind="result"))
        assert not made.outbox.is_near_limit
        made.put(0, 80)
        made.on_disk(80)
        assert not made.outbox.is_near_limit


def test_memory_without_anything_for_the_disk_leaves_no_file(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        made.outbox.put(Message("t", b"0 ", 0, kind="result"))
        time.sleep(0.1)
    assert list(tmp_path.iterdir()) == []


def test_a_file_of_which_nothing_can_be_read_leaves_no_messages_in_the_count(tmp_path: Path) -> None:
    with spooled_outbox(tmp_path) as made:
        for first in range(0, 20_000, 5000):  # more than SQLite has in its own memory
            made.put(first, 5000, size=500)
            made.on_disk(first + 5000)
        for file in (made.path, made.path.with_name("outbox.db-wal")):
            file.open("r+b").write(b"\xff" * file.stat().st_size)
        made.outbox.set_connected(connected=True)
        eventually(lambda: made.outbox.state().dropped_by_cause["damaged"] > 0, "the damage is found")
        made.sent_more([])
        eventually(lambda: made.outbox.state().messages == 0, f"nothing waits: {made.outbox.state()}")


def test_the_alarm_of_a_disk_ends_with_its_fault_also_where_nothing_waits_any_more(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    folder.write_text("where a folder should be")
    with spooled_outbox(folder) as made:
        made.put(0, 10)
        eventually(lambda: made.alarms[-1:] != [] and made.alarms[-1][0] == "outbox_disk", "an alarm")
        assert made.sent(10) == list(range(10))
        folder.unlink()
        eventually(lambda: made.alarms[-1] == ("outbox_disk", None), "the alarm ends")
        assert made.outbox.state().disk == "ok"
