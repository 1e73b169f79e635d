"""Pictures of streams with what was found drawn in, on request."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from edge.core.clock import now_ns, utc_text
from edge.core.records import Image, Message, Result
from edge.daemon.commands.arguments import CommandError
from edge.daemon.commands.dispatcher import Outcome, unexpected
from edge.mqtt.topics import Topics
from edge.pipeline.annotate import as_jpeg, draw
from edge.pipeline.stream import Stream

log = logging.getLogger(__name__)

WAIT_S = 5.0  # for a stream's next frame
EXPIRY_S = 60
MOST_ASKED = 8  # and not taken yet

SnapshotCallback = Callable[[Outcome], None]


@dataclass(frozen=True, slots=True)
class _PendingSnapshot:
    """One that was asked for, until the stream gives a frame or the time is over."""

    stream: str
    due_ns: int
    told: SnapshotCallback


class Snapshots:
    """Asks lanes for copies of frames; draws, encodes and publishes them on the main thread, from `look`."""

    def __init__(self, topics: Topics, publish: Callable[[Message], None], wake: Callable[[], None]) -> None:
        self._topics = topics
        self._publish = publish
        self._wake = wake
        self._asked: list[_PendingSnapshot] = []
        self._pictures: deque[tuple[Image, Result]] = deque(maxlen=MOST_ASKED)  # from the lanes

    def ask(self, stream: Stream, told: SnapshotCallback) -> None:
        """Ask for the stream's next frame; raise CommandError where too many are waited for."""
        if len(self._asked) >= MOST_ASKED:
            raise CommandError(f"busy: {MOST_ASKED} snapshots are asked for already; send it again later")
        self._asked.append(_PendingSnapshot(stream.name, now_ns() + int(WAIT_S * 1e9), told))
        stream.request_snapshot(self._take)

    def look(self) -> None:
        """Send pictures that have come, and give up on those that do not come."""
        while self._pictures:
            self._send(*self._pictures.popleft())
        now = now_ns()
        late = [each for each in self._asked if each.due_ns <= now]
        self._asked = [each for each in self._asked if each.due_ns > now]
        for each in late:
            each.told(Outcome(reason=f"stream {each.stream} gave no frame in {WAIT_S:g} s; see its status"))

    def _take(self, picture: Image, result: Result) -> None:
        """Keep a picture for the main thread; called from a lane, which draws and encodes nothing."""
        self._pictures.append((picture, result))
        self._wake()

    def _send(self, picture: Image, result: Result) -> None:
        """Publish a picture with what was found drawn in, then tell all who asked for one of this stream."""
        asked = [each for each in self._asked if each.stream == result.stream]
        self._asked = [each for each in self._asked if each.stream != result.stream]
        if not asked:
            return
        try:
            outcome = self._sent(picture, result)
        # Those who asked are no longer waited for, and would else never hear of it.
        except Exception as error:
            log.exception("a snapshot of stream %s failed unexpectedly", result.stream)
            outcome = Outcome(reason=unexpected(error))
        for each in asked:
            each.told(outcome)

    def _sent(self, picture: Image, result: Result) -> Outcome:
        """Publish a picture with what was found drawn in; return what there is to tell of it."""
        try:
            jpeg = as_jpeg(draw(picture, result.findings, result.labels))
        # What a decoder of the user's own found may be of any kind, and cannot always be drawn.
        except Exception as error:  # noqa: BLE001
            return Outcome(reason=f"what was found cannot be drawn: {error}")
        topic = self._topics.snapshot(result.stream)
        # As telemetry, for a picture has the size of hundreds of results, and on a bad link must not push them out.
        self._publish(Message(topic, jpeg, kind="telemetry", content_type="image/jpeg", expiry_s=EXPIRY_S))
        return Outcome(_told_of(result, topic, len(jpeg)))


def _told_of(result: Result, topic: str, size_bytes: int) -> dict[str, Any]:
    return {
        "stream": result.stream,
        "topic": topic,
        "bytes": size_bytes,
        "size": list(result.size_px),
        "frame": result.frame,
        "captured_at": utc_text(result.captured_at_ns),
    }
