"""Frames kept for a second look: the newest of a model, and a fraction of those that were served."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import Detections
from edge.pipeline.frame_samples import RecentFrames, ShadowSample, ShadowSampling

NOTHING = Detections(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
SAMPLE = ShadowSample(np.zeros((1, 1, 3), np.uint8), NOTHING, None, "an engine")


def test_samples_are_the_newest_pictures_and_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0]
    monkeypatch.setattr("edge.pipeline.frame_samples.now_ns", lambda: clock[0])
    samples = RecentFrames(capacity=3, every_s=1.0)
    image: Any = np.zeros((2, 2, 3), np.uint8)
    for second in range(10):
        for tick in range(3):  # of each second's pictures the first is kept
            clock[0] = second * 10**9 + tick
            image[:] = 10 * second + tick
            samples.offer(image)
    assert [int(picture[0, 0, 0]) for _, picture in samples.since(0)] == [70, 80, 90]
    assert [number for number, _ in samples.since(9)] == [10]


@given(st.floats(0, 1), st.integers(1, 300))
def test_the_share_of_frames_is_kept(share: float, frames: int) -> None:
    sampling = ShadowSampling(share)
    wanted = 0
    for _ in range(frames):
        if sampling.wants():
            wanted += 1
            sampling.put(SAMPLE)
            assert sampling.pop() is SAMPLE
    assert abs(wanted - share * frames) <= 1.0 + 1e-6


def test_while_one_waits_no_other_is_wanted() -> None:
    sampling = ShadowSampling(1.0)
    assert sampling.wants()
    sampling.put(SAMPLE)
    assert not sampling.wants()
    assert sampling.pop() is SAMPLE
    assert sampling.wants()
    sampling.close()
    assert sampling.pop() is None
