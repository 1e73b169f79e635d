"""Stream: a camera, and its frames' results in capture order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Protocol

from edge.capture import Camera
from edge.capture.camera import CameraSettings
from edge.capture.picture_memory import PictureMemory
from edge.core.clock import now_ns
from edge.core.config import StreamSettings
from edge.core.errors import ConfigError, SourceError
from edge.core.records import DropCause, Frame, Image, Result, StreamState
from edge.pipeline.filters import FindingsFilter, ResultFilter
from edge.pipeline.meters import StreamMeter
from edge.pipeline.reorder import ReorderBuffer
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

# Pictures of a stream that are in use beside those that wait: one is being captured, one preprocessed.
PICTURES_IN_WORK = 2
# Results that may wait for a late one, for each frame that can be in work at once.
RESULTS_PER_FRAME = 4


SnapshotCallback = Callable[[Image, Result], None]  # gets a picture and its result


class StreamOutlet(Protocol):
    """Destination of results and of stream states; called from the threads of lanes and cameras."""

    def result(self, stream: Stream, result: Result) -> None: ...

    def stream_state(self, stream: Stream, reason: str | None) -> None: ...


class Stream:
    """One `[streams.NAME]` at work; the `FrameOwner` of each of its frames."""

    def __init__(
        self, name: str, settings: StreamSettings, model: ServedModel, outlet: StreamOutlet, memory: PictureMemory
    ) -> None:
        """Prepare the stream; raise ConfigError for a label that the model does not have, or pictures too large."""
        self.name = name
        self.settings = settings
        self._model = model
        self.score_threshold = settings.score_threshold
        self.meter = StreamMeter(settings.target_p99_ms)
        self.state: StreamState = "off"
        self._reason: str | None = None
        self._outlet = outlet
        self._findings_filter = FindingsFilter.of(name, settings.labels, model.labels, settings.min_size)
        self._results = ReorderBuffer(
            self._publish,
            RESULTS_PER_FRAME * model.max_lanes * model.max_batch,
            passes=ResultFilter(settings.max_results_per_s, only_changes=settings.only_changes).passes,
            withhold=self.meter.gated,
        )
        every = settings.delivery == "every"
        self._queue = model.batcher.add_stream(every=every, max_age_ms=settings.max_age_ms)
        capture = CameraSettings(
            name,
            settings.address(),
            every,
            settings.loop,
            settings.fps,
            settings.stall_s,
            settings.masks,
            settings.max_mpx,
            self._queue.capacity + PICTURES_IN_WORK,
        )
        try:
            self.expected_bytes = capture.expected_bytes  # of its pictures, as far as its address shows them
        except SourceError as error:
            raise ConfigError(f"[streams.{name}] source: {error}") from None
        self._camera = Camera(capture, self, self._deliver, self.meter.captured, self._camera_state, memory)
        self._is_discarded = False
        self._wants_snapshot = False
        self._snapshot_callback: SnapshotCallback | None = None

    @property
    def next_seq(self) -> int:
        """The number of the next result."""
        return self._results.next_seq

    def start(self, first_seq: int = 0) -> None:
        """Start the camera; a stream that existed before a reload continues its numbers with `first_seq`."""
        self._results.next_seq = first_seq
        self._camera.start()

    def request_snapshot(self, callback: SnapshotCallback) -> None:
        """Request a copy of the next processed frame, with its result; `callback` must not block."""
        self._snapshot_callback = callback
        self._wants_snapshot = True

    def drop(self, frame: Frame, cause: DropCause) -> None:
        """Count a frame without a result; do nothing for a frame that is settled already."""
        if frame.settled:
            return
        frame.settled = True
        if frame.snapshot is not None:
            self._wants_snapshot = True  # of the next one
        frame.release()
        self.meter.dropped(cause)
        if frame.ticket >= 0:
            self._results.hand_in(frame.ticket, None)

    def finish(self, frame: Frame, result: Result) -> None:
        """Accept a frame's result, and publish it when its turn comes."""
        frame.settled = True
        self._model.sampler.add_result(frame, result)
        if not self._findings_filter.keeps_all:
            result.findings = self._findings_filter.apply(result.findings)
        if frame.snapshot is not None and self._snapshot_callback is not None:
            callback, self._snapshot_callback = self._snapshot_callback, None
            callback(frame.snapshot, result)
        if not self._results.hand_in(frame.ticket, result):
            self.meter.dropped("stopped")

    @property
    def has_ended(self) -> bool:
        """True where the source has ended or failed for good."""
        return self.state in ("ended", "failed")

    @property
    def is_served(self) -> bool:
        """True where its frames can still become results."""
        return self._model.lost is None

    def summary(self) -> dict[str, Any]:
        """Return the stream's state, and the counts of its frames."""
        return {"state": self.state} | self.meter.counts()

    def ask_to_stop(self) -> None:
        """Ask the camera to end, also while it waits for a place in the queue."""
        self._camera.stop()
        self._queue.close()

    def join(self, deadline_ns: int) -> None:
        """Wait for the camera's end; log its name where it does not come back."""
        if not self._camera.join(max(0.0, (deadline_ns - now_ns()) / 1e9)):
            log.error(
                "stream %s: its camera still waits for %s and is abandoned", self.name, self.settings.source.shown
            )

    def discard(self) -> None:
        """Drop the frames that still wait, let no lane wait for this stream, and report nothing more; the last call."""
        self._is_discarded = True
        self._queue.discard()
        self._results.close()
        # The garbage collector would free this cycle late, and never one from before the start-up's freeze.
        del self._camera

    def _deliver(self, frame: Frame) -> None:
        if self._wants_snapshot:
            self._wants_snapshot = False
            frame.snapshot = frame.image.copy()
        self._queue.put(frame)

    def _camera_state(self, state: StreamState, reason: str | None) -> None:
        """Report a change; a camera that is away for a month is reported once, not at each attempt."""
        changed = (state, reason) != (self.state, self._reason)
        self.state, self._reason = state, reason
        if state in ("ended", "failed", "off"):
            self._queue.close()
        if changed and not self._is_discarded:
            self._outlet.stream_state(self, reason)

    def _publish(self, result: Result) -> None:
        self.meter.resulted(result)
        self._outlet.result(self, result)
