"""The record of what the broker retains: kept over starts, by broker and machine."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from edge.daemon.retained_record import MOST_BROKERS, RetainedRecord

HERE = "mqtt://here:1883"
OLD, NEW = "edge/cam/streams/old/status", "edge/cam/streams/new/status"


def record(folder: Path, machine: str = "a", broker: str = HERE) -> RetainedRecord:
    return RetainedRecord(folder, machine, broker)


def test_what_this_run_has_not_is_stale_until_it_is_cleared(tmp_path: Path) -> None:
    record(tmp_path).add([OLD, NEW])
    second = record(tmp_path)
    assert second.stale({NEW}) == [OLD]
    second.add([NEW])
    assert record(tmp_path).stale({NEW}) == [OLD], "not cleared yet"
    second.update([NEW])
    assert record(tmp_path).stale({NEW}) == []


def test_each_broker_has_its_own_and_the_last_ones_are_kept(tmp_path: Path) -> None:
    record(tmp_path).add([OLD])
    for number in range(MOST_BROKERS - 1):
        record(tmp_path, broker=f"mqtt://b{number}:1883").add([NEW])
    assert record(tmp_path).stale(()) == [OLD]
    record(tmp_path, broker="mqtt://one-more:1883").add([NEW])
    assert record(tmp_path).stale(()) == []


def test_a_copy_on_another_machine_clears_nothing(tmp_path: Path) -> None:
    record(tmp_path).add([OLD])
    assert record(tmp_path, machine="b").stale(()) == []


def test_components_stay_with_their_topic(tmp_path: Path) -> None:
    record(tmp_path).note_components(OLD, {"power": "sensor"})
    again = record(tmp_path)
    again.add([NEW, OLD])
    again.update([OLD])
    assert record(tmp_path).components(OLD) == {"power": "sensor"}
    assert record(tmp_path).components(NEW) == {}


def test_nothing_is_written_where_nothing_changes(tmp_path: Path) -> None:
    kept = record(tmp_path)
    kept.add([OLD])
    (tmp_path / "retained.json").unlink()
    kept.add([OLD])
    kept.update([OLD])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"machine": "a", "brokers": {"mqtt://here:1883": {"edge/#": {}}}}', '{"machine": 3}']
)
def test_a_damaged_record_is_told_and_replaced(tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    (tmp_path / "retained.json").write_text(text)
    again = record(tmp_path)
    assert again.stale(()) == []
    assert "cannot be read (damaged)" in caplog.text
    again.add([NEW])
    assert record(tmp_path).stale(()) == [NEW]


def test_a_record_that_cannot_be_written_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    record(tmp_path / "missing").add([NEW])
    assert "cannot be written (No such file or directory)" in caplog.text
