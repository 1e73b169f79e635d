"""Mean average precision, compared with figures worked out by hand and with properties of any boxes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import Detections
from edge.precision.average_precision import MeanPrecision, TrueBoxes, mean_average_precision

Row = tuple[float, ...]


def true(*rows: Row, crowd: tuple[int, ...] = ()) -> TrueBoxes:
    """Make true boxes of rows x1, y1, x2, y2, class."""
    table = np.array(rows, np.float64).reshape(-1, 5)
    marks = np.array([place in crowd for place in range(len(table))], np.bool_)
    return TrueBoxes(table[:, :4], table[:, 4].astype(np.int64), marks)


def found(*rows: Row) -> Detections:
    """Make detections of rows x1, y1, x2, y2, score, class."""
    table = np.array(sorted(rows, key=lambda row: -row[4]), np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def judged(*pictures: tuple[TrueBoxes, Detections]) -> MeanPrecision:
    precision = mean_average_precision([each[0] for each in pictures], [each[1] for each in pictures])
    assert precision is not None
    return precision


A, B, FAR = (0, 0, 10, 10), (50, 50, 60, 60), (90, 90, 99, 99)


def test_all_found_and_nothing_else_is_one() -> None:
    assert judged((true((*A, 0), (*B, 1)), found((*A, 0.9, 0), (*B, 0.2, 1)))) == MeanPrecision(1.0, 1.0)


def test_nothing_found_is_zero_and_nothing_to_be_found_is_no_figure() -> None:
    assert judged((true((*A, 0)), found())) == MeanPrecision(0.0, 0.0)
    assert mean_average_precision([true()], [found((*A, 0.9, 0))]) is None
    assert mean_average_precision([true((*A, 0), crowd=(0,))], [found()]) is None


def test_a_false_box_between_two_true_ones_lowers_the_second_half_of_the_curve() -> None:
    # Precision 1 up to a recall of 0.5 (51 of 101 steps), then 2 of 3.
    precision = judged((true((*A, 0), (*B, 0)), found((*A, 0.9, 0), (*FAR, 0.8, 0), (*B, 0.7, 0))))
    assert precision.map50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_a_false_box_surer_than_all_true_ones_counts_over_the_whole_curve() -> None:
    precision = judged((true((*A, 0), (*B, 0)), found((*FAR, 0.95, 0), (*A, 0.9, 0), (*B, 0.7, 0))))
    assert precision.map50 == pytest.approx(2 / 3)  # the best that is had at any recall or a higher one


def test_what_is_not_found_ends_the_curve() -> None:
    assert judged((true((*A, 0), (*B, 0)), found((*A, 0.9, 0)))).map50 == pytest.approx(51 / 101)


def test_an_overlap_counts_at_each_bound_that_it_reaches() -> None:
    # 10×10 against 10×7 in it: 0.7, which is five of the ten bounds.
    precision = judged((true((*A, 0)), found((0, 0, 10, 7, 0.9, 0))))
    assert precision.map50 == 1.0
    assert precision.map50_95 == pytest.approx(0.5)
    assert judged((true((*A, 0)), found((0, 0, 10, 4.9, 0.9, 0)))).map50 == 0


def test_a_second_box_on_the_same_thing_is_false() -> None:
    twice = found((*A, 0.9, 0), (*A, 0.8, 0), (*B, 0.7, 0))
    assert judged((true((*A, 0), (*B, 0)), twice)).map50 == pytest.approx((51 + 50 * 2 / 3) / 101)


def test_classes_are_judged_apart_and_count_alike() -> None:
    pictures = (true((*A, 0), (*B, 1)), found((*A, 0.9, 0), (*B, 0.9, 2)))
    assert judged(pictures).map50 == pytest.approx(1 / 2)


def test_a_false_box_in_a_picture_without_any_counts() -> None:
    pictures = [(true((*A, 0)), found((*A, 0.5, 0))), (true(), found((*A, 0.9, 0)))]
    assert judged(*pictures).map50 == pytest.approx(1 / 2)


def test_what_lies_in_a_crowd_counts_neither_way() -> None:
    crowd = true((*A, 0), (40, 40, 100, 100, 0), crowd=(1,))
    assert judged((crowd, found((*A, 0.5, 0), (*B, 0.9, 0), (*FAR, 0.8, 0)))).map50 == 1.0
    assert judged((crowd, found((*A, 0.5, 0), (20, 20, 30, 30, 0.9, 0)))).map50 == pytest.approx(1 / 2)


def test_the_hundred_surest_boxes_of_a_class_in_a_picture_count() -> None:
    false = [(200.0 + place, 0, 201.0 + place, 1, 0.9, 0) for place in range(100)]
    assert judged((true((*A, 0)), found(*false, (*A, 0.8, 0)))).map50 == 0
    assert judged((true((*A, 0)), found(*false[:99], (*A, 0.8, 0)))).map50 == pytest.approx(1 / 100)


CORNERS = st.integers(0, 60)


@st.composite
def scenes(draw: st.DrawFn) -> tuple[TrueBoxes, Detections]:
    def box() -> Row:
        x, y, width, height = draw(CORNERS), draw(CORNERS), draw(st.integers(1, 40)), draw(st.integers(1, 40))
        return x, y, x + width, y + height

    rows = [(*box(), draw(st.integers(0, 1))) for _ in range(draw(st.integers(1, 5)))]
    seen = [
        (
            *(draw(st.sampled_from(rows))[:4] if draw(st.booleans()) else box()),
            draw(st.floats(0.01, 1)),
            draw(st.integers(0, 1)),
        )
        for _ in range(draw(st.integers(0, 6)))
    ]
    return true(*rows), found(*seen)


@given(st.lists(scenes(), min_size=1, max_size=4))
def test_stricter_bounds_never_raise_it_and_all_figures_lie_between_none_and_all(
    pictures: list[tuple[TrueBoxes, Detections]],
) -> None:
    precision = judged(*pictures)
    assert 0 <= precision.map50_95 <= precision.map50 + 1e-12 <= 1 + 1e-9


@given(st.lists(scenes(), min_size=1, max_size=4))
def test_the_truth_itself_is_perfect(pictures: list[tuple[TrueBoxes, Detections]]) -> None:
    detections = [
        found(*((*box, 0.5, class_id) for box, class_id in zip(each.boxes, each.class_ids, strict=True)))
        for each, _ in pictures
    ]
    assert judged(*zip([each for each, _ in pictures], detections, strict=True)) == MeanPrecision(1.0, 1.0)


@given(st.lists(scenes(), min_size=1, max_size=4))
def test_only_the_order_of_scores_counts(pictures: list[tuple[TrueBoxes, Detections]]) -> None:
    halved = [
        (truth, Detections(each.boxes, each.scores * np.float32(0.5), each.class_ids)) for truth, each in pictures
    ]
    assert judged(*halved) == judged(*pictures)


@given(scenes())
def test_a_false_box_less_sure_than_all_others_changes_nothing(picture: tuple[TrueBoxes, Detections]) -> None:
    truth, each = picture
    more = Detections(
        np.concatenate([each.boxes, np.array([[500, 500, 510, 510]], np.float32)]),
        np.append(each.scores, np.float32(0.001)),
        np.append(each.class_ids, 0),
    )
    assert judged((truth, more)) == judged(picture)
