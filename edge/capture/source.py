"""The protocol of a source, and the table that opens one by its scheme."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_url import Address


class Source(Protocol):
    """Pictures one after the other; used by one thread."""

    def grab(self) -> float | None:
        """Step to the next picture and return its time in the source, in seconds; None at the end.

        Raises SourceError where the source broke. A camera's time is not used: its frames are stamped on arrival.
        """

    def retrieve(self, buffer: Image | None) -> Image:
        """Return the grabbed picture, H×W×3, BGR, uint8: in `buffer` where that fits, else in new memory."""

    def ending(self) -> str | None:
        """After the end: what a user should know of it, None where all is as it should be."""

    def close(self) -> None: ...


def open_source(address: Address) -> Source:
    """Open a source; raise SourceError in one sentence, without credentials, where that fails."""
    if address.scheme == "synthetic":
        from edge.capture.synthetic import SyntheticSource  # noqa: PLC0415 -- each library where its source is opened

        return SyntheticSource(address)
    if address.scheme == "file":
        return _open_file(Path(address.location), address)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address)


def _open_file(path: Path, address: Address) -> Source:
    """Open a folder of pictures, a picture, or a video."""
    if not path.exists():
        raise SourceError(f"{path} does not exist; wanted a picture, a folder of pictures or a video", permanent=True)
    from edge.capture.image_files import PictureSource, is_picture  # noqa: PLC0415

    if path.is_dir() or is_picture(path):
        return PictureSource(path)
    from edge.capture.video import VideoSource  # noqa: PLC0415

    return VideoSource(address)
