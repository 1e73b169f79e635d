"""What travels along the path: frames, batches, what a model found, and what is published."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.clock import now_ns

Image = NDArray[np.uint8]  # H×W×3, BGR, 0…255
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")  # of files that hold one

DropCause = Literal["overrun", "stale", "gated", "error", "stopped"]
DROP_CAUSES: tuple[DropCause, ...] = ("overrun", "stale", "gated", "error", "stopped")

Stage = Literal["wait", "preprocess", "infer", "decode", "publish", "total"]
STAGES: tuple[Stage, ...] = ("wait", "preprocess", "infer", "decode", "publish", "total")

StreamState = Literal["running", "reconnecting", "failed", "ended", "off"]


class FrameOwner(Protocol):
    """The stream that a frame belongs to."""

    name: str
    score_threshold: float | None  # None: the model's own

    def drop(self, frame: Frame, cause: DropCause) -> None:
        """Count a frame that gives no result, give its memory back, and free its place in the order."""

    def finish(self, frame: Frame, result: Result) -> None:
        """Take the result of a frame."""


@dataclass(slots=True)
class Frame:
    """One captured picture on its way through the pipeline."""

    owner: FrameOwner
    number: int  # counts the stream's captured frames from 0
    image: Image  # not to be touched after `release`
    captured_ns: int  # monotonic
    captured_at_ns: int  # wall time
    give_back: Callable[[Image], None] | None = None  # takes the memory for a later picture
    sample: Image | None = None  # a copy of the picture, where the frame is to be compared
    snapshot: Image | None = None  # a copy of the picture, where somebody asked to see one
    ticket: int = -1  # the place in the stream's publishing order, given when a batch takes the frame
    settled: bool = False  # it has become a result or a counted drop

    def release(self) -> None:
        """Give the picture's memory back; further calls do nothing."""
        give_back, self.give_back = self.give_back, None
        if give_back is not None:
            give_back(self.image)


@dataclass(slots=True)
class Batch:
    """Frames that go through the engine together."""

    frames: list[Frame]
    formed_ns: int  # monotonic
    preprocess_ms: float = 0.0  # since it was formed
    infer_ms: float = 0.0


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where a source picture lies in the model's input: x_input = x_source * scale_x + offset_x, likewise y."""

    source_px: tuple[int, int]  # width, height
    scale_x: float
    scale_y: float
    offset_x: float  # pixels of the model's input
    offset_y: float


@dataclass(frozen=True, slots=True)
class Detections:
    """Boxes found in one picture, best first."""

    boxes: NDArray[np.float32]  # N×4: x1, y1, x2, y2 in pixels of the source picture, clipped to it
    scores: NDArray[np.float32]  # N, 0…1
    class_ids: NDArray[np.int64]  # N, index into the model's labels


@dataclass(frozen=True, slots=True)
class Classes:
    """The classes of one picture, best first."""

    scores: NDArray[np.float32]  # K, 0…1
    class_ids: NDArray[np.int64]  # K, index into the model's labels


Findings = Detections | Classes


def label_of(class_id: int, labels: Sequence[str]) -> str:
    """Return the name of a class; one without a label is named by its number."""
    return labels[class_id] if class_id < len(labels) else str(class_id)


ENGINE_PARTS = ("h2d", "compute", "d2h")


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """Milliseconds that one `infer` took; None where a part does not exist on this engine."""

    compute_ms: float
    h2d_ms: float | None = None  # host to device
    d2h_ms: float | None = None  # device to host

    @property
    def infer_ms(self) -> float:
        return self.compute_ms + (self.h2d_ms or 0.0) + (self.d2h_ms or 0.0)


@dataclass(slots=True)
class Result:
    """What was found in one frame, with what it took to find it."""

    stream: str
    model: str
    engine: str
    frame: int  # number of the captured frame
    captured_ns: int  # monotonic
    captured_at_ns: int  # wall time
    decoded_ns: int  # monotonic, when the findings were ready
    size_px: tuple[int, int]  # width, height of the source picture
    findings: Findings
    labels: Sequence[str]
    wait_ms: float
    preprocess_ms: float  # of the batch, as infer_ms
    infer_ms: float
    decode_ms: float
    batch: int  # frames that shared the inference
    seq: int = -1  # counts the stream's results without gaps; given when its turn to be published comes


@dataclass(frozen=True, slots=True)
class BoardState:
    """What the board is doing while a frame is served; None where it is not known."""

    power_mode: str | None = None
    throttled: bool | None = None


# What a message is about, from what is sent first, and given up last, to the other end.
MessageKind = Literal["status", "alarm", "answer", "result", "telemetry"]
MESSAGE_KINDS: tuple[MessageKind, ...] = ("status", "alarm", "answer", "result", "telemetry")


@dataclass(slots=True)
class Message:
    """One MQTT message; a result's age is joined to its body when it is first sent."""

    topic: str
    body: bytes  # a JSON object, where `content_type` does not say otherwise
    qos: int = 1
    retain: bool = False  # the newest of its topic stands for all before it
    kind: MessageKind = "status"
    content_type: str = "application/json"
    expiry_s: int | None = None  # after so long a broker need not deliver it any more (MQTT 5)
    correlation: bytes | None = None  # of the request that it answers (MQTT 5)
    stream: str | None = None  # results only, as the two times below
    captured_ns: int = 0  # monotonic
    decoded_ns: int = 0  # monotonic
    made_ns: int = field(default_factory=now_ns)  # monotonic


@dataclass(frozen=True, slots=True)
class CommandRequest:
    """One MQTT message that came to us."""

    topic: str
    body: bytes
    retained: (
        bool  # it waited at the broker before we came, or was sent so that it will wait for those after us (MQTT 5)
    )
    response_topic: str | None = None  # where the answer is wanted too (MQTT 5)
    correlation: bytes | None = None


DropReason = Literal["full", "age", "refused", "damaged"]
DROP_REASONS: tuple[DropReason, ...] = ("full", "age", "refused", "damaged")
DiskState = Literal["ok", "off", "failed"]


@dataclass(frozen=True, slots=True)
class OutboxState:
    """What waits to be sent, and what was given up."""

    messages: int = 0
    bytes: int = 0
    oldest_s: float | None = None
    dropped: int = 0  # since the daemon started, as the two below
    dropped_by_kind: Mapping[MessageKind, int] = field(default_factory=lambda: dict.fromkeys(MESSAGE_KINDS, 0))
    dropped_by_cause: Mapping[DropReason, int] = field(default_factory=lambda: dict.fromkeys(DROP_REASONS, 0))
    disk_messages: int = 0  # of `messages`, those on disk
    disk_bytes: int = 0
    disk: DiskState = "off"
    journal: bool = False  # what waits in memory outlives the process
    without_copy: int = 0  # messages handed over since the start that found no room in the journal
    dropped_on_disk: int = 0  # of those dropped as "full", how many found the disk full

    def to_json(self) -> dict[str, Any]:
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
        }
