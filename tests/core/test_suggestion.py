"""The nearest known name."""

from __future__ import annotations

import pytest

from edge.core.suggestion import did_you_mean


@pytest.mark.parametrize(
    ("word", "meant"),
    [("devise", "device"), ("DEVICE", "device"), ("max_q", "max-q"), ("Person ", "person"), ("xyz", None), ("", None)],
)
def test_the_nearest_name_is_suggested(word: str, meant: str | None) -> None:
    assert did_you_mean(word, ("device", "max-q", "person")) == (f"; did you mean {meant!r}?" if meant else "")


def test_nothing_is_suggested_where_nothing_is_known() -> None:
    assert did_you_mean("device", ()) == ""
