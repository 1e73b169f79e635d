"""What is kept of a verification's frames."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import Detections
from edge.precision.average_precision import TrueBoxes
from edge.precision.comparison import ScoredFindings
from edge.precision.frames import LabelledFrame
from edge.precision.verification import WORST_KEPT, VerificationTally

PICTURE = np.zeros((8, 8, 3), np.uint8)


def apart(count: int) -> Detections:
    """Make boxes that do not overlap."""
    boxes = np.array([(10 * place, 0, 10 * place + 5, 5) for place in range(count)], np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, 0.5, np.float32), np.zeros(count, np.int64))


@given(st.lists(st.integers(0, 9), max_size=20))
def test_the_frames_that_agree_least_are_kept(missed: list[int]) -> None:
    tally = VerificationTally()
    for place, count in enumerate(missed):
        tally.add(
            LabelledFrame(str(place), PICTURE), ScoredFindings(apart(count), None), ScoredFindings(apart(0), None)
        )
    assert tally.disagreements == missed
    assert [each.disagreement for each in tally.worst] == sorted(missed, reverse=True)[:WORST_KEPT]
    assert all(missed[int(each.name)] == each.disagreement for each in tally.worst)


def test_labelled_frames_are_judged_by_all_that_was_found_down_to_the_floor() -> None:
    tally = VerificationTally()
    true = TrueBoxes(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0, np.bool_))
    tally.add(LabelledFrame("a", PICTURE, true), ScoredFindings(apart(1), apart(4)), ScoredFindings(apart(2), apart(5)))
    tally.add(LabelledFrame("b", PICTURE), ScoredFindings(apart(1), None), ScoredFindings(apart(1), None))
    assert len(tally.labels) == 1
    assert [[len(each.scores) for each in side] for side in tally.found] == [[4], [5]]
