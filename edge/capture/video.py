"""Video files, RTSP and V4L2 cameras, through OpenCV."""

from __future__ import annotations

import contextlib
import os
from time import monotonic

import cv2

from edge.capture.camera_tls import OPTIONS, verified
from edge.capture.media_clock import MediaClock
from edge.capture.source import DEFAULT_LIMITS, TIMEOUT_S, SourceLimits
from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_address import NETWORK_SCHEMES, SourceAddress

# The libraries may write the address with its password to standard error; failures reach us as return values.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# The only time-out of V4L2 in OpenCV, in seconds, read at the first capture.
os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(round(TIMEOUT_S)))
# Analyse at most half a second (µs) of a stream to learn its format: the default is 5 s, which a slow camera cannot
# deliver within the time-out. TCP first is OpenCV's own default, which setting any option replaces.
os.environ.setdefault(OPTIONS, "rtsp_flags;prefer_tcp|analyzeduration;500000")
# The frames of that half second are buffered when an RTSP stream opens. They are late, so they are skipped: a frame is
# live once it had to be waited for. This limits the skipping, should a server send faster than real time.
BACKLOG_FRAMES = 64
WAITED_S = 0.002
# A file is decoded on the camera's thread only: the cores belong to the lanes.
DECODER_THREADS = 1
# FFmpeg's names of codecs (four letters), as people know them.
CODECS = {"av01": "AV1", "av1": "AV1", "vvc": "H.266", "vvc1": "H.266", "hevc": "H.265", "hev1": "H.265"} | {
    "hvc1": "H.265",
    "h264": "H.264",
    "avc1": "H.264",
    "mjpg": "Motion JPEG",
    "mjpe": "Motion JPEG",
}
DECODED_EVERYWHERE = ("H.264", "H.265", "Motion JPEG")


class VideoSource:
    """Video file or camera in an OpenCV capture."""

    def __init__(
        self,
        address: SourceAddress,
        limits: SourceLimits = DEFAULT_LIMITS,
        location: str | None = None,
        fault: str | None = None,
    ) -> None:
        """Open the source; `location` is where a file is found, if not at its address, `fault` is said at its end."""
        self._address = address
        self._location = location or address.secret_url
        self._limits = limits
        self._fault = fault
        self._grabbed = 0
        self._is_ahead = False  # a frame is grabbed that was not given yet
        self._has_ended = False
        self._dead = False  # after a time-out FFmpeg's side of the capture is unusable
        self._open()
        self._expected = int(self._capture.get(cv2.CAP_PROP_FRAME_COUNT)) if not address.is_live else 0
        self._clock = MediaClock(float(self._capture.get(cv2.CAP_PROP_FPS)), limits.stall_s)

    def grab(self) -> float | None:
        if self._dead:
            self._reopen()
        start_s = monotonic()
        grabbed = self._is_ahead or self._capture.grab()
        self._is_ahead = False
        if self._address.is_live and self._took_time_out(start_s):
            self._time_out()
        if not grabbed:
            self._check_end()
            self._has_ended = True
            return None
        self._grabbed += 1
        reported_s = float(self._capture.get(cv2.CAP_PROP_POS_MSEC)) / 1000
        return reported_s if self._address.is_live else self._clock.at(reported_s)

    def _time_out(self) -> None:
        """Raise TimeoutError; the next call waits longer, as the camera may need that for a frame."""
        if self._address.scheme in NETWORK_SCHEMES:
            self._dead = True
            self._limits = self._limits.with_more_time()
        raise TimeoutError

    def _reopen(self) -> None:
        """Reopen the capture; raise TimeoutError if the camera is still silent."""
        self._capture.release()
        start_s = monotonic()
        try:
            self._open()
        except SourceError:
            if self._took_time_out(start_s):
                self._time_out()
            raise

    def _open(self) -> None:
        start_s = monotonic()
        self._capture = _open_capture(self._address, self._location, self._limits.timeout_s)
        try:
            width, height = (
                int(self._capture.get(each)) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
            )
            self._limits.check_size(self._address.shown, width, height, permanent=not self._address.is_live)
        except SourceError:
            self._capture.release()
            raise
        self._dead = False
        if self._address.scheme in NETWORK_SCHEMES:
            # After a time-out meanwhile, the next `grab` opens it again.
            with contextlib.suppress(TimeoutError):
                self._skip_backlog(start_s)

    def _skip_backlog(self, start_s: float) -> None:
        """Skip the frames that arrived while the stream was being opened; raise TimeoutError as `grab` does."""
        if self._took_time_out(start_s):
            self._time_out()
        for _ in range(BACKLOG_FRAMES):
            start_s = monotonic()
            grabbed = self._capture.grab()
            if self._took_time_out(start_s):
                self._time_out()
            self._is_ahead = grabbed and monotonic() - start_s >= WAITED_S
            if self._is_ahead or not grabbed:
                return

    def _took_time_out(self, start_s: float) -> bool:
        return self._limits.is_time_out(monotonic() - start_s)

    def _check_end(self) -> None:
        """Raise SourceError if the source did not end regularly."""
        codec = _codec(self._capture)
        if self._address.is_live and (self._grabbed or codec in DECODED_EVERYWHERE):
            raise SourceError(f"{self._address.shown} ended or disconnected")
        if not self._grabbed:
            raise _undecodable(self._address, codec)

    def retrieve(self, buffer: Image | None) -> Image:
        good, picture = self._capture.retrieve(buffer)
        if not good or picture is None:
            raise SourceError(f"{self._address.shown} delivered a frame that cannot be converted to BGR")
        return picture  # type: ignore[return-value]  # OpenCV's stubs leave the dtype open

    def ending(self) -> str | None:
        remarks = [self._fault, self._clock.remark()]
        if self._grabbed < self._expected and self._has_ended:
            remarks.append(
                f"delivered {self._grabbed} of about {self._expected} frames: the file may be truncated or damaged"
            )
        return "; ".join(filter(None, remarks)) or None

    def close(self) -> None:
        self._capture.release()


def _open_capture(address: SourceAddress, location: str, timeout_s: float) -> cv2.VideoCapture:
    if address.scheme == "v4l2":
        capture = cv2.VideoCapture(address.location, cv2.CAP_V4L2)
    else:
        timeout_ms = round(1000 * timeout_s)
        limits = [cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, timeout_ms, cv2.CAP_PROP_READ_TIMEOUT_MSEC, timeout_ms]
        threads = [cv2.CAP_PROP_N_THREADS, DECODER_THREADS]
        with verified(address):
            capture = cv2.VideoCapture(location, cv2.CAP_FFMPEG, [*limits, *threads])
    if not capture.isOpened():
        if address.scheme == "file":
            undecoded = cv2.VideoCapture(location, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
            if undecoded.isOpened():
                raise _undecodable(address, _codec(undecoded))
        raise _cannot_open(address)
    return capture


def _codec(capture: cv2.VideoCapture) -> str:
    """Return the name of a capture's codec."""
    letters = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little", signed=True)
    name = letters.decode("ascii", "replace").strip("\0 ").lower()
    return CODECS.get(name, name.upper() if name.isprintable() and name else "unknown")


def _undecodable(address: SourceAddress, codec: str) -> SourceError:
    if codec in DECODED_EVERYWHERE:
        return SourceError(
            f"{address.shown} contains no decodable frame of its codec {codec}; it may be damaged: copy it again",
            permanent=not address.is_live,
        )
    remedy = "set the camera" if address.is_live else "convert it (ffmpeg -i IN -c:v libx264 OUT.mp4)"
    return SourceError(
        f"{address.shown} contains no decodable frame: found codec {codec}, wanted one that FFmpeg decodes here; "
        f"{remedy} to H.264",
        permanent=not address.is_live,
    )


def _cannot_open(address: SourceAddress) -> SourceError:
    if address.scheme == "file":
        found = "is empty" if _is_empty(address.location) else "cannot be opened"
        return SourceError(f"{address.shown} {found}; wanted a video that FFmpeg reads, or a picture", permanent=True)
    if address.scheme == "v4l2":
        wanted = "a camera that no other program uses (`v4l2-ctl --list-devices`) and read access to it (group video)"
    else:
        wanted = "a reachable server, this path, and the right user name and password"
        if address.ca is not None:
            wanted += (
                f", with a certificate signed by {address.ca} and, for a host that is named, made out to that name"
            )
    return SourceError(f"{address.shown} cannot be opened; wanted {wanted}")


def _is_empty(path: str) -> bool:
    try:
        return os.stat(path).st_size == 0  # noqa: PTH116 -- a path of OpenCV's
    except OSError:
        return False
