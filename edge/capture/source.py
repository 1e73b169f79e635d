"""Source protocol, and opening a source by the scheme of its address."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_address import SourceAddress


class Source(Protocol):
    """Sequence of pictures; used by one thread."""

    def grab(self) -> float | None:
        """Advance to the next picture and return its time in the source, in seconds; None at the end.

        Raises SourceError if the source fails. A camera's time is not used: its frames are stamped on arrival.
        """

    def retrieve(self, buffer: Image | None) -> Image:
        """Return the grabbed picture: in `buffer` if that fits, else in new memory."""

    def ending(self) -> str | None:
        """Return, after the end, what a user should know of it; None if nothing is wrong."""

    def close(self) -> None:
        """Release the source."""


def open_source(address: SourceAddress) -> Source:
    """Open a source; raise SourceError, without credentials, if that fails."""
    if address.scheme == "synthetic":
        from edge.capture.synthetic import SyntheticSource  # noqa: PLC0415 -- each library only for its own sources

        return SyntheticSource(address)
    if address.scheme == "file":
        return _open_file(Path(address.location), address)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address)


def _open_file(path: Path, address: SourceAddress) -> Source:
    """Open a folder of pictures, a picture, or a video."""
    if not path.exists():
        raise SourceError(f"{path} does not exist; wanted a picture, a folder of pictures or a video", permanent=True)
    from edge.capture.image_files import ImageFilesSource, is_picture  # noqa: PLC0415

    if path.is_dir() or is_picture(path):
        return ImageFilesSource(path)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address)
