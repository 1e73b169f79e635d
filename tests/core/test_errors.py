"""Errors, and what is told of those that libraries raise."""

from __future__ import annotations

from edge.core.errors import error_text


def test_a_library_error_becomes_one_line_of_bounded_length() -> None:
    assert error_text(ValueError("bad\n\n  node:\t'x'\r\n")) == "bad node: 'x'"
    assert len(error_text(ValueError("long " * 1000))) == 300
    assert error_text(ValueError()) == ""
