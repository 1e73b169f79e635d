"""TLS to cameras: certificates of rtsps:// sources, as far as FFmpeg verifies them."""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections.abc import Iterator

import cv2

from edge.core.errors import SourceError
from edge.core.source_address import SourceAddress

OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # read by OpenCV at each opening
# FFmpeg's RTSP reader passes these options on since about this version; an older one ignores them without a word.
MIN_AVFORMAT = 62
_AVFORMAT = re.compile(r"avformat:\s+YES \((\d+)")

# The options are the whole process's: two cameras of different authorities are opened one after the other.
_opening = threading.Lock()


def ffmpeg_version() -> int:
    """Return the major version of the libavformat within OpenCV; 0 where it is unknown."""
    found = _AVFORMAT.search(cv2.getBuildInformation())
    return int(found[1]) if found else 0


@contextlib.contextmanager
def verified(address: SourceAddress) -> Iterator[None]:
    """Let captures that are opened meanwhile verify the camera's certificate, where the address asks for it.

    Raises SourceError where this OpenCV cannot.
    """
    if address.scheme != "rtsps":
        yield
        return
    if address.ca is not None and (version := ffmpeg_version()) < MIN_AVFORMAT:
        raise SourceError(
            f"{address.shown}: ca is set, but FFmpeg in this OpenCV (avformat {version or 'unknown'}) cannot verify "
            f"certificates of cameras; wanted {MIN_AVFORMAT} or newer: update opencv-python-headless",
            permanent=True,
        )
    with _opening:
        before = os.environ[OPTIONS]
        if address.ca is not None:
            os.environ[OPTIONS] = f"{before}|tls_verify;1|ca_file;{address.ca}"
        try:
            yield
        finally:
            os.environ[OPTIONS] = before
