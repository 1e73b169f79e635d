"""A file of sysfs that is read again and again."""

from __future__ import annotations

import os
import re
from pathlib import Path

_MOST_BYTES = 64
_NEWLINE = 0x0A
_NUMBER = re.compile(rb"\s*(-?\d+(?:\.\d+)?)(?:\s*[A-Za-z%]+)?\s*")


def number_in(raw: bytes) -> float | None:
    """Return the number that a driver wrote, perhaps with its unit ("32760 ma"); None for anything else."""
    found = _NUMBER.fullmatch(raw.partition(b"\n")[0])
    return float(found[1]) if found else None


class Attribute:
    """A number in a file that is kept open: the kernel makes its text anew with each read from the start.

    Raises OSError on making it, and on reading, where the file is gone or refuses; it is then closed.
    """

    __slots__ = ("_ends_lines", "_folder", "_handle", "_name", "_raw", "_value", "is_partial")

    def __init__(self, place: Path) -> None:
        self._name = place.name
        self._handle = -1
        self._raw = b""
        self._value: float | None = None
        self._ends_lines = False
        self.is_partial = False  # the newest read met a file that was being written
        self._folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._open()
        except OSError:
            self.close()
            raise

    def read(self) -> float | None:
        """Return the number; None where the file holds none, or is empty or half-written at this moment."""
        try:
            raw = os.pread(self._handle, _MOST_BYTES, 0)
            # A file replaced by another is still open here, and would read the same for ever.
            if raw == self._raw and os.fstat(self._handle).st_nlink == 0:
                self._open()
                raw = os.pread(self._handle, _MOST_BYTES, 0)
        except OSError:
            self.close()
            raise
        if raw != self._raw:
            self._take(raw)
        return self._value

    def close(self) -> None:
        for handle in (self._handle, self._folder):
            if handle >= 0:
                os.close(handle)
        self._handle = self._folder = -1

    def _open(self) -> None:
        """Open what has the name now, in the folder that was opened first: another's of the same path is not taken."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._handle = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)

    def _take(self, raw: bytes) -> None:
        ends = raw.endswith(b"\n")
        # Drivers end their lines: one that has done so, and now has not, is not through with writing.
        self.is_partial = not raw or (self._ends_lines and not ends)
        self._ends_lines |= ends
        self._raw = raw
        self._value = None if self.is_partial else number_in(raw)
