"""Source protocol, and opening a source by the scheme of its address."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_address import SourceAddress

MAX_MPX = 50.0
# Calls into the libraries below cannot be interrupted, so none may take longer than this, unless a camera needs longer.
TIMEOUT_S = 3.0
# A call that took this fraction of the time-out ran into it, even if it succeeds: it then returns the decoder's rest.
SILENT_FRACTION = 0.9


@dataclass(frozen=True)
class SourceLimits:
    """Limits of what a source may give."""

    max_mpx: float = MAX_MPX  # megapixels of a picture
    stall_s: float = 10.0  # longest time without a frame, from a camera or within a file
    timeout_s: float = TIMEOUT_S  # of opening a camera
    on_pixels: Callable[[int], None] | None = None  # called with each picture size that passes; may raise SourceError

    def check_size(self, shown: str, width: int, height: int, *, permanent: bool = True) -> None:
        """Raise SourceError for pictures that are too large, before anything of them is decoded."""
        mpx = width * height / 1e6
        if mpx > self.max_mpx:
            raise SourceError(
                f"{shown}: found pictures of {width}×{height} ({mpx:.0f} Mpx), wanted at most {self.max_mpx:g} Mpx; "
                "scale them down, or raise max_mpx of the stream",
                permanent=permanent,
            )
        if self.on_pixels is not None:
            self.on_pixels(width * height)

    def is_time_out(self, elapsed_s: float) -> bool:
        """Return whether a call that took so long ran into the time-out."""
        return elapsed_s >= SILENT_FRACTION * self.timeout_s

    def with_more_time(self) -> SourceLimits:
        """Return limits for the next call: a camera with few frames a minute needs up to `stall_s`."""
        return replace(self, timeout_s=min(2 * self.timeout_s, max(self.stall_s, self.timeout_s)))


DEFAULT_LIMITS = SourceLimits()


class Source(Protocol):
    """Sequence of pictures; used by one thread."""

    def grab(self) -> float | None:
        """Advance to the next picture and return its time in the source, in seconds; None at the end.

        Raises SourceError if the source fails. A camera's time is not used: its frames are stamped on arrival.
        """

    def retrieve(self, buffer: Image | None) -> Image:
        """Return the grabbed picture: in `buffer` if that fits, else in new memory."""

    def ending(self) -> str | None:
        """Return what a user should know of the source so far: what was left out, and why; None if nothing is wrong."""

    def close(self) -> None:
        """Release the source."""


@runtime_checkable
class DrawnSource(Source, Protocol):
    """Source that draws its pictures; one that is dropped before anybody looks at it need not be drawn."""

    def drawing(self) -> Callable[[Image | None], Image]:
        """Return a function that draws the grabbed picture, like `retrieve`, at any later time on any thread."""


def open_source(address: SourceAddress, limits: SourceLimits = DEFAULT_LIMITS) -> Source:
    """Open a source; raise SourceError, without credentials, if that fails."""
    if address.scheme == "synthetic":
        from edge.capture.synthetic import SyntheticSource  # noqa: PLC0415 -- each library only for its own sources

        return SyntheticSource(address, limits)
    if address.scheme == "file":
        return _open_file(Path(address.location), address, limits)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address, limits)


def _open_file(path: Path, address: SourceAddress, limits: SourceLimits) -> Source:
    """Open a folder of pictures, a picture, or a video."""
    if not os.path.exists(path):  # noqa: PTH110 -- Path.exists raises for a name that is too long
        raise SourceError(f"{address.shown} does not exist; wanted a picture, a folder of pictures or a video")
    from edge.capture.image_files import FolderSource, is_picture, open_picture  # noqa: PLC0415

    if path.is_dir():
        return FolderSource(path, limits)
    if is_picture(path):
        return open_picture(path, limits)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address, limits)
