"""Backlog and its destination: what is held, what a person decides, and what version 0.1.0 left."""

from __future__ import annotations

import contextlib
import json
import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from edge.cli.main import main
from edge.core.records import Message
from edge.mqtt.outbox.codec import pack
from edge.mqtt.outbox.destination import Destination, ForeignPolicy
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import LOWEST, Spool
from edge.mqtt.outbox.spool_file import SLOTS
from tests.support.spooled_outbox import SpooledOutbox, eventually, spooled_outbox

# The recording is dated where the machine has not been started again since.
OF_ANY_AGE_S = 1e9
OLD = Destination("mqtt://x:1883", "edge", "A")
NEW = Destination("mqtt://y:1883", "site2", "B")
RECORDED = Path(__file__).parents[1] / "data" / "state_0.1.0"
CONFIG = """
[device]
name = "B"
[mqtt]
url = "mqtt://user:secret@y:1883"
prefix = "site2"
[models.conveyor]
path = "conveyor"
[streams.belt]
source = "synthetic://conveyor"
model = "conveyor"
"""


def leave(folder: Path, destination: Destination = OLD, first: int = 0, count: int = 20) -> None:
    """Leave a backlog for a destination on disk."""
    with spooled_outbox(folder, destination=destination) as made:
        made.put(first, count)
        made.on_disk(count)


def held(made: SpooledOutbox) -> int:
    return sum(made.outbox.state().held.values())


@pytest.mark.parametrize("moved", [{"broker": "mqtt://y:1883"}, {"prefix": "site2"}, {"device": "B"}])
def test_a_backlog_is_held_where_broker_prefix_or_device_differ_and_told(tmp_path: Path, moved: dict[str, str]) -> None:
    leave(tmp_path)
    now = replace(OLD, **moved)
    with spooled_outbox(tmp_path, destination=now) as made:
        eventually(lambda: bool(made.alarms), "an alarm")
        reason = f"held: 20 messages for edge/A at mqtt://x:1883; this device now publishes as {now}"
        assert made.alarms == [("outbox_foreign", reason)]
        made.put(100, 5)
        assert made.sent(5) == list(range(100, 105))
        assert made.sent_more([])
        state = made.outbox.state()
        assert (state.messages, state.disk_messages, held(made)) == (0, 0, 20)
        assert state.to_json()["held"] == 20


def test_back_at_its_destination_a_backlog_is_sent_in_order_and_the_other_one_held(tmp_path: Path) -> None:
    leave(tmp_path, OLD, 0)
    leave(tmp_path, NEW, 20)
    with spooled_outbox(tmp_path, destination=OLD) as made:
        assert made.sent(20) == list(range(20))
        assert made.sent_more([])
        assert made.outbox.state().held == {str(NEW): 20}


def test_a_backlog_is_sent_elsewhere_where_the_configuration_says_so(tmp_path: Path) -> None:
    leave(tmp_path)
    with spooled_outbox(tmp_path, destination=NEW, foreign="send") as made:
        assert made.sent(20) == list(range(20))
        assert made.alarms == []


def test_a_backlog_is_discarded_and_counted_where_the_configuration_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    leave(tmp_path, count=200)
    with spooled_outbox(tmp_path, destination=NEW, foreign="discard") as made:
        eventually(lambda: made.outbox.state().dropped_by_cause["discarded"] == 200, "all is discarded")
        assert (made.outbox.state().dropped_by_kind["result"], held(made)) == (200, 0)
        eventually(lambda: "200 messages for other destinations were discarded" in caplog.text, "a line in the log")


@pytest.mark.parametrize(("foreign", "kept", "sent"), [("hold", 20, 0), ("send", 0, 20), ("discard", 0, 0)])
def test_what_a_killed_process_left_in_memory_has_a_destination_too(
    tmp_path: Path, foreign: ForeignPolicy, kept: int, sent: int
) -> None:
    journal = tmp_path / "journal"
    killed = Outbox(100, Journal(journal, 4, OLD))
    for number in range(20):
        killed.put(Message("t", b"%d " % number, kind="result"))
    with spooled_outbox(tmp_path, journal=journal, destination=NEW, foreign=foreign, memory_s=60) as made:
        assert len(made.sent(sent)) == sent
        eventually(lambda: held(made) == kept, "what is held")
        assert made.outbox.state().dropped_by_cause["discarded"] == 20 - kept - sent
        eventually(lambda: not made.outbox.holds_foreign(), "nothing is held in memory")
    if kept:
        with spooled_outbox(tmp_path, journal=journal, destination=OLD) as again:
            assert again.sent(20) == list(range(20))


def test_without_a_disk_the_journal_keeps_what_is_held(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    killed = Outbox(100, Journal(journal, 4, OLD))
    killed.put(Message("t", b"0 ", kind="result"))
    for destination, kept in ((NEW, 1), (OLD, 0)):
        with spooled_outbox(tmp_path, journal=journal, max_mb=0, destination=destination) as made:
            assert held(made) == kept
            assert made.outbox.left_in_memory() == (1, 0)
            assert len(made.sent(1 - kept)) == 1 - kept


def test_more_destinations_than_the_file_can_tell_apart_wait_in_memory_for_a_decision(tmp_path: Path) -> None:
    for number in range(SLOTS):
        leave(tmp_path, Destination("mqtt://x:1883", "edge", str(number)), number, 1)
    with spooled_outbox(tmp_path, destination=NEW) as made:
        made.put(0, 5)
        eventually(lambda: bool(made.alarms), "an alarm")
        assert made.outbox.state().disk == "failed"
        assert made.sent(5) == list(range(5))
    spool = Spool(tmp_path / "outbox.db", 64, 3600, "never", Destination("mqtt://x:1883", "edge", "7"), "hold")
    spool.open(0)
    assert (spool.level().messages, sum(spool.level().held.values())) == (1, SLOTS - 1)


# Commands


def config_in(folder: Path) -> list[str]:
    (folder / "edge.toml").write_text(CONFIG)
    return [str(folder / "edge.toml"), "--state-dir", str(folder), "--json"]


def test_a_person_sees_what_is_held_without_a_secret(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["outbox", "show", *config_in(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == []
    assert main(["outbox", "show", *config_in(tmp_path)[:-1]]) == 0
    assert capsys.readouterr().out == f"no messages on disk in {tmp_path}\n"
    leave(tmp_path)
    leave(tmp_path, NEW, 20, 7)
    assert main(["outbox", "show", *config_in(tmp_path)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [(each["broker"], each["device"], each["messages"], each["held"]) for each in shown] == [
        ("mqtt://x:1883", "A", 20, True),
        ("mqtt://y:1883", "B", 7, False),
    ]
    main(["check", *config_in(tmp_path)])
    findings = {each["thing"]: each for each in json.loads(capsys.readouterr().out)}
    assert findings["backlog"]["told"] == (
        "7 messages wait on disk; 20 messages for edge/A at mqtt://x:1883 are held; see `edge outbox show`, `send` and "
        "`discard`"
    )


def test_a_person_has_the_backlog_sent_by_the_daemon_that_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path)
    with spooled_outbox(tmp_path, destination=NEW) as made:
        eventually(lambda: held(made) == 20, "it is held")
        assert main(["outbox", "send", *config_in(tmp_path)]) == 0
        assert json.loads(capsys.readouterr().out) == {"released": 20}
        assert made.sent(20) == list(range(20))
        eventually(lambda: made.alarms[-1] == ("outbox_foreign", None), "the alarm is cleared")
    # What is stored for that destination later is held again.
    leave(tmp_path, OLD)
    with spooled_outbox(tmp_path, destination=NEW) as made:
        eventually(lambda: held(made) == 20, "it is held")


def test_a_person_discards_the_backlog_while_the_daemon_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(tmp_path, count=200)
    with spooled_outbox(tmp_path, destination=NEW) as made:
        made.put(500, 10)
        made.on_disk(10)
        assert main(["outbox", "discard", *config_in(tmp_path)]) == 0
        assert json.loads(capsys.readouterr().out) == {"discarded": 200}
        for verb in ("discard", "send"):
            assert main(["outbox", verb, *config_in(tmp_path)[:-1]]) == 0
            assert capsys.readouterr().out == f"no messages are held in {tmp_path}\n"
        eventually(lambda: held(made) == 0, "nothing is held")
        assert made.sent(10) == list(range(500, 510))
    with spooled_outbox(tmp_path, destination=OLD) as made:
        assert made.outbox.state().messages == 0


# Versions before and after


@pytest.fixture
def recorded(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "state")
    return tmp_path / "state"


def topics(made: SpooledOutbox, count: int) -> Counter[str]:
    """Return the topics of so many messages, as a broker that takes them gets them."""
    made.outbox.set_connected(connected=True)
    found = Counter[str]()

    def take() -> bool:
        while (entry := made.outbox.pop()) is not None:
            assert json.loads(entry.message.body)["device"] == "bench-01"
            found[entry.message.topic] += 1
            made.outbox.settle(entry)
        return found.total() >= count

    eventually(take, f"{count} messages: {found}")
    return found


def test_of_a_state_directory_of_0_1_0_nothing_is_lost(recorded: Path) -> None:
    with spooled_outbox(recorded, max_age_s=OF_ANY_AGE_S, destination=OLD) as made:
        assert topics(made, 35) == {
            "edge/bench-01/alarms": 2,
            "edge/bench-01/streams/door/results": 28,
            "edge/bench-01/telemetry": 5,
        }
        assert (made.outbox.state().dropped, made.alarms) == (0, [])


def test_a_backlog_of_0_1_0_counts_as_for_the_destination_of_the_first_start(recorded: Path) -> None:
    with spooled_outbox(recorded, max_age_s=OF_ANY_AGE_S, destination=OLD) as made:
        made.on_disk(35)
        made.put(0, 5)
        made.on_disk(40)
    with spooled_outbox(recorded, max_age_s=OF_ANY_AGE_S, destination=NEW) as made:
        eventually(lambda: made.outbox.state().held == {str(OLD): 40}, "it is held")
        assert made.sent_more([])


def test_a_message_of_0_1_0_that_no_broker_accepts_keeps_no_other_from_being_sent(recorded: Path) -> None:
    poison = pack(Entry(Message("edge/#", b"{}", kind="result"), 1))
    with contextlib.closing(sqlite3.connect(recorded / "outbox.db", isolation_level=None)) as db:
        db.execute("INSERT INTO messages VALUES (?, 2, ?)", ((3 << 58) + 1, poison))
    with spooled_outbox(recorded, max_age_s=OF_ANY_AGE_S, destination=OLD) as made:
        assert topics(made, 35).total() == 35
        eventually(lambda: made.outbox.state().dropped_by_cause["damaged"] == 1, "it is counted")


def test_a_journal_of_0_1_0_counts_as_for_the_destination_of_the_first_start(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j", 4, OLD)
    Outbox(100, journal).put(Message("t", b"0 ", kind="result"))
    at = journal.recover()[0][0]
    journal._map[at + 16 : at + 20] = b"\1\0\0\0"  # as 0.1.0 wrote it
    assert Outbox(100, Journal(tmp_path / "j", 4, OLD)).state().messages == 1
    moved = Outbox(100, Journal(tmp_path / "j", 4, NEW)).state()
    assert (moved.messages, moved.held) == (0, {str(OLD): 1})


def test_a_file_of_a_later_version_is_left_as_it_is_and_told(tmp_path: Path) -> None:
    leave(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "outbox.db")) as db:
        db.execute("PRAGMA user_version = 99")
    before = (tmp_path / "outbox.db").read_bytes()
    with spooled_outbox(tmp_path, destination=OLD) as made:
        made.put(0, 5)
        eventually(lambda: bool(made.alarms), "an alarm")
        alarm, reason = made.alarms[0]
        assert alarm == "outbox_disk"
        assert "found format 99, which another version of edge wrote, wanted at most 2" in str(reason)
        assert made.sent(5) == list(range(5))
    assert (tmp_path / "outbox.db").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["outbox.db"]


def test_rows_stay_as_0_1_0_reads_them(tmp_path: Path) -> None:
    """It sets a file of a later format aside and sends what it finds by these two columns."""
    leave(tmp_path)
    spool = Spool(tmp_path / "outbox.db", 64, 3600, "never", OLD)
    spool.open(0)
    rows = spool._connected.execute("SELECT key, packed FROM messages").fetchall()
    assert [(key, packed[-100:]) for key, packed in rows] == [
        (entry.number, entry.message.body) for entry in spool.read(LOWEST, 100)
    ]
