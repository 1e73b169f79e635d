"""Frames that are kept for a second look: the newest pictures of a model, and those that are to be compared."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.core.clock import now_ns
from edge.core.records import Findings


class RecentFrames:
    """The newest pictures that a model was given, kept to hold a new engine against the one that serves."""

    def __init__(self, places: int = 8, every_s: float = 0.2) -> None:
        self._pictures: deque[tuple[int, NDArray[np.uint8]]] = deque(maxlen=places)
        self._count = 0
        self._every_ns = int(every_s * 1e9)
        self._due_ns = 0

    def offer(self, image: NDArray[np.uint8]) -> None:
        """Keep a copy of a picture now and then; several lanes call this, and it does not matter whose is kept."""
        if now_ns() >= self._due_ns:
            self._due_ns = now_ns() + self._every_ns
            self._count += 1
            self._pictures.append((self._count, image.copy()))

    def since(self, number: int) -> list[tuple[int, NDArray[np.uint8]]]:
        """Return the pictures that came after this number, with their numbers, which begin at 1."""
        return [each for each in list(self._pictures) if each[0] > number]


@dataclass(frozen=True)
class ShadowSample:
    """A frame that was served, with what was found in it."""

    image: NDArray[np.uint8]  # H×W×3, BGR
    findings: Findings
    score_threshold: float | None  # that it was decoded with
    engine: str  # label of the one that served it


class ShadowSampling:
    """Chooses a share of the frames; one of them waits at most, and what comes meanwhile is passed over."""

    def __init__(self, share: float) -> None:
        """Take the share of the frames, 0…1."""
        self._share = share
        self._due = 0.0
        self._waiting: ShadowSample | None = None
        self._closed = False
        self._came = threading.Condition()

    def wants(self) -> bool:
        """Tell, once for each frame, whether it is one of the share."""
        with self._came:
            self._due = min(self._due + self._share, 1.0 + self._share)
            if self._due < 1.0 or self._waiting is not None:
                return False
            self._due -= 1.0
            return True

    def offer(self, sample: ShadowSample) -> None:
        with self._came:
            self._waiting = sample
            self._came.notify()

    def take(self) -> ShadowSample | None:
        """Wait for the next sample; None when there will be none any more."""
        with self._came:
            while self._waiting is None and not self._closed:
                self._came.wait()
            sample, self._waiting = self._waiting, None
            return None if self._closed else sample

    def close(self) -> None:
        with self._came:
            self._closed = True
            self._came.notify_all()
