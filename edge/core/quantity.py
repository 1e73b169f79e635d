"""Quantity in words: a number with its noun in the right form."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """Return "1 stream", "2 streams"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
