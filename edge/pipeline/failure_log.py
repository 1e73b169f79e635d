"""Failures that may come with each frame, logged without flooding the log."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping

log = logging.getLogger(__name__)

LOGGED_COUNTS = frozenset(10**power for power in range(1, 10))


class FailureLog:
    """Logs a failure with its traceback the first time, then only its count, at each power of ten."""

    def __init__(self, extra: Mapping[str, str]) -> None:
        """Take the fields that each record carries."""
        self._extra = extra
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, place: str, text: str, error: BaseException) -> None:
        """Count a failure at a place, such as a stream, and log it where it is due."""
        count = self._counts[place, text] = self._counts[place, text] + 1
        if count == 1:
            log.error("%s: %s; its frames are dropped and counted", place, text, exc_info=error, extra=self._extra)
        elif count in LOGGED_COUNTS:
            log.error("%s: %s, %d times so far", place, text, count, extra=self._extra)
