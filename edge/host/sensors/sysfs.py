"""Numeric attributes of sysfs, kept open for repeated reading."""

from __future__ import annotations

import os
import re
from pathlib import Path

from edge.host.paths import inside

_MOST_BYTES = 64
_NUMBER = re.compile(rb"\s*(-?\d+(?:\.\d+)?)(?:\s*[A-Za-z%]+)?\s*")


def number_in(raw: bytes) -> float | None:
    """Return the number that a driver wrote, with or without a unit ("32760 ma"); None for anything else."""
    found = _NUMBER.fullmatch(raw.partition(b"\n")[0])
    return float(found[1]) if found else None


class Attribute:
    """A number in a file that is kept open: the kernel renders its text anew for each read from the start.

    Construction and reading raise OSError if the file is gone or access is refused; it is then closed.
    """

    __slots__ = ("_ends_lines", "_folder", "_handle", "_name", "_raw", "_value", "is_partial")

    def __init__(self, place: Path) -> None:
        self._name = place.name
        self._handle = -1
        self._raw = b""
        self._value: float | None = None
        self._ends_lines = False
        self.is_partial = False  # the newest read hit a file that was being written
        self._folder = os.open(place.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._open()
        except OSError:
            self.close()
            raise

    def read(self) -> float | None:
        """Return the number; None if the file holds none, or is empty or half-written at this moment."""
        try:
            raw = os.pread(self._handle, _MOST_BYTES, 0)
            # A file that was replaced is still open here and would read the same for ever.
            if raw == self._raw and os.fstat(self._handle).st_nlink == 0:
                self._open()
                raw = os.pread(self._handle, _MOST_BYTES, 0)
        except OSError:
            self.close()
            raise
        if raw != self._raw:
            self._parse(raw)
        return self._value

    def close(self) -> None:
        for handle in (self._handle, self._folder):
            if handle >= 0:
                os.close(handle)
        self._handle = self._folder = -1

    def _open(self) -> None:
        """Open the current file of this name in the folder opened first, never in another folder of the same path."""
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1
        self._handle = os.open(self._name, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)

    def _parse(self, raw: bytes) -> None:
        ends = raw.endswith(b"\n")
        # Drivers end their lines: one that did so before and does not now is still writing.
        self.is_partial = not raw or (self._ends_lines and not ends)
        self._ends_lines |= ends
        self._raw = raw
        self._value = None if self.is_partial else number_in(raw)


class OptionalAttribute:
    """A scaled attribute that may be gated, refused or absent for a while: it then reads None."""

    def __init__(self, path: str, scale: float = 1.0) -> None:
        self.path = path
        self._scale = scale
        self._file: Attribute | None = None

    def read(self) -> float | None:
        """Return the number times the scale; a failure costs one attempt."""
        try:
            if self._file is None:
                self._file = Attribute(inside(self.path))
            number = self._file.read()
        except OSError:
            self._file = None
            return None
        return None if number is None else number * self._scale

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
