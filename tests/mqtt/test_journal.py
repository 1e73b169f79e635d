"""Journal that outlives the process: what it recovers, what it does not, and where it lies."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.mqtt.outbox.factory import open_journal
from edge.mqtt.outbox.journal import SEGMENT_BYTES, Journal


@contextmanager
def journal(path: Path, segments: int = 4) -> Iterator[Journal]:
    opened = Journal(path, segments)
    yield opened
    opened._map.close()
    os.close(opened._fd)


def left(path: Path, segments: int = 4) -> list[tuple[int, bytes]]:
    with journal(path, segments) as again:
        return [(number, data) for _, number, data in again.recover()]


def test_what_was_not_removed_is_read_again_in_order(tmp_path: Path) -> None:
    with journal(tmp_path / "j") as first:
        places = [first.add(number, b"%d" % number) for number in range(1000)]
        for number in range(0, 1000, 2):
            first.remove(places[number])
    assert left(tmp_path / "j") == [(number, b"%d" % number) for number in range(1, 1000, 2)]


def test_a_second_process_adds_and_the_third_reads_both(tmp_path: Path) -> None:
    with journal(tmp_path / "j") as first:
        first.add(1, b"first")
    with journal(tmp_path / "j") as second:
        assert [number for _, number, _ in second.recover()] == [1]
        second.add(2, b"second")
    assert left(tmp_path / "j") == [(1, b"first"), (2, b"second")]


def test_segments_are_used_again_without_end(tmp_path: Path) -> None:
    data = bytes(SEGMENT_BYTES // 8)
    with journal(tmp_path / "j", segments=2) as first:
        for number in range(200):
            at = first.add(number, data)
            assert at >= 0
            first.remove(at)
        assert first.add(1000, b"last") >= 0
    assert left(tmp_path / "j", segments=2) == [(1000, b"last")]
    assert (tmp_path / "j").stat().st_size <= 3 * SEGMENT_BYTES


def test_a_full_journal_and_a_message_too_long_say_so(tmp_path: Path) -> None:
    data = bytes(SEGMENT_BYTES // 2)
    with journal(tmp_path / "j", segments=3) as first:
        assert first.add(0, bytes(SEGMENT_BYTES)) == -1
        places = [first.add(number, data) for number in range(4)]
        assert places[:3] == sorted(places[:3])
        assert places[3] == -1
        assert first.fullness == 1
        first.remove(places[0])
        assert first.add(5, data) >= 0


def test_nothing_of_an_earlier_use_of_a_segment_is_read(tmp_path: Path) -> None:
    """A new record may end where an old one began, so that old ones lie well-formed behind it."""
    with journal(tmp_path / "j", segments=1) as first:
        for number in range(10):
            first.add(number, b"same length")
        for at, _, _ in list(first.recover()):
            first.remove(at)
    with journal(tmp_path / "j", segments=1) as second:
        second.recover()
        second.add(100, b"same length")
    assert left(tmp_path / "j", segments=1) == [(100, b"same length")]


def test_a_damaged_generation_is_no_end_of_generations(tmp_path: Path) -> None:
    with journal(tmp_path / "j") as first:
        first._map[4096:4104] = b"\xff" * 8
    with journal(tmp_path / "j") as second:
        assert second.recover() == []
        assert second.add(1, b"new") >= 0
    assert left(tmp_path / "j") == [(1, b"new")]


def test_a_file_of_another_kind_is_begun_anew(tmp_path: Path) -> None:
    (tmp_path / "j").write_bytes(b"something else")
    assert left(tmp_path / "j") == []


@given(st.integers(0, 2**32))
def test_a_damaged_journal_gives_only_what_was_written(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    path = tmp_path_factory.mktemp("journal") / "j"
    dice = random.Random(seed)
    written = {number: dice.randbytes(dice.randrange(300)) for number in range(40)}
    with journal(path, 1) as first:
        for number, data in written.items():
            first.add(number, data)
        for _ in range(dice.randrange(1, 6)):
            first._map[4096 + dice.randrange(8000)] = dice.randrange(256)
    found = left(path, 1)
    assert all(written[number] == data for number, data in found if number in written)
    assert [number for number, _ in found] == sorted(number for number, _ in found)


def test_the_journal_lies_in_memory_where_only_we_may_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shared = Path("/dev/shm") / f"edge-test-{os.getpid()}"
    shared.mkdir()
    try:
        monkeypatch.setenv("RUNTIME_DIRECTORY", str(shared / "run"))
        opened = open_journal(tmp_path)
        assert opened is not None
        assert opened.path.parent == shared / "run"
        assert opened.path.stat().st_mode & 0o777 == 0o600
        assert opened.path.parent.stat().st_mode & 0o777 == 0o700
        opened.close()
        assert not opened.path.exists(), "nothing waits, nothing stays"
    finally:
        for name in ("run", "."):
            (shared / name).rmdir() if name == "run" else shared.rmdir()


def test_without_a_folder_in_memory_there_is_no_journal_and_that_is_said(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "open").mkdir(mode=0o777)
    (tmp_path / "open").chmod(0o777)
    monkeypatch.setattr("edge.mqtt.outbox.factory._folders", lambda: iter([tmp_path / "run", tmp_path / "open"]))
    monkeypatch.setattr("edge.mqtt.outbox.factory.MEMORY_FILE_SYSTEMS", ("none",))
    assert open_journal(tmp_path) is None
    assert "run is not in memory" in caplog.text
    assert "open is not a directory that only this user may write to" in caplog.text
    assert len(caplog.records) == 1


def test_two_state_directories_have_two_journals(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"/dev/shm/edge-test-{os.getpid()}-two")
    one, other = open_journal(tmp_path / "one"), open_journal(tmp_path / "other")
    assert one is not None
    assert other is not None
    assert one.path != other.path
    for each in (one, other):
        each.close()
    one.path.parent.rmdir()
