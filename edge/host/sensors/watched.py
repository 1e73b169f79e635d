"""A sensor's file that may be gated, refused, or gone for a while: read where it answers, None where it does not."""

from __future__ import annotations

from edge.host.paths import inside
from edge.host.sensors.sysfs import Attribute


class Watched:
    """One number that is read about once a second."""

    def __init__(self, path: str, scale: float = 1.0) -> None:
        self.path = path
        self._scale = scale
        self._file: Attribute | None = None

    def read(self) -> float | None:
        """Return the number times the scale; what fails costs one attempt."""
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
