"""Picture memory: a budget for the pictures of all streams together."""

from __future__ import annotations

import threading
from collections.abc import Mapping

from edge.capture.source import SourceLimits
from edge.capture.synthetic import SCENE_BYTES_PER_PIXEL, picture_size
from edge.core.errors import ConfigError, SourceError
from edge.core.process import usable_memory_bytes
from edge.core.source_address import SourceAddress

AUTO_FRACTION = 0.5  # of the machine's memory; the rest is for models, the daemon and others
BYTES_PER_PIXEL = 3  # BGR
DECODER_BYTES_PER_PIXEL = 20  # reference pictures of a video, or the working memory for a still


class PictureMemory:
    """Budget of bytes that cameras reserve, each for itself, before they deliver pictures of a new size."""

    def __init__(self, limit_mb: int | None = None) -> None:
        """Begin with nothing reserved; a limit of None is a fraction of this machine's memory."""
        self._limit_bytes = limit_mb * 10**6 if limit_mb is not None else int(AUTO_FRACTION * usable_memory_bytes())
        self._reserved: dict[object, int] = {}  # bytes by camera
        self._lock = threading.Lock()

    def reserve(self, camera: object, shown: str, size_bytes: int) -> None:
        """Reserve memory in place of what the camera had; raise SourceError where the budget does not allow it."""
        with self._lock:
            others = sum(self._reserved.values()) - self._reserved.get(camera, 0)
            if others + size_bytes > self._limit_bytes:
                raise SourceError(
                    f"the pictures of {shown} need {_mb(size_bytes)}, and those of other streams {_mb(others)}; "
                    f"{self._wanted()}"
                )
            self._reserved[camera] = size_bytes

    def release(self, camera: object) -> None:
        """Give back what a camera has reserved."""
        with self._lock:
            self._reserved.pop(camera, None)

    def check(self, sizes_bytes: Mapping[str, int]) -> None:
        """Raise ConfigError if streams with these needs, by name, exceed the budget together."""
        total = sum(sizes_bytes.values())
        if total > self._limit_bytes:
            largest = max(sizes_bytes, key=lambda name: sizes_bytes[name])
            raise ConfigError(
                f"the pictures of {len(sizes_bytes)} streams need {_mb(total)}, most of it [streams.{largest}] with "
                f"{_mb(sizes_bytes[largest])}; {self._wanted()}"
            )

    def _wanted(self) -> str:
        return (
            f"wanted at most {_mb(self._limit_bytes)} for all of them: use fewer streams or smaller pictures, or raise "
            "[device] picture_memory_mb"
        )


def needed_bytes(address: SourceAddress, pixels: int, pictures: int) -> int:
    """Return the memory of a source whose pictures have so many pixels, with so many of them in use at once."""
    own = SCENE_BYTES_PER_PIXEL if address.scheme == "synthetic" else DECODER_BYTES_PER_PIXEL
    return pixels * (own + pictures * BYTES_PER_PIXEL)


def expected_bytes(address: SourceAddress, pictures: int, limits: SourceLimits) -> int:
    """Return the memory that a source will need, where its address shows that; otherwise 0.

    Raises SourceError if its pictures are larger than the limit.
    """
    if address.scheme != "synthetic":
        return 0
    try:
        width, height = picture_size(address)
    except (ValueError, SourceError):
        return 0  # said when it is opened
    limits.check_size(address.shown, width, height)
    return needed_bytes(address, width * height, pictures)


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.0f} MB"
