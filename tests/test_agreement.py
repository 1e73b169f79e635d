"""How well two sets of outputs agree, held against figures computed by hand and against laws true of any boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edge.agreement import agreement, iou, matches, output_error
from edge.records import Classes, Detections

SIDES = st.floats(0.5, 200, width=32)


def detections(*rows: tuple[float, float, float, float, float, int]) -> Detections:
    """Make detections of rows x1, y1, x2, y2, score, class."""
    table = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4], table[:, 5].astype(np.int64))


def classes(*ids: int) -> Classes:
    return Classes(np.linspace(0.9, 0.1, len(ids), dtype=np.float32), np.array(ids, np.int64))


@st.composite
def pictures(draw: st.DrawFn) -> Detections:
    count = draw(st.integers(0, 6))
    rows = []
    for _ in range(count):
        x, y, width, height = (draw(SIDES) for _ in range(4))
        rows.append((x, y, x + width, y + height, draw(st.floats(1 / 64, 1, width=32)), draw(st.integers(0, 2))))
    return detections(*sorted(rows, key=lambda row: -row[4]))


def test_overlap_is_shared_area_by_area_of_both() -> None:
    one = np.array([[0, 0, 10, 10]], np.float32)
    other = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4], [3, 3, 3, 3]], np.float32)
    assert iou(one, other)[0].tolist() == pytest.approx([1, 50 / 150, 0, 4 / 100, 0])


def test_agreement_is_f1_over_all_pictures() -> None:
    person, car = (0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 2)
    moved = (1, 0, 11, 10, 0.9, 0)  # overlaps by 90 / 110
    strange = (60, 60, 70, 70, 0.5, 1)
    assert agreement([detections(person, car)], [detections(moved, car)]) == 1.0
    assert agreement([detections(person, car)], [detections(moved)]) == pytest.approx(2 * 1 / 3)
    wanted, got = [detections(person), detections(car)], [detections(person, strange), detections()]
    assert agreement(wanted, got) == pytest.approx(2 * 1 / 4)


def test_another_class_is_no_match_however_well_it_lies() -> None:
    assert matches(detections((0, 0, 10, 10, 0.9, 0)), detections((0, 0, 10, 10, 0.9, 1))) == []


def test_one_box_stands_for_one_box_only() -> None:
    wanted = detections((0, 0, 10, 10, 0.9, 0))
    assert matches(wanted, detections((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))) == [(0, 0)]


def test_pictures_without_anything_tell_nothing() -> None:
    assert agreement([detections()] * 3, [detections()] * 3) is None
    assert agreement([detections()], [detections((0, 0, 5, 5, 0.5, 0))]) == 0.0


def test_classes_agree_where_the_best_is_the_same() -> None:
    assert agreement([classes(3, 1), classes(2), classes(5)], [classes(3, 2), classes(2), classes(4)]) == 2 / 3
    assert agreement([classes()], [classes()]) == 1.0


@given(st.lists(pictures(), min_size=1, max_size=4))
def test_an_engine_agrees_with_itself(found: list[Detections]) -> None:
    assert agreement(found, found) == (1.0 if any(len(each.scores) for each in found) else None)


@given(pictures(), pictures())
def test_agreement_lies_between_none_and_all_and_matches_no_box_twice(one: Detections, other: Detections) -> None:
    pairs = matches(one, other)
    assert len({row for row, _ in pairs}) == len({column for _, column in pairs}) == len(pairs)
    assert all(one.class_ids[row] == other.class_ids[column] for row, column in pairs)
    score = agreement([one], [other])
    assert score is None or 0 <= score <= 1


def test_errors_are_told_in_parts_of_the_spread() -> None:
    wanted = np.array([0.0, 2.0, 4.0], np.float32)  # standard deviation √(8/3)
    error = output_error({"y": wanted}, {"y": wanted + np.array([0, 0.1, -0.3], np.float32)})
    assert error.max == pytest.approx(0.3 / math.sqrt(8 / 3), rel=1e-5)
    assert error.mean == pytest.approx(0.4 / 3 / math.sqrt(8 / 3), rel=1e-5)


def test_the_worst_output_counts() -> None:
    wanted = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 1.0])}
    got = {"a": np.array([0.0, 1.0]), "b": np.array([0.0, 0.5])}
    assert output_error(wanted, got).max == pytest.approx(1.0)


@pytest.mark.parametrize(
    "got", [{}, {"y": np.array([1.0])}, {"y": np.array([1.0, math.nan])}, {"y": np.array([1.0, math.inf])}]
)
def test_what_is_missing_or_not_finite_is_infinitely_wrong(got: dict[str, NDArray[Any]]) -> None:
    error = output_error({"y": np.array([1.0, 2.0])}, got)
    assert math.isinf(error.max)
    assert math.isinf(error.mean)


def test_an_output_without_spread_is_told_in_its_own_unit() -> None:
    assert output_error({"y": np.full(3, 7.0)}, {"y": np.full(3, 7.5)}).max == 0.5


@given(arrays(np.float32, 5, elements=st.floats(-100, 100, width=32)))
def test_equal_outputs_have_no_error(values: NDArray[np.float32]) -> None:
    error = output_error({"y": values}, {"y": values.copy()})
    assert (error.max, error.mean) == (0.0, 0.0)
