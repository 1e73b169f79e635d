"""Suggestion of a known name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the closest of the known names; nothing where none is close."""
    name = closest_name(word, known)
    return "" if name is None else f"; did you mean {name!r}?"


def closest_name(word: str, known: Iterable[str]) -> str | None:
    """Return the closest of the known names; None where none is close."""
    by_plain_name = {_plain(name): name for name in known}
    close = difflib.get_close_matches(_plain(word), by_plain_name, n=1)
    return by_plain_name[close[0]] if close else None


def _plain(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum()) or name
