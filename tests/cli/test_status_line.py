"""The status line of `edge run`."""

from __future__ import annotations

import logging
import sys

import pytest

from edge.cli.status_line import status_line


def test_a_terminal_shows_the_newest_text_below_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    with status_line() as show:
        assert show is not None
        show("1 of 1 streams running, 29.9 results/s")
        for handler in logging.getLogger().handlers:
            handler.filter(logging.makeLogRecord({"msg": "a line of the log"}))
        show("x" * 100)
    *_, last, nothing = capsys.readouterr().err.split("\r\x1b[K")
    assert (len(last), nothing) == (39, "")
    assert not any(each for handler in logging.getLogger().handlers for each in handler.filters)


def test_a_pipe_shows_none(capsys: pytest.CaptureFixture[str]) -> None:
    with status_line() as show:
        assert show is None
    assert capsys.readouterr().err == ""
