"""Video files, RTSP and V4L2 cameras, through OpenCV."""

from __future__ import annotations

import os
from time import monotonic

import cv2

from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_address import SourceAddress

# Calls into the libraries below cannot be interrupted, so none may take longer than this.
TIMEOUT_MS = 3000
# A read that took this fraction of the time-out was one, even if it succeeds: it then returns the decoder's rest.
SILENT_FRACTION = 0.9
# The libraries may write the address with its password to standard error; failures reach us as return values.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# The only time-out of V4L2 in OpenCV, in seconds, read at the first capture.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(TIMEOUT_MS // 1000))
# Analyse at most half a second (µs) of a stream to learn its format: the default is 5 s, which a slow camera cannot
# deliver within the time-out. TCP first is OpenCV's own default, which setting any option replaces.
os.environ.setdefault("OPENCV_FFMPEG_CAPTURE_OPTIONS", "rtsp_flags;prefer_tcp|analyzeduration;500000")
# The frames of that half second are buffered when an RTSP stream opens. They are late, so they are skipped: a frame is
# live once it had to be waited for. This limits the skipping, should a server send faster than real time.
BACKLOG_FRAMES = 64
WAITED_S = 0.002
# A file is decoded on the camera's thread only: the cores belong to the lanes.
DECODER_THREADS = 1
NETWORK_SCHEMES = ("rtsp", "rtsps")


class VideoSource:
    """Video file or camera in an OpenCV capture."""

    def __init__(self, address: SourceAddress) -> None:
        self._address = address
        self._grabbed = 0
        self._capture = _open_capture(address)
        self._dead = False  # after a time-out FFmpeg's side of the capture is unusable
        self._expected = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if not address.is_live else 0
        self._skip_backlog()

    def grab(self) -> float | None:
        if self._dead:
            self._reopen()
        start_s = monotonic()
        grabbed = self._capture.grab()
        if self._address.is_live and _took_time_out(start_s):
            self._dead = True
            raise TimeoutError
        if not grabbed:
            self._check_end()
            return None
        self._grabbed += 1
        return float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000

    def _reopen(self) -> None:
        """Reopen the capture; raise TimeoutError if the camera is still silent."""
        self._capture.release()
        start_s = monotonic()
        try:
            self._capture = _open_capture(self._address)
        except SourceError:
            if _took_time_out(start_s):
                raise TimeoutError from None
            raise
        self._dead = False
        self._skip_backlog()

    def _skip_backlog(self) -> None:
        """Skip the frames that arrived while the stream was being opened."""
        if self._address.scheme not in NETWORK_SCHEMES:
            return
        for _ in range(BACKLOG_FRAMES):
            start_s = monotonic()
            if not self._capture.grab() or monotonic() - start_s >= WAITED_S:
                return

    def _check_end(self) -> None:
        """Raise SourceError if the source did not end regularly."""
        if self._address.is_live:
            raise SourceError(f"{self._address.shown} ended or disconnected")
        if not self._grabbed:
            raise SourceError(f"{self._address.shown} contains no decodable frame", permanent=True)

    def retrieve(self, buffer: Image | None) -> Image:
        good, picture = self._capture.retrieve(buffer)
        if not good or picture is None:
            raise SourceError(f"{self._address.shown} delivered a frame that cannot be converted to BGR")
        return picture  # type: ignore[return-value]  # OpenCV's stubs leave the dtype open

    def ending(self) -> str | None:
        if self._grabbed < self._expected:
            return f"delivered {self._grabbed} of about {self._expected} frames: the file may be truncated or damaged"
        return None

    def close(self) -> None:
        self._capture.release()


def _took_time_out(start_s: float) -> bool:
    return monotonic() - start_s >= SILENT_FRACTION * TIMEOUT_MS / 1000


def _open_capture(address: SourceAddress) -> cv2.VideoCapture:
    if address.scheme == "v4l2":
        capture = cv2.VideoCapture(address.location, cv2.CAP_V4L2)
    else:
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, TIMEOUT_MS, cv2.CAP_PROP_READ_TIMEOUT_MSEC, TIMEOUT_MS]
        threads = [cv2.CAP_PROP_N_THREADS, DECODER_THREADS]
        capture = cv2.VideoCapture(address.secret_url, cv2.CAP_FFMPEG, [*limits, *threads])
    if not capture.isOpened():
        raise _cannot_open(address)
    return capture


def _cannot_open(address: SourceAddress) -> SourceError:
    if address.scheme == "file":
        wanted = "a video that FFmpeg reads, or a picture"
    elif address.scheme == "v4l2":
        wanted = "a camera that no other program uses (`v4l2-ctl --list-devices`) and read access to it (group video)"
    else:
        wanted = "a reachable server, this path, and the right user name and password"
    return SourceError(f"{address.shown} cannot be opened; wanted {wanted}", permanent=address.scheme == "file")
