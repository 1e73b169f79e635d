"""Agreement of outputs, compared with figures worked out by hand and with properties of any boxes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from edge.core.records import Classes, Detections, Findings
from edge.inference.decode.boxes import iou
from edge.precision.agreement import Tally, agreement, disagreement, matches, output_error, psnr, ssim

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


def tallied(*pairs: tuple[Findings, Findings]) -> Tally:
    tally = Tally()
    for wanted, got in pairs:
        tally.add(wanted, got)
    return tally


def test_a_tally_tells_each_figure_over_all_pictures() -> None:
    found = tallied(
        # Overlaps by 90 / 110, and is 0.1 less sure; the other two stand for nothing.
        (
            detections((0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 2)),
            detections((1, 0, 11, 10, 0.8, 0), (60, 60, 70, 70, 0.5, 1)),
        ),
        (detections(), detections((5, 5, 9, 9, 0.7, 1))),
        (detections((0, 0, 4, 4, 0.5, 1)), detections((0, 0, 4, 4, 0.8, 1))),
    ).result()
    assert (found.frames, found.wanted, found.got, found.matched) == (3, 3, 4, 2)
    assert found.f1 == found.figure == pytest.approx(4 / 7)
    assert found.precision == pytest.approx(2 / 4)
    assert found.recall == pytest.approx(2 / 3)
    assert found.mean_iou == pytest.approx((90 / 110 + 1) / 2)
    assert found.score_shift == pytest.approx((-0.1 + 0.3) / 2)
    assert (found.top1, found.top5) == (None, None)


def test_what_no_picture_tells_is_none_and_not_zero() -> None:
    nothing = tallied((detections(), detections())).result()
    assert (nothing.f1, nothing.precision, nothing.recall, nothing.mean_iou) == (None, None, None, None)
    missed = tallied((detections((0, 0, 5, 5, 0.5, 0)), detections())).result()
    assert (missed.f1, missed.precision, missed.recall, missed.score_shift) == (0.0, None, 0.0, None)


def test_the_best_class_is_looked_for_among_the_best_five() -> None:
    found = tallied(
        (classes(1, 2), classes(1, 7)),
        (classes(1, 2), classes(9, 8, 7, 6, 1)),
        (classes(1, 2), classes(9, 8, 7, 6, 5, 1)),
    ).result()
    assert found.top1 == pytest.approx(1 / 3)
    assert found.top5 == pytest.approx(2 / 3)
    assert found.f1 is None
    assert found.figure == found.top1


def test_the_shift_of_a_class_counts_where_it_is_the_best_of_both() -> None:
    surer = Classes(np.array([0.95], np.float32), np.array([1], np.int64))
    assert tallied((classes(1, 2), surer), (classes(3), classes(4))).result().score_shift == pytest.approx(0.05)


def test_pictures_are_ordered_by_what_is_not_matched_and_then_by_how_well_the_rest_lies() -> None:
    one = detections((0, 0, 10, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 2))
    exact, moved = (
        disagreement(one, one),
        disagreement(one, detections((1, 0, 11, 10, 0.9, 0), (20, 20, 40, 40, 0.8, 2))),
    )
    missed = disagreement(one, detections((20, 20, 40, 40, 0.8, 2)))
    assert exact == 0 < moved < missed
    assert missed == pytest.approx(1)
    other_best = disagreement(classes(1, 2), classes(2, 1))
    assert disagreement(classes(1, 2), classes(1, 2)) == 0 < other_best < disagreement(classes(1), classes(2))


@given(pictures(), pictures())
def test_figures_lie_in_their_range_and_f1_between_precision_and_recall(one: Detections, other: Detections) -> None:
    found = tallied((one, other)).result()
    assert found.matched <= min(found.wanted, found.got)
    if found.precision is not None and found.recall is not None and found.f1 is not None:
        low, high = sorted((found.precision, found.recall))
        assert low - 1e-9 <= found.f1 <= high + 1e-9
    assert found.mean_iou is None or 0.5 <= found.mean_iou <= 1 + 1e-9
    assert (disagreement(one, one), disagreement(one, other) >= 0) == (0, True)


def test_psnr_is_the_peak_by_the_mean_square_error() -> None:
    one = np.full((4, 5, 3), 100, np.uint8)
    assert psnr(one, one + 10) == pytest.approx(10 * math.log10(255**2 / 100))
    assert psnr(one + 10, one) == psnr(one, one + 10)  # no wrap-around below 0
    assert psnr(one, one) == math.inf
    half = one.copy()
    half[:2] += 20
    assert psnr(one, half) == pytest.approx(10 * math.log10(255**2 / 200))


def test_ssim_of_even_pictures_is_that_of_their_brightness() -> None:
    one, other = np.full((16, 20, 3), 100, np.uint8), np.full((16, 20, 3), 120, np.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(one, other) == pytest.approx((2 * 100 * 120 + c1) / (100**2 + 120**2 + c1))
    assert ssim(one, one) == pytest.approx(1)


def test_ssim_of_one_window_is_the_formula_with_gaussian_weights() -> None:
    rng = np.random.default_rng(3)
    one, other = (rng.integers(0, 256, (11, 11)).astype(np.uint8) for _ in range(2))
    line = np.exp(-(np.arange(-5, 6) ** 2) / (2 * 1.5**2))
    weights = np.outer(line, line) / line.sum() ** 2
    a, b = one.astype(float), other.astype(float)
    mean_a, mean_b = (weights * a).sum(), (weights * b).sum()
    var_a, var_b = (weights * a * a).sum() - mean_a**2, (weights * b * b).sum() - mean_b**2
    both = (weights * a * b).sum() - mean_a * mean_b
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    wanted = (2 * mean_a * mean_b + c1) * (2 * both + c2) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))
    assert ssim(one, other) == pytest.approx(wanted, abs=1e-6)


@given(st.integers(0, 2**32 - 1), st.tuples(st.integers(1, 24), st.integers(1, 24)))
def test_ssim_takes_both_pictures_alike_and_is_one_for_equal_ones_of_any_size(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    one, other = (rng.integers(0, 256, (*size, 3)).astype(np.uint8) for _ in range(2))
    assert ssim(one, one) == pytest.approx(1)
    assert ssim(one, other) == pytest.approx(ssim(other, one))
    assert -1 <= ssim(one, other) <= 1 + 1e-9
