"""Frames kept for a second look: a model's newest pictures, and a fraction of those it served."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from edge.core.clock import now_ns
from edge.core.records import Findings, Frame, Image, Result
from edge.inference.predictor import Predictor


class RecentFrames:
    """A model's newest pictures, on which a new engine is compared with the serving one."""

    def __init__(self, capacity: int = 8, every_s: float = 0.2) -> None:
        self._pictures: deque[tuple[int, Image]] = deque(maxlen=capacity)
        self._count = 0
        self._every_ns = int(every_s * 1e9)
        self._due_ns = 0

    def offer(self, image: Image) -> None:
        """Keep a copy of a picture now and then; several lanes call this, and any of their pictures will do."""
        if now_ns() >= self._due_ns:
            self._due_ns = now_ns() + self._every_ns
            self._count += 1
            self._pictures.append((self._count, image.copy()))

    def since(self, number: int) -> list[tuple[int, Image]]:
        """Return the pictures after this number, with their numbers, which begin at 1."""
        return [each for each in list(self._pictures) if each[0] > number]


@dataclass(frozen=True)
class ShadowSample:
    """A frame that was served, and its findings."""

    image: Image
    findings: Findings
    score_threshold: float | None  # of its decoding; None: the model's own
    engine: str  # label of the engine that served it


class ShadowSampling:
    """Chooses a fraction of the frames; at most one waits, and frames that come meanwhile are passed over."""

    def __init__(self, fraction: float) -> None:
        """Take the fraction of the frames, 0…1."""
        self._fraction = fraction
        self._due = 0.0
        self._waiting: ShadowSample | None = None
        self._closed = False
        self._came = threading.Condition()

    def wants(self) -> bool:
        """Return, once for each frame, whether it is chosen."""
        with self._came:
            self._due = min(self._due + self._fraction, 1.0 + self._fraction)
            if self._due < 1.0 or self._waiting is not None:
                return False
            self._due -= 1.0
            return True

    def put(self, sample: ShadowSample) -> None:
        with self._came:
            self._waiting = sample
            self._came.notify()

    def pop(self) -> ShadowSample | None:
        """Wait for the next sample; None after `close`."""
        with self._came:
            while self._waiting is None and not self._closed:
                self._came.wait()
            sample, self._waiting = self._waiting, None
            return None if self._closed else sample

    def close(self) -> None:
        with self._came:
            self._closed = True
            self._came.notify_all()


class FrameSampler:
    """Observer of one model's frames: copies the pictures that something beside serving needs."""

    def __init__(self) -> None:
        self.recent: RecentFrames | None = None  # while a new engine is being made
        self.shadow: ShadowSampling | None = None  # while the agreement with the reference is watched

    def observe(self, frame: Frame, predictor: Predictor) -> None:
        """Copy a frame's picture where it is needed, before its memory is given back."""
        if (recent := self.recent) is not None:
            recent.offer(frame.image)
        shadow = self.shadow
        if shadow is not None and not predictor.is_reference and shadow.wants():
            frame.sample = frame.image.copy()

    def add_result(self, frame: Frame, result: Result) -> None:
        """Hand on the findings in a frame whose picture was copied for the comparison."""
        if (shadow := self.shadow) is not None and frame.sample is not None:
            shadow.put(ShadowSample(frame.sample, result.findings, frame.owner.score_threshold, result.engine))
