"""Which findings one stream publishes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections
from edge.pipeline.wanted import FindingsFilter

LABELS = ("person", "car", "dog")


def detections(*found: tuple[int, float, float]) -> Detections:
    """Make boxes from class id, width and height; the score tells them apart."""
    boxes = np.array([(5, 5, 5 + width, 5 + height) for _, width, height in found], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, len(found), dtype=np.float32)
    return Detections(boxes, scores, np.array([class_id for class_id, _, _ in found], np.int64))


def test_without_a_choice_everything_is_wanted() -> None:
    wanted = FindingsFilter.of("door", (), LABELS, 0)
    assert wanted.is_all
    found = detections((0, 10, 10), (2, 1, 1))
    assert len(wanted.choose(found).scores) == 2


def test_only_the_chosen_labels_stay_in_their_order() -> None:
    wanted = FindingsFilter.of("door", ("dog", "person"), LABELS, 0)
    assert not wanted.is_all
    found = detections((0, 1, 1), (1, 1, 1), (2, 1, 1), (0, 1, 1))
    chosen = wanted.choose(found)
    assert chosen.class_ids.tolist() == [0, 2, 0]
    assert chosen.scores.tolist() == found.scores[[0, 2, 3]].tolist()


def test_a_box_narrower_or_lower_than_the_least_size_is_left_out() -> None:
    wanted = FindingsFilter.of("door", (), LABELS, 10)
    chosen = wanted.choose(detections((0, 10, 10), (1, 9, 50), (2, 50, 9), (0, 11, 10)))
    assert isinstance(chosen, Detections)
    assert chosen.class_ids.tolist() == [0, 0]
    assert chosen.boxes.tolist() == [[5, 5, 15, 15], [5, 5, 16, 15]]


def test_classes_are_chosen_by_label_only() -> None:
    wanted = FindingsFilter.of("door", ("car",), LABELS, 10)
    chosen = wanted.choose(Classes(np.array([0.7, 0.3], np.float32), np.array([2, 1], np.int64)))
    assert isinstance(chosen, Classes)
    assert (chosen.class_ids.tolist(), chosen.scores.tolist()) == ([1], [pytest.approx(0.3)])


def test_a_label_that_stands_twice_in_the_model_means_both() -> None:
    wanted = FindingsFilter.of("door", ("n/a",), ("n/a", "person", "n/a"), 0)
    assert wanted.choose(detections((0, 1, 1), (1, 1, 1), (2, 1, 1))).class_ids.tolist() == [0, 2]


def test_a_label_that_the_model_lacks_is_told_with_those_it_has() -> None:
    with pytest.raises(ConfigError) as raised:
        FindingsFilter.of("door", ("person", "cat"), LABELS, 0)
    assert str(raised.value) == "[streams.door] labels: found 'cat', wanted labels of the model: person, car, dog"


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100, width=32), st.floats(0, 100, width=32)), max_size=20),
    st.sets(st.sampled_from(LABELS)),
    st.floats(0, 100),
)
def test_what_stays_is_wanted_and_what_goes_is_not(
    found: list[tuple[int, float, float]], labels: set[str], min_size_px: float
) -> None:
    before = detections(*found)
    after = FindingsFilter.of("door", sorted(labels), LABELS, min_size_px).choose(before)
    width, height = before.boxes[:, 2] - before.boxes[:, 0], before.boxes[:, 3] - before.boxes[:, 1]
    stays = [
        (not labels or LABELS[class_id] in labels) and min(w, h) >= min_size_px
        for class_id, w, h in zip(before.class_ids, width, height, strict=True)
    ]
    assert after.scores.tolist() == before.scores[np.array(stays, np.bool_)].tolist()
