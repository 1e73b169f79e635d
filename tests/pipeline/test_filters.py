"""Filters of a stream: findings kept by label and size; results within the limit, and no lasting change left out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.config import load_config
from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections, Findings, Result
from edge.perf.tune.tuned_config import config_of_model
from edge.pipeline.filters import FindingsFilter, ResultFilter
from edge.pipeline.meters import PeriodStats, StreamMeter
from edge.pipeline.reorder import ReorderBuffer
from tests.support.configuration import belt, write_config

SECOND_NS = 1_000_000_000


def boxes(*class_ids: int) -> Detections:
    count = len(class_ids)
    return Detections(np.zeros((count, 4), np.float32), np.ones(count, np.float32), np.array(class_ids, np.int64))


def classes(*class_ids: int) -> Classes:
    return Classes(np.linspace(1, 0.5, len(class_ids), dtype=np.float32), np.array(class_ids, np.int64))


def result(captured_ns: int, findings: Findings | None = None, *, until_found_ms: float = 0.0) -> Result:
    found_ns = captured_ns + int(until_found_ms * 1e6)
    return Result("door", "m", "e", 0, captured_ns, 0, found_ns, (1, 1), findings or boxes(), (), 1.0, 2.0, 3.0, 4.0, 1)


def published_ns(gate: ResultFilter, times_ns: Sequence[int]) -> list[int]:
    return [time_ns for time_ns in times_ns if gate.passes(result(time_ns))]


def shown(gate: ResultFilter, *findings: Findings) -> list[bool]:
    """Ask about one frame a second."""
    return [gate.passes(result(second * SECOND_NS, each)) for second, each in enumerate(findings)]


gaps_ns = st.lists(st.integers(0, 3 * SECOND_NS) | st.integers(0, SECOND_NS // 20), min_size=1, max_size=120)
rates = st.floats(0.2, 100)
few_classes = st.lists(st.integers(0, 2), max_size=2).map(lambda ids: boxes(*ids))


def test_without_limits_everything_is_published() -> None:
    assert published_ns(ResultFilter(), [0, 0, 1, 2]) == [0, 0, 1, 2]


@given(gaps_ns, rates, st.integers(0, 10**17))
def test_no_stretch_of_time_holds_more_results_than_the_rate_allows(
    gaps: list[int], rate: float, first_ns: int
) -> None:
    times_ns = first_ns + np.cumsum(gaps)
    told = published_ns(ResultFilter(rate), times_ns.tolist())
    assert told[0] == times_ns[0]
    for first, start_ns in enumerate(told):
        for last, end_ns in enumerate(told[first:], first):
            # A result that came late on the grid may be followed by one in time, so one more than what fits.
            assert last - first + 1 < (end_ns - start_ns) * (rate * (1 + 1e-6)) / 1e9 + 2


@given(st.floats(1, 100), st.floats(0.05, 1), st.integers(0, 10**17))
def test_a_steady_camera_gives_just_the_rate_without_drift(fps: float, share: float, first_ns: int) -> None:
    rate, seconds = fps * share, 200 / fps
    times_ns = [first_ns + round(number * 1e9 / fps) for number in range(200)]
    told = published_ns(ResultFilter(rate), times_ns)
    assert seconds * rate - 1 <= len(told) <= seconds * rate + 1


def test_after_a_quiet_time_results_are_a_whole_pause_apart_again() -> None:
    gate = ResultFilter(1.0, only_changes=True)
    assert gate.passes(result(0, boxes(1)))
    assert gate.passes(result(9_900_000_000, boxes(2)))
    assert not gate.passes(result(10_000_000_000, boxes(3)))
    assert gate.passes(result(10_900_000_000, boxes(3)))


@given(st.lists(few_classes, min_size=1, max_size=60))
def test_what_was_published_last_is_always_what_is_there(findings: list[Detections]) -> None:
    gate, last = ResultFilter(only_changes=True), None
    for number, each in enumerate(findings):
        now = sorted(each.class_ids.tolist())
        passed = gate.passes(result(number, each))
        assert passed == (now != last)
        last = now if passed else last
        assert last == now


@given(st.lists(st.tuples(st.integers(0, SECOND_NS), few_classes), min_size=1, max_size=120), rates)
def test_no_change_is_lost_that_lasts_until_the_limit_allows_it(
    frames: list[tuple[int, Detections]], rate: float
) -> None:
    gate, now_ns, allowed_ns, last = ResultFilter(rate, only_changes=True), 0, 0, None
    for gap_ns, each in frames:
        now_ns += gap_ns
        found = sorted(each.class_ids.tolist())
        if gate.passes(result(now_ns, each)):
            assert found != last
            last, allowed_ns = found, now_ns + round(1e9 / rate)
        elif now_ns >= allowed_ns:
            assert last == found, "a whole pause is over, and what is there differs from what was told"
    for _ in range(2):  # the camera looks on, and nothing moves
        now_ns += round(1e9 / rate)
        if gate.passes(result(now_ns, frames[-1][1])):
            last = sorted(frames[-1][1].class_ids.tolist())
    assert last == sorted(frames[-1][1].class_ids.tolist())


def test_the_first_is_told_and_so_is_a_change_back() -> None:
    assert shown(ResultFilter(only_changes=True), boxes(1), boxes(1), boxes(1, 1), boxes(1)) == [
        True,
        False,
        True,
        True,
    ]


def test_nothing_found_is_told_once() -> None:
    assert shown(ResultFilter(only_changes=True), boxes(), boxes(), boxes(0), boxes(), boxes()) == [
        True, False, True, True, False,
    ]  # fmt: skip


def test_the_same_boxes_in_another_order_are_no_change() -> None:
    assert shown(ResultFilter(only_changes=True), boxes(1, 2, 1), boxes(1, 1, 2), boxes(1, 2, 2)) == [True, False, True]


def test_another_best_class_is_a_change_and_another_order_below_it_is_none() -> None:
    gate = ResultFilter(only_changes=True)
    assert shown(gate, classes(1, 2, 3), classes(1, 3, 2), classes(2, 1, 3)) == [True, False, True]


def test_what_the_gate_keeps_back_gets_no_number_and_holds_nobody_up() -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=2, passes=lambda each: each.captured_ns % 3 == 0)
    for ticket in (1, 0, 2, 4, 3, 6, 5):
        order.hand_in(ticket, result(ticket))
    assert [(each.captured_ns, each.seq) for each in published] == [(0, 0), (3, 1), (6, 2)]


def test_a_gated_frame_is_a_drop_in_the_counts_and_served_load_to_the_governor() -> None:
    meter = StreamMeter(target_ms=20.0)
    for _ in range(4):
        meter.captured()
    meter.resulted(result(0, until_found_ms=10.0))
    meter.gated(result(0, until_found_ms=10.0))
    meter.gated(result(0, until_found_ms=30.0))
    told = meter.report(1.0)
    assert (told["frames"], told["results"], told["in_flight"], told["dropped"]["gated"]) == (4, 1, 1, 2)
    assert told["results_per_s"] == 1.0
    assert meter.period == PeriodStats(frames=4, found=3, late=1, p99_ms=30.0)
    assert told["latency_ms"]["infer"]["p50"] == pytest.approx(3.0, rel=0.02)


def test_tuning_measures_every_frame_whether_or_not_it_would_be_published(tmp_path: Path) -> None:
    tables = {"streams.belt": belt(only_changes=True, max_results_per_s=2), "streams.plain": belt()}
    config = load_config(write_config(tmp_path / "edge.toml", "mqtt://127.0.0.1", tables))
    tuned = config_of_model(config, "conveyor", saturate=False).streams
    assert [(each.only_changes, each.max_results_per_s) for each in tuned.values()] == [(False, 0.0)] * 2


LABELS = ("person", "car", "dog")


def detections(*found: tuple[int, float, float]) -> Detections:
    """Make boxes from class id, width and height; the score tells them apart."""
    boxes = np.array([(5, 5, 5 + width, 5 + height) for _, width, height in found], np.float32).reshape(-1, 4)
    scores = np.linspace(0.9, 0.1, len(found), dtype=np.float32)
    return Detections(boxes, scores, np.array([class_id for class_id, _, _ in found], np.int64))


def test_without_a_choice_everything_is_wanted() -> None:
    kept = FindingsFilter.of("door", (), LABELS, 0)
    assert kept.keeps_all
    found = detections((0, 10, 10), (2, 1, 1))
    assert len(kept.apply(found).scores) == 2


def test_only_the_chosen_labels_stay_in_their_order() -> None:
    kept = FindingsFilter.of("door", ("dog", "person"), LABELS, 0)
    assert not kept.keeps_all
    found = detections((0, 1, 1), (1, 1, 1), (2, 1, 1), (0, 1, 1))
    chosen = kept.apply(found)
    assert chosen.class_ids.tolist() == [0, 2, 0]
    assert chosen.scores.tolist() == found.scores[[0, 2, 3]].tolist()


def test_a_box_narrower_or_lower_than_the_least_size_is_left_out() -> None:
    kept = FindingsFilter.of("door", (), LABELS, 10)
    chosen = kept.apply(detections((0, 10, 10), (1, 9, 50), (2, 50, 9), (0, 11, 10)))
    assert isinstance(chosen, Detections)
    assert chosen.class_ids.tolist() == [0, 0]
    assert chosen.boxes.tolist() == [[5, 5, 15, 15], [5, 5, 16, 15]]


def test_classes_are_chosen_by_label_only() -> None:
    kept = FindingsFilter.of("door", ("car",), LABELS, 10)
    chosen = kept.apply(Classes(np.array([0.7, 0.3], np.float32), np.array([2, 1], np.int64)))
    assert isinstance(chosen, Classes)
    assert (chosen.class_ids.tolist(), chosen.scores.tolist()) == ([1], [pytest.approx(0.3)])


def test_a_label_that_stands_twice_in_the_model_means_both() -> None:
    kept = FindingsFilter.of("door", ("n/a",), ("n/a", "person", "n/a"), 0)
    assert kept.apply(detections((0, 1, 1), (1, 1, 1), (2, 1, 1))).class_ids.tolist() == [0, 2]


def test_a_label_that_the_model_lacks_is_told_with_those_it_has() -> None:
    with pytest.raises(ConfigError) as raised:
        FindingsFilter.of("door", ("person", "cat"), LABELS, 0)
    assert str(raised.value).startswith(
        "[streams.door] labels: found 'cat', wanted labels of the model (person, car, dog)"
    )


@pytest.mark.parametrize("written", ["Person", "persn", "PERSON "])
def test_a_misspelt_label_is_answered_with_the_one_that_is_meant(written: str) -> None:
    with pytest.raises(ConfigError, match=r"; did you mean 'person'\?$"):
        FindingsFilter.of("door", (written,), LABELS, 0)


def test_of_many_labels_the_first_are_listed() -> None:
    with pytest.raises(ConfigError, match=r"\(1, 2, .*, 20, …\)$"):
        FindingsFilter.of("door", ("none",), [str(number) for number in range(1, 81)], 0)
    with pytest.raises(ConfigError, match=r"\(it has none\)$"):
        FindingsFilter.of("door", ("person",), (), 0)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(0, 100, width=32), st.floats(0, 100, width=32)), max_size=20),
    st.sets(st.sampled_from(LABELS)),
    st.floats(0, 100),
)
def test_what_stays_is_wanted_and_what_goes_is_not(
    found: list[tuple[int, float, float]], labels: set[str], min_size_px: float
) -> None:
    before = detections(*found)
    after = FindingsFilter.of("door", sorted(labels), LABELS, min_size_px).apply(before)
    width, height = before.boxes[:, 2] - before.boxes[:, 0], before.boxes[:, 3] - before.boxes[:, 1]
    stays = [
        (not labels or LABELS[class_id] in labels) and min(w, h) >= min_size_px
        for class_id, w, h in zip(before.class_ids, width, height, strict=True)
    ]
    assert after.scores.tolist() == before.scores[np.array(stays, np.bool_)].tolist()
