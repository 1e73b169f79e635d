"""Log records in the journal's native protocol, over a real socket, and read by journald itself if installed."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host import journal
from edge.host.journal import JournalHandler, entry, journal_handler
from tests.support.journal_socket import Listener, parse


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    listening = Listener(tmp_path / "journal")
    yield listening
    listening.close()


@contextlib.contextmanager
def logging_to(path: str) -> Iterator[logging.Logger]:
    logger = logging.getLogger("edge.trial")
    handler = JournalHandler(path)
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    yield logger
    logger.removeHandler(handler)
    handler.close()


@pytest.fixture
def log(listener: Listener) -> Iterator[logging.Logger]:
    with logging_to(listener.path) as logger:
        yield logger


def test_a_record_arrives_with_its_level_its_place_and_what_it_is_about(
    listener: Listener, log: logging.Logger
) -> None:
    log.warning("stream %s is away", "door", extra={"stream": "door", "model": "detector"})
    fields = listener.next()
    assert fields["MESSAGE"] == "stream door is away"
    assert (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"], fields["LOGGER"]) == ("4", "edge", "edge.trial")
    assert (fields["EDGE_STREAM"], fields["EDGE_MODEL"]) == ("door", "detector")
    assert "EDGE_ENGINE" not in fields
    assert fields["CODE_FILE"] == __file__
    assert fields["CODE_FUNC"] == test_a_record_arrives_with_its_level_its_place_and_what_it_is_about.__name__
    assert int(fields["CODE_LINE"]) > 1


@pytest.mark.parametrize(("level", "priority"), [(50, "2"), (40, "3"), (30, "4"), (20, "6"), (10, "7")])
def test_each_level_has_its_priority(listener: Listener, log: logging.Logger, level: int, priority: str) -> None:
    log.log(level, "told")
    assert listener.next()["PRIORITY"] == priority


def test_a_traceback_is_one_entry(listener: Listener, log: logging.Logger) -> None:
    try:
        _ = 1 / 0
    except ZeroDivisionError:
        log.exception("it failed")
    message = listener.next()["MESSAGE"]
    assert message.startswith("it failed\nTraceback (most recent call last):\n")
    assert message.endswith("ZeroDivisionError: division by zero")


def test_what_is_too_long_for_a_datagram_comes_as_a_sealed_file(listener: Listener, log: logging.Logger) -> None:
    long = "line\n" * 200_000
    log.error(long)
    fields = listener.next()
    assert fields["MESSAGE"] == long
    assert fields["PRIORITY"] == "3"


def test_a_journal_that_reads_nothing_costs_records_which_are_counted_and_no_time(
    listener: Listener, log: logging.Logger
) -> None:
    for number in range(5000):
        log.info("record %d", number)
    assert listener.next()["MESSAGE"] == "record 0"
    log.info("there is room again")
    arrived = 1
    while (fields := listener.next())["MESSAGE"] != "there is room again":
        assert fields["MESSAGE"] == f"record {arrived}"
        arrived += 1
    assert int(fields["EDGE_RECORDS_LOST"]) == 5000 - arrived > 0


def test_a_journal_that_is_away_is_no_failure_and_is_used_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "later"
    with logging_to(str(path)) as log:
        log.info("nobody hears this")
        listening = Listener(path)
        log.info("this is heard")
        fields = listening.next()
        listening.close()
    assert (fields["MESSAGE"], fields["EDGE_RECORDS_LOST"]) == ("this is heard", "1")


def test_a_record_whose_arguments_do_not_fit_raises_nothing(listener: Listener) -> None:
    """The handler is asked itself, as pytest's own raises what ours must not."""
    handler = JournalHandler(listener.path)
    for arguments in (("many",), (5,)):
        handler.handle(logging.LogRecord("edge", 20, __file__, 1, "%d frames", arguments, None))
    handler.close()
    fields = listener.next()
    assert (fields["MESSAGE"], fields["EDGE_RECORDS_LOST"]) == ("5 frames", "1")


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z0-9_]{0,20}", fullmatch=True), st.text(), max_size=6))
def test_whatever_text_the_fields_hold_comes_back(fields: dict[str, str]) -> None:
    sendable = {name: value.encode("utf-8", "replace").decode() for name, value in fields.items()}
    assert parse(entry(fields)) == sendable


@pytest.mark.parametrize("stream", ["", "1:2", "no stream"])
def test_without_a_stream_to_the_journal_records_go_to_standard_error(
    monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", stream)
    assert journal_handler() is None


def test_the_name_of_the_socket_is_that_of_the_documentation() -> None:
    assert journal.SOCKET == "/run/systemd/journal/socket"
