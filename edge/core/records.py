"""Records of the pipeline: frames, batches, findings, results and messages.

Times as in `clock`. A comment gives shape, layout, dtype, range and unit where the type does not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.clock import now_ns

Image = NDArray[np.uint8]  # H×W×3, interleaved BGR, uint8, 0…255
IMAGE_SUFFIXES = (
    ".jpg",
    ".jpeg",
    ".png",
    ".bmp",
    ".webp",
    ".tif",
    ".tiff",
)  # of still pictures that OpenCV reads and writes

DropCause = Literal["overrun", "stale", "gated", "error", "stopped"]
DROP_CAUSES: tuple[DropCause, ...] = ("overrun", "stale", "gated", "error", "stopped")

Stage = Literal["wait", "preprocess", "infer", "decode", "publish", "total"]
STAGES: tuple[Stage, ...] = ("wait", "preprocess", "infer", "decode", "publish", "total")

StreamState = Literal["running", "reconnecting", "failed", "ended", "off"]


class FrameOwner(Protocol):
    """The stream that a frame belongs to."""

    name: str
    score_threshold: float | None  # 0…1; None: the model's own

    def drop(self, frame: Frame, cause: DropCause) -> None:
        """Count a frame without a result, release its memory, and free its place in the order."""

    def finish(self, frame: Frame, result: Result) -> None:
        """Accept the result of a frame."""


@dataclass(slots=True)
class Frame:
    """A captured picture on its way through the pipeline."""

    owner: FrameOwner
    number: int  # of the stream's captured frames, from 0
    picture: Image | None  # not valid after `release`; None: not drawn yet
    captured_ns: int
    captured_at_ns: int
    give_back: Callable[[Image], None] | None = None  # reuses the memory for a later picture
    draw: Callable[[], Image] | None = None  # of a synthetic source: makes the picture once somebody looks at it
    sample: Image | None = None  # copy of the picture; None: the frame is not compared
    snapshot: Image | None = None  # copy of the picture; None: no snapshot was requested
    ticket: int = -1  # place in the stream's publishing order; -1: no batch has the frame yet
    settled: bool = False  # it became a result or a counted drop

    @property
    def image(self) -> Image:
        """The picture; not valid after `release`."""
        if self.picture is None:
            if self.draw is None:
                raise RuntimeError("a frame with neither a picture nor a way to draw it")
            self.picture = self.draw()
        return self.picture

    def release(self) -> None:
        """Release the picture's memory; further calls do nothing."""
        give_back, self.give_back = self.give_back, None
        if give_back is not None and self.picture is not None:
            give_back(self.picture)


@dataclass(slots=True)
class Batch:
    """Frames of one inference."""

    frames: list[Frame]
    formed_ns: int
    preprocess_ms: float = 0.0  # since it was formed
    infer_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Placement of a source picture in the model's input: x_input = x_source * scale_x + offset_x; y likewise."""

    source_px: tuple[int, int]  # width, height
    scale_x: float  # pixels of the model's input per source pixel
    scale_y: float  # likewise
    offset_x: float  # pixels of the model's input
    offset_y: float  # likewise


@dataclass(frozen=True, slots=True)
class Detections:
    """Detected boxes of one picture, best first."""

    boxes: NDArray[np.float32]  # N×4: x1, y1, x2, y2 in pixels of the source picture, clipped to it
    scores: NDArray[np.float32]  # N, 0…1
    class_ids: NDArray[np.int64]  # N, indices into the model's labels


@dataclass(frozen=True, slots=True)
class Classes:
    """Classification of one picture, best first."""

    scores: NDArray[np.float32]  # K, 0…1
    class_ids: NDArray[np.int64]  # K, indices into the model's labels


Findings = Detections | Classes


def label_of(class_id: int, labels: Sequence[str]) -> str:
    """Return the label of a class; its number if it has none."""
    return (labels[class_id] if class_id < len(labels) else "") or str(class_id)


ENGINE_PARTS = ("h2d", "compute", "d2h")


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """Duration of one `infer`, by part; None: the engine has no such part."""

    compute_ms: float
    h2d_ms: float | None = None  # host to device
    d2h_ms: float | None = None  # device to host

    @property
    def infer_ms(self) -> float:
        """Sum of the parts."""
        return self.compute_ms + (self.h2d_ms or 0.0) + (self.d2h_ms or 0.0)


@dataclass(slots=True)
class Result:
    """Findings of one frame, with the times of their making."""

    stream: str
    model: str
    engine: str  # label of the engine
    frame: int  # number of the captured frame
    captured_ns: int
    captured_at_ns: int
    decoded_ns: int  # when the findings were ready
    size_px: tuple[int, int]  # width, height of the source picture
    findings: Findings
    labels: Sequence[str]
    wait_ms: float  # from capture until its batch was formed
    preprocess_ms: float  # of the batch
    infer_ms: float  # of the batch
    decode_ms: float
    batch: int  # frames of the inference
    seq: int = -1  # of the stream's results, without gaps; -1: not published yet


@dataclass(frozen=True, slots=True)
class BoardState:
    """State of the board while a frame is served; None: unknown."""

    power_mode: str | None = None
    throttled: bool | None = None


# In order of priority: the first is sent first and dropped last.
MessageKind = Literal["status", "alarm", "answer", "result", "telemetry"]
MESSAGE_KINDS: tuple[MessageKind, ...] = ("status", "alarm", "answer", "result", "telemetry")


@dataclass(slots=True)
class Message:
    """An outgoing MQTT message; a result's age is added to its body when it is first sent."""

    topic: str
    body: bytes  # a JSON object unless `content_type` says otherwise
    qos: int = 1
    retain: bool = False  # the newest of its topic replaces all before it
    kind: MessageKind = "status"
    content_type: str = "application/json"
    expiry_s: int | None = None  # after this long the broker need not deliver it (MQTT 5)
    correlation: bytes | None = None  # of the request that it answers (MQTT 5)
    stream: str | None = None  # results only, as are the two times below
    captured_ns: int = 0
    decoded_ns: int = 0
    made_ns: int = field(default_factory=now_ns)


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """An incoming MQTT message."""

    topic: str
    body: bytes
    retained: bool  # the broker had stored it before we subscribed, or stores it for later subscribers (MQTT 5)
    response_topic: str | None = None  # a further topic for the answer (MQTT 5)
    correlation: bytes | None = None


DropReason = Literal["full", "age", "refused", "damaged", "discarded"]
DROP_REASONS: tuple[DropReason, ...] = ("full", "age", "refused", "damaged", "discarded")
DiskState = Literal["ok", "off", "failed"]


@dataclass(frozen=True, slots=True)
class OutboxState:
    """Level of the outbox, and the messages dropped since the daemon started."""

    messages: int = 0
    bytes: int = 0
    oldest_s: float | None = None  # age of the oldest message whose age is known
    dropped: int = 0
    dropped_by_kind: Mapping[MessageKind, int] = field(default_factory=lambda: dict.fromkeys(MESSAGE_KINDS, 0))
    dropped_by_cause: Mapping[DropReason, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    disk_messages: int = 0  # of `messages`, those on disk
    disk_bytes: int = 0  # of `bytes`, those on disk
    disk: DiskState = "off"
    journal: bool = False  # messages in memory outlive the process
    without_copy: int = 0  # messages since the start that did not fit in the journal
    dropped_on_disk: int = 0  # of those dropped as "full", those for which the disk was full
    held: Mapping[str, int] = field(default_factory=dict)  # beside `messages`, those for each other destination

    def to_json(self) -> dict[str, Any]:
        """Return the state as telemetry shows it."""
        return {
            "messages": self.messages,
            "bytes": self.bytes,
            "oldest_s": self.oldest_s,
            "dropped": self.dropped,
            "dropped_by_kind": dict(self.dropped_by_kind),
            "dropped_by_cause": dict(self.dropped_by_cause),
            "on_disk": {"messages": self.disk_messages, "bytes": self.disk_bytes},
            "disk": self.disk,
            "journal": self.journal,
            "without_copy": self.without_copy,
            "held": sum(self.held.values()),
        }
