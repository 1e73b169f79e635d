"""Snapshots of streams with their findings drawn in, on request."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.core.clock import now_ns
from edge.core.records import Image, Message, Result
from edge.daemon.commands.arguments import CommandError
from edge.daemon.commands.dispatcher import Outcome, OutcomeCallback, unexpected
from edge.mqtt.encode import capture_time
from edge.mqtt.topics import Topics
from edge.pipeline.annotate import as_jpeg, draw
from edge.pipeline.stream import Stream

log = logging.getLogger(__name__)

WAIT_S = 5.0  # for a stream's next frame
EXPIRY_S = 60
MOST_PENDING = 8


@dataclass(frozen=True, slots=True)
class _PendingSnapshot:
    """A request for a snapshot, until the stream delivers a frame or the time is up."""

    stream: str
    due_ns: int
    finish: OutcomeCallback


class Snapshots:
    """Asks lanes for copies of frames; draws, encodes and publishes them on the main thread, from `tick`."""

    def __init__(self, topics: Topics, publish: Callable[[Message], None], wake: Callable[[], None]) -> None:
        self._topics = topics
        self._publish = publish
        self._wake = wake
        self._pending: list[_PendingSnapshot] = []
        self._frames: deque[tuple[Image, Result]] = deque(maxlen=MOST_PENDING)  # from the lanes

    def ask(self, stream: Stream, finish: OutcomeCallback) -> None:
        """Ask for the stream's next frame; raise CommandError where too many requests are pending."""
        if len(self._pending) >= MOST_PENDING:
            raise CommandError(f"busy: {MOST_PENDING} snapshots are pending already; send it again later")
        self._pending.append(_PendingSnapshot(stream.name, now_ns() + int(WAIT_S * 1e9), finish))
        stream.request_snapshot(self._on_frame)

    def tick(self) -> None:
        """Send the frames that have arrived, and give up on overdue ones."""
        while self._frames:
            self._send(*self._frames.popleft())
        now = now_ns()
        late = [each for each in self._pending if each.due_ns <= now]
        self._pending = [each for each in self._pending if each.due_ns > now]
        for each in late:
            each.finish(Outcome(reason=f"stream {each.stream} delivered no frame within {WAIT_S:g} s; see its status"))

    def _on_frame(self, picture: Image, result: Result) -> None:
        """Keep a frame for the main thread; called from a lane, which draws and encodes nothing."""
        self._frames.append((picture, result))
        self._wake()

    def _send(self, picture: Image, result: Result) -> None:
        """Publish a frame with its findings drawn in, and answer every request for this stream."""
        answered = [each for each in self._pending if each.stream == result.stream]
        self._pending = [each for each in self._pending if each.stream != result.stream]
        if not answered:
            return
        try:
            outcome = self._publish_jpeg(picture, result)
        # The requests are no longer pending, and would otherwise never be answered.
        except Exception as error:
            log.exception("a snapshot of stream %s failed unexpectedly", result.stream)
            outcome = Outcome(reason=unexpected(error))
        for each in answered:
            each.finish(outcome)

    def _publish_jpeg(self, picture: Image, result: Result) -> Outcome:
        """Publish a frame with its findings drawn in; return the outcome."""
        try:
            jpeg = as_jpeg(draw(picture, result.findings, result.labels))
        # The findings of a user's own decoder may be of any kind, and cannot always be drawn.
        except Exception as error:  # noqa: BLE001
            return Outcome(reason=f"the findings cannot be drawn: {error}")
        topic = self._topics.snapshot(result.stream)
        # As telemetry: a picture has the size of hundreds of results, and on a bad link must not displace them.
        self._publish(Message(topic, jpeg, kind="telemetry", content_type="image/jpeg", expiry_s=EXPIRY_S))
        return Outcome(_describe(result, topic, len(jpeg)))


def _describe(result: Result, topic: str, size_bytes: int) -> dict[str, Any]:
    return {
        "stream": result.stream,
        "topic": topic,
        "bytes": size_bytes,
        "size": list(result.size_px),
        "frame": result.frame,
        **capture_time(result.captured_at_ns),
    }
