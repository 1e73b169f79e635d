"""Camera: the capture thread of one stream, with pacing, time stamps and reconnects."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

import cv2
import numpy as np

from edge.capture.picture_memory import PictureMemory, expected_bytes, needed_bytes
from edge.capture.source import MAX_MPX, DrawnSource, Source, SourceLimits, open_source
from edge.core.backoff import Backoff
from edge.core.clock import now_ns, wall_ns
from edge.core.errors import SourceError
from edge.core.records import Frame, FrameOwner, Image, StreamState
from edge.core.source_address import SourceAddress

log = logging.getLogger(__name__)

FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 5.0
# Pictures in use at once by a queue and a few lanes; no more are kept for reuse.
SPARE_BUFFERS = 16

LONE_PICTURE_S = 0.1  # duration of a source of one picture, played live

Polygon = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class CameraSettings:
    """Capture settings of one stream."""

    name: str
    address: SourceAddress
    every: bool = False  # each frame, as fast as the pipeline takes them; else live, at the source's own pace
    loop: bool = False
    fps: float = 0.0  # upper limit; 0: none
    stall_s: float = 10.0
    masks: tuple[Polygon, ...] = ()  # blacked-out areas, in source pixels
    max_mpx: float = MAX_MPX  # megapixels of a picture
    pictures: int = 3  # in use at once: waiting, being captured, being preprocessed

    @property
    def limits(self) -> SourceLimits:
        return SourceLimits(self.max_mpx, self.stall_s)

    @property
    def expected_bytes(self) -> int:
        """Memory that the source's address shows it to need; raises SourceError for pictures that are too large."""
        return expected_bytes(self.address, self.pictures, self.limits)


class Camera:
    """Capture thread of one stream; it runs until its source ends for good or `stop` is called."""

    def __init__(
        self,
        settings: CameraSettings,
        owner: FrameOwner,
        deliver: Callable[[Frame], None],
        on_captured: Callable[[], int],
        on_state: Callable[[StreamState, str | None], None],
        memory: PictureMemory | None = None,
    ) -> None:
        """Set up the thread; `on_captured` counts a frame and returns its number, `on_state` reports each change.

        Without a `memory` that all streams have in common, the camera has one of its own.
        """
        self._owner = owner
        self._settings = settings
        self._deliver = deliver
        self._on_captured = on_captured
        self._on_state = on_state
        self._stop = threading.Event()
        self._buffers: deque[Image] = deque(maxlen=SPARE_BUFFERS)
        self._masks = [np.array(polygon, np.int32) for polygon in settings.masks]
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._running = False
        self._memory = memory or PictureMemory()
        self._limits = settings.limits
        self._thread = threading.Thread(target=self._run, name=f"camera-{settings.name}", daemon=True)

    def start(self) -> None:
        """Start capturing."""
        address = self._settings.address
        if address.scheme == "rtsps" and address.ca is None:
            log.warning(
                "stream %s: the certificate of %s is not verified, so that another server could get the password; set "
                "ca to the camera's certificate or its authority",
                self._settings.name,
                address.shown,
            )
        self._thread.start()

    def stop(self) -> None:
        """Ask the camera to end."""
        self._stop.set()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; return False if it hangs in library code."""
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            state, reason = self._capture()
        except Exception as error:  # the top of a thread: this stream fails, the others run on
            log.exception("stream %s: camera failed unexpectedly", self._settings.name)
            state, reason = "failed", f"unexpected failure of the camera: {error!r}; see the log"
        self._memory.release(self)
        self._on_state(state, reason)

    def _capture(self) -> tuple[StreamState, str | None]:
        """Play the source, with reconnects and loops, until it ends or fails for good; return the final state."""
        while not self._stop.is_set():
            try:
                with self._opened() as source:
                    self._play(source)
                    ending = source.ending()
            except SourceError as error:
                if error.permanent:
                    return "failed", str(error)
                self._reconnect(str(error))
                continue
            if not self._settings.loop:
                return ("off", "stopped") if self._stop.is_set() else ("ended", ending)
            if ending is not None:
                self._on_state("running", ending)
        return "off", "stopped"

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Source]:
        address = self._settings.address
        start_ns = now_ns()
        try:
            source = open_source(address, replace(self._limits, on_pixels=self._reserve))
        except SourceError:
            # A camera with few frames a minute does not even say its format within the usual time.
            if address.is_live and self._limits.is_time_out((now_ns() - start_ns) / 1e9):
                self._limits = self._limits.with_more_time()
            raise
        try:
            yield source
        finally:
            source.close()

    def _reconnect(self, reason: str) -> None:
        """Report the loss and pause before the next attempt."""
        if self._stop.is_set():
            return
        self._running = False
        self._on_state("reconnecting", reason)
        self._stop.wait(self._backoff.next_s())

    def _play(self, source: Source) -> None:
        """Deliver the frames of the source until it ends."""
        pacer = _Pacer(self._settings, self._stop)
        has_remark = False
        drawn_late = source if isinstance(source, DrawnSource) and not self._settings.every else None
        while not self._stop.is_set():
            media_s = self._grab(source, pacer)
            if media_s is None:
                pacer.wait_out()
                return
            if not pacer.keep(media_s):
                continue
            if drawn_late is not None:
                self._deliver_frame(draw=partial(self._draw, drawn_late.drawing()))
            else:
                self._deliver_frame(self._finished(source.retrieve(self._buffer())))
            if not has_remark and (remark := source.ending()) is not None:
                has_remark = True
                self._on_state("running", remark)

    def _grab(self, source: Source, pacer: _Pacer) -> float | None:
        """Grab a frame; a single time-out of the source is not yet a stall."""
        while not self._stop.is_set():
            try:
                return source.grab()
            except TimeoutError:
                if pacer.silent_s() >= self._settings.stall_s:
                    raise SourceError(
                        f"{self._settings.address.shown} delivered no frame for {self._settings.stall_s:g} s"
                    ) from None
        return None

    def _buffer(self) -> Image | None:
        """Return memory for a picture, if some was given back; called by the threads that draw, too."""
        try:
            return self._buffers.pop()
        except IndexError:
            return None

    def _draw(self, drawing: Callable[[Image | None], Image]) -> Image:
        return self._finished(drawing(self._buffer()))

    def _finished(self, picture: Image) -> Image:
        """Make a picture ready for delivery."""
        if self._masks:
            cv2.fillPoly(picture, self._masks, (0, 0, 0))
        return picture

    def _reserve(self, pixels: int) -> None:
        settings = self._settings
        self._memory.reserve(self, settings.address.shown, needed_bytes(settings.address, pixels, settings.pictures))

    def _deliver_frame(self, picture: Image | None = None, draw: Callable[[], Image] | None = None) -> None:
        if not self._running:
            self._on_state("running", None)
            self._backoff.reset()
            self._running = True
        captured_ns, captured_at_ns = now_ns(), wall_ns()
        number = self._on_captured()
        self._deliver(Frame(self._owner, number, picture, captured_ns, captured_at_ns, self._buffers.append, draw))


class _Pacer:
    """Pacing of a source that is played live, and the limit of `fps`."""

    def __init__(self, settings: CameraSettings, stop: threading.Event) -> None:
        self._waits_for_time = not settings.every and not settings.address.is_live
        self._by_arrival = settings.address.is_live
        self._period_s = 1 / settings.fps if settings.fps else 0.0
        self._stop = stop
        self._start_ns = self._last_ns = now_ns()
        self._next_due_s: float | None = None
        self._media_s: float | None = None  # of the last frame
        self._step_s = LONE_PICTURE_S  # between the last two

    def silent_s(self) -> float:
        """Return the time since the last frame."""
        return (now_ns() - self._last_ns) / 1e9

    def keep(self, media_s: float) -> bool:
        """Return whether to keep this frame; for a file played live, wait for its time first."""
        self._last_ns = now_ns()
        if self._media_s is not None:
            self._step_s = media_s - self._media_s
        self._media_s = media_s
        if self._by_arrival:
            media_s = (self._last_ns - self._start_ns) / 1e9
        if self._period_s and not self._is_due(media_s):
            return False
        if self._waits_for_time:
            self._stop.wait(max(0.0, media_s - (now_ns() - self._start_ns) / 1e9))
        return True

    def wait_out(self) -> None:
        """Wait out the last frame of a source played live: it lasts as long as the one before."""
        if self._waits_for_time and self._media_s is not None:
            end_s = self._media_s + max(0.0, self._step_s)
            self._stop.wait(max(0.0, end_s - (now_ns() - self._start_ns) / 1e9))

    def _is_due(self, media_s: float) -> bool:
        """Return whether the frame is the next one on a grid of `fps`, so that the mean rate is exact."""
        if self._next_due_s is None:
            self._next_due_s = media_s
        if media_s < self._next_due_s - 1e-6:  # rounding of the source's time stamps
            return False
        behind = max(0.0, media_s - self._next_due_s)
        self._next_due_s += self._period_s * (1 + behind // self._period_s)
        return True
