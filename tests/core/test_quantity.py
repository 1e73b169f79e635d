"""A number with its noun."""

from __future__ import annotations

from edge.core.quantity import counted


def test_one_is_singular() -> None:
    assert [counted(number, "stream") for number in (0, 1, 2)] == ["0 streams", "1 stream", "2 streams"]
