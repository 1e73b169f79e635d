"""Audit log of commands: JSON lines in a file of bounded size, beside an older one."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from edge.core.files import open_private
from edge.core.redaction import redact

log = logging.getLogger(__name__)

MOST_BYTES = 1_000_000  # of each of the two files
MOST_SHOWN = 2000  # characters of a command's arguments


class AuditLog:
    """Writes commands and their outcomes to `commands.jsonl`; a full file becomes `commands.jsonl.1`."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "commands.jsonl"
        self._is_silent = False

    def write(self, line: dict[str, Any]) -> None:
        """Append a line and log it; a failing disk is logged once, and stops no command."""
        text = json.dumps(line, ensure_ascii=True)
        log.info("command %s", text)
        try:
            self._make_room(len(text) + 1)
            with os.fdopen(open_private(self._path, os.O_WRONLY | os.O_APPEND), "a", encoding="ascii") as file:
                file.write(text + "\n")
            self._is_silent = False
        except OSError as error:
            if not self._is_silent:
                log.warning(
                    "commands are not recorded in %s (%s); check its permissions and the free space", self._path, error
                )
            self._is_silent = True

    def _make_room(self, added_bytes: int) -> None:
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return
        if size + added_bytes > MOST_BYTES:
            self._path.replace(self._path.with_suffix(".jsonl.1"))


def shown_args(args: Any) -> Any:
    """Return a command's arguments without credentials and of bounded length."""
    shown = redact(args)
    text = json.dumps(shown)
    return shown if len(text) <= MOST_SHOWN else text[:MOST_SHOWN] + "…"
