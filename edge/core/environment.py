"""References to the environment in the values of a configuration: `${NAME}`, and `${NAME:-default}`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

MIN_HIDDEN = 3  # characters of a value: a shorter one is no secret, and is part of many words
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:([A-Za-z_][A-Za-z0-9_]*)(?::-([^{}]*))?\})?")
_CREDENTIALS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://(.*)@", re.DOTALL)  # of a URL
_HOW = "wanted ${NAME} or ${NAME:-default}; a $ that is meant is written $${"


class FromEnvironment(str):
    """Text with values from the environment in it, which may be secret: errors show the reference."""

    __slots__ = ("found", "reference")

    reference: str
    found: tuple[str, ...]

    def __new__(cls, text: str, reference: str, found: tuple[str, ...]) -> FromEnvironment:
        new = super().__new__(cls, text)
        new.reference, new.found = reference, found
        return new

    def __repr__(self) -> str:
        return repr(self.reference)

    def hide_in(self, sentence: str) -> str:
        """Return a sentence with the reference in place of the text, and nothing of the values."""
        sentence = sentence.replace(str(self), self.reference)
        for value in sorted(self.found, key=len, reverse=True):
            sentence = sentence.replace(value, "…") if len(value) >= MIN_HIDDEN else sentence
        return sentence


def expand(values: Any, environment: Mapping[str, str], place: str = "") -> Any:
    """Return values with their references replaced; raise ValueError, without any value, for one that is not set."""
    if isinstance(values, dict):
        return {key: expand(each, environment, f"{place}.{key}" if place else key) for key, each in values.items()}
    if isinstance(values, list):
        return [expand(each, environment, place) for each in values]
    if isinstance(values, str) and "${" in values:
        return _expand_text(values, environment, place)
    return values


def _expand_text(text: str, environment: Mapping[str, str], place: str) -> str:
    """Expand one value; in the credentials of a URL a value stands for itself, whatever signs it contains."""
    credentials = _CREDENTIALS.match(text)
    start, end = credentials.span(1) if credentials else (0, 0)
    # A reference that stands for both may contain the colon between them.
    safe = "" if credentials and ":" in _REFERENCE.sub("", credentials[1]) else ":"
    found = list[str]()

    def value_of(reference: re.Match[str]) -> str:
        name, default = reference.groups()
        if reference[0] == "$${":
            return "${"
        if name is None:
            raise ValueError(f"{_shown(place)}: found ${{ without a name of the environment behind it; {_HOW}")
        value = environment.get(name) or default
        if value is None and name not in environment:
            raise ValueError(
                f"{_shown(place)}: ${{{name}}} is not set in the environment; set {name}, give a default as in "
                f"${{{name}:-VALUE}}, or write the value itself"
            )
        found.append(value or "")
        return quote(found[-1], safe=safe) if start <= reference.start() < end else found[-1]

    expanded = _REFERENCE.sub(value_of, text)
    return FromEnvironment(expanded, text, tuple(found)) if found else expanded


def _shown(place: str) -> str:
    """Return the place of a value as other errors name it: [streams.door] source."""
    table, _, key = place.rpartition(".")
    return f"[{table}] {key}" if table else key
