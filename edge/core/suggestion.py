"""Suggestion of a known name for a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'NAME'?" for the closest of the known names; nothing where none is close."""
    by_plain_name = {_plain(name): name for name in known}
    close = difflib.get_close_matches(_plain(word), by_plain_name, n=1)
    return f"; did you mean {by_plain_name[close[0]]!r}?" if close else ""


def _plain(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum()) or name
