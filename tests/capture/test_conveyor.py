"""The built-in scene: the same frames and truth for the same arguments, and truth that fits the picture."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from edge.capture.scene.conveyor import LABELS, Conveyor, Truth

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZES = [(640, 480), (160, 120), (480, 640), (1280, 720), (1920, 1080)]


def frame_of(conveyor: Conveyor, index: int, size: tuple[int, int] = (320, 240)) -> tuple[NDArray[np.uint8], Truth]:
    image = np.zeros((size[1], size[0], 3), np.uint8)
    return image, conveyor.render(index, image)


def assert_same(first: Truth, second: Truth) -> None:
    for name in ("boxes", "class_ids", "defective", "visible"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name), err_msg=name)


def truths(seeds: range, indices: range, size: tuple[int, int] = (320, 240)) -> list[Truth]:
    return [frame_of(conveyor, index, size)[1] for conveyor in (Conveyor(*size, s) for s in seeds) for index in indices]


class BareBelt(Conveyor):
    """The same belt, light and noise, with no part on it."""

    def _in_view(self, belt_px: int) -> range:
        return super()._in_view(belt_px)[:0]


def test_two_conveyors_of_one_seed_render_the_same_bytes_and_truth() -> None:
    for index in (0, 7, 4000):
        (image, truth), (again, truth_again) = (frame_of(Conveyor(320, 240, 5), index) for _ in range(2))
        np.testing.assert_array_equal(image, again)
        assert_same(truth, truth_again)


def test_a_frame_does_not_depend_on_the_frames_rendered_before_it() -> None:
    one_by_one = Conveyor(320, 240, 11)
    for index in range(0, 600, 3):
        image, truth = frame_of(one_by_one, index)
        if index % 150 == 0:
            at_once, truth_at_once = frame_of(Conveyor(320, 240, 11), index)
            np.testing.assert_array_equal(image, at_once)
            assert_same(truth, truth_at_once)


def test_going_back_gives_the_same_frame_again() -> None:
    conveyor = Conveyor(320, 240, 3)
    first, _ = frame_of(conveyor, 20)
    frame_of(conveyor, 90_000)
    again, _ = frame_of(conveyor, 20)
    np.testing.assert_array_equal(first, again)


def test_what_was_in_the_buffer_does_not_show_through() -> None:
    dark, bright = np.zeros((240, 320, 3), np.uint8), np.full((240, 320, 3), 255, np.uint8)
    conveyor = Conveyor(320, 240, 2)
    conveyor.render(33, dark)
    conveyor.render(33, bright)
    np.testing.assert_array_equal(dark, bright)


def test_other_seeds_give_other_scenes() -> None:
    (image, truth), (other, other_truth) = (frame_of(Conveyor(320, 240, seed), 10) for seed in (1, 2))
    assert not np.array_equal(image, other)
    assert not np.array_equal(truth.boxes, other_truth.boxes)


def test_parts_move_along_the_belt_at_one_speed_whatever_the_frame_rate() -> None:
    # One second later is frame 30 of the one and frame 15 of the other.
    _, at_30_fps = frame_of(Conveyor(320, 240, 8, fps=30.0), 30)
    _, at_15_fps = frame_of(Conveyor(320, 240, 8, fps=15.0), 15)
    assert_same(at_30_fps, at_15_fps)


def test_no_two_frames_of_a_standing_view_have_the_same_noise() -> None:
    # At this rate the belt does not move by a pixel from one frame to the next.
    conveyor = Conveyor(320, 240, 8, fps=100_000.0)
    (first, truth), (second, next_truth) = frame_of(conveyor, 0), frame_of(conveyor, 1)
    assert_same(truth, next_truth)
    assert 0 < np.abs(first.astype(int) - second).mean() < 15


@pytest.mark.parametrize("size", SIZES)
def test_truth_has_the_stated_types_and_lies_within_the_frame(size: tuple[int, int]) -> None:
    seen = truths(range(2), range(0, 300, 100), size)
    assert sum(len(truth.boxes) for truth in seen) >= 10
    for truth in seen:
        count = len(truth.boxes)
        shapes = [each.shape for each in (truth.boxes, truth.class_ids, truth.defective, truth.visible)]
        dtypes = [each.dtype for each in (truth.boxes, truth.class_ids, truth.defective, truth.visible)]
        assert shapes == [(count, 4), (count,), (count,), (count,)]
        assert dtypes == [np.dtype(name) for name in ("float32", "int64", "bool", "float32")]
        assert (truth.boxes >= 0).all()
        assert (truth.boxes <= [*size, *size]).all()
        assert (truth.boxes[:, :2] < truth.boxes[:, 2:]).all()
        assert ((truth.visible >= 0.25) & (truth.visible <= 1)).all()


def test_parts_grow_with_the_frame() -> None:
    widest = [
        max(np.ptp(t.boxes[:, ::2], axis=1).max() for t in truths(range(3), range(0, 900, 90), size))
        for size in ((320, 240), (640, 480))
    ]
    assert widest[0] >= 40
    assert widest[0] <= 70
    assert widest[1] == pytest.approx(2 * widest[0], rel=0.1)


def test_every_class_and_defects_of_every_class_occur() -> None:
    seen = truths(range(4), range(0, 3000, 150))
    classes = np.concatenate([truth.class_ids for truth in seen])
    defective = np.concatenate([truth.defective for truth in seen])
    assert set(classes.tolist()) == set(range(len(LABELS)))
    assert set(classes[defective].tolist()) == set(range(len(LABELS)))
    assert 0.1 < defective.mean() < 0.35


def test_the_picture_changes_inside_the_boxes_where_parts_lie() -> None:
    """A part hides the belt: its box differs from the bare belt, and the rest of the frame does not."""
    conveyor, bare = Conveyor(320, 240, 21), BareBelt(320, 240, 21)
    for index in range(0, 900, 150):
        (image, truth), (belt, _) = frame_of(conveyor, index), frame_of(bare, index)
        changed = np.abs(image.astype(int) - belt).max(axis=2) > 12
        outside = changed.copy()
        for x1, y1, x2, y2 in truth.boxes.astype(int):
            assert changed[y1:y2, x1:x2].mean() > 0.15
            # Shadow and blur reach a little further than the part.
            outside[max(y1 - 3, 0) : y2 + 9, max(x1 - 3, 0) : x2 + 9] = False
        assert outside.mean() < 0.02


def test_boxes_are_tight_round_parts_that_lie_alone() -> None:
    conveyor, bare = Conveyor(640, 480, 4), BareBelt(640, 480, 4)
    overlaps = []
    for index in range(0, 1200, 150):
        (image, truth), (belt, _) = (frame_of(each, index, (640, 480)) for each in (conveyor, bare))
        changed = np.abs(image.astype(int) - belt).max(axis=2) > 30
        for which, (x1, y1, x2, y2) in enumerate(truth.boxes.astype(int)):
            if is_alone(truth, which):
                rows, columns = np.nonzero(changed[y1 - 12 : y2 + 12, x1 - 12 : x2 + 12])
                found = (columns.min() - 12, rows.min() - 12, columns.max() - 11, rows.max() - 11)
                overlaps.append(iou(found, (0, 0, x2 - x1, y2 - y1)))
    assert len(overlaps) >= 20
    # A shadow widens what is found, and a dark edge on a dark belt narrows it.
    assert np.median(overlaps) > 0.85
    assert min(overlaps) > 0.4


def iou(a: tuple[int, ...], b: tuple[int, ...]) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def is_alone(truth: Truth, which: int, gap_px: int = 12) -> bool:
    """Tell whether a part lies away from all others and from the frame's edges."""
    x1, y1, x2, y2 = truth.boxes[which] + (-gap_px, -gap_px, gap_px, gap_px)
    others = np.delete(truth.boxes, which, axis=0)
    meets = (others[:, 0] < x2) & (others[:, 2] > x1) & (others[:, 1] < y2) & (others[:, 3] > y1)
    return not meets.any() and x1 > 0 and y1 > 0 and x2 < 640 and y2 < 480


def test_a_part_that_lies_alone_is_wholly_visible_and_a_covered_one_is_not() -> None:
    seen = truths(range(6), range(0, 900, 150), (640, 480))
    alone = [truth.visible[i] for truth in seen for i in range(len(truth.boxes)) if is_alone(truth, i)]
    # A part so covered that truth omits it may itself lie on one that seems alone.
    assert np.mean(np.array(alone) == 1) > 0.95
    covered = [
        share
        for truth in seen
        for share, box in zip(truth.visible, truth.boxes, strict=True)
        if box[0] > 0 and box[2] < 640 and share < 1
    ]
    assert len(covered) >= 10
    assert min(covered) < 0.7


def test_a_part_leaving_the_frame_is_less_and_less_visible_until_truth_omits_it() -> None:
    conveyor = Conveyor(640, 480, 6)
    leaving = []
    for index in range(150):
        _, truth = frame_of(conveyor, index, (640, 480))
        leaving += [(index, share) for box, share in zip(truth.boxes, truth.visible, strict=True) if box[0] == 0]
    shares = [share for _, share in leaving]
    assert min(shares) < 0.45
    assert max(shares) > 0.85


@pytest.mark.parametrize("size", [(159, 120), (160, 119), (0, 0), (-640, 480)])
def test_a_frame_too_small_to_show_parts_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=rf"{size[0]}x{size[1]}.*at least 160x120"):
        Conveyor(*size, seed=0)


@pytest.mark.parametrize("fps", [0.0, -1.0, math.inf, math.nan])
def test_a_frame_rate_that_is_none_is_refused(fps: float) -> None:
    with pytest.raises(ValueError, match=f"fps is {fps}"):
        Conveyor(320, 240, 0, fps)


def test_a_negative_seed_or_index_is_refused() -> None:
    with pytest.raises(ValueError, match="seed is -1"):
        Conveyor(320, 240, -1)
    with pytest.raises(ValueError, match="index is -1"):
        frame_of(Conveyor(320, 240, 0), -1)


@pytest.mark.parametrize("out", [np.zeros((320, 240, 3), np.uint8), np.zeros((240, 320, 3), np.float32)])
def test_a_buffer_of_another_shape_or_type_is_refused(out: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match=r"must be uint8 \(240, 320, 3\)"):
        Conveyor(320, 240, 0).render(0, out)


def test_what_is_kept_between_frames_stays_bounded() -> None:
    conveyor = Conveyor(160, 120, 1)
    for index in range(0, 60_000, 200):
        frame_of(conveyor, index, (160, 120))
    assert len(conveyor._parts) <= 3 * 20
