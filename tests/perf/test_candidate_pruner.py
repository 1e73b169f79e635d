"""Pruning of `edge tune`, by numbers worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.tuned_profile import OperatingPoint
from edge.perf.tune.candidate_pruner import CandidatePruner, fastest_first
from edge.perf.tune.setting import Axes, MeasuredSetting, Setting

ONE = Setting("FAST", "gpu", "fp16", 1, 1)
ORDER = ("FAST", "MIDDLE", "SLOW")


def is_slower(mode: str, than: str) -> bool:
    return ORDER.index(mode) > ORDER.index(than)


def measured(
    candidate: Setting, p99_ms: float, *, rate: float = 100.0, service_ms: float = 5.0, full: bool = True
) -> MeasuredSetting:
    point = OperatingPoint(
        power_mode=candidate.power_mode,
        precision=candidate.precision,
        max_batch=candidate.max_batch,
        max_wait_ms=0.0,
        lanes=candidate.lanes,
        device=candidate.device,
        images_per_s=rate,
        latency_p99_ms=p99_ms,
    )
    return MeasuredSetting(
        point=point,
        engine="trt/fp16/0",
        measured_s=1.0,
        discarded_s=0.0,
        is_steady=True,
        images=100,
        dropped_share=0.0,
        batch_mean=1.0,
        batch_most=candidate.max_batch if full else 1,
        service_ms=service_ms,
        busy=0.5,
    )


def judged(wanted: Setting, known: dict[Setting, MeasuredSetting], target_p99_ms: float | None = 20.0) -> str | None:
    reason = CandidatePruner(known, target_p99_ms, is_slower).reason_to_skip(wanted)
    return reason.text if reason else None


def batch(size: int) -> Setting:
    return replace(ONE, max_batch=size)


def test_larger_batch_is_left_out_where_a_smaller_one_takes_too_long_by_itself() -> None:
    known = {batch(2): measured(batch(2), 60.0, service_ms=25.0)}
    assert judged(batch(4), known) == "batches of 2 alone took 25 ms"
    assert judged(batch(4), known, target_p99_ms=25.0) is None
    assert judged(batch(4), known, target_p99_ms=None) is None
    assert judged(batch(1), known) is None, "a smaller one may be quick enough"
    assert judged(replace(batch(4), precision="int8"), known) is None, "another engine is another matter"


def test_larger_batch_is_left_out_where_latency_has_risen_above_the_target() -> None:
    known = {batch(1): measured(batch(1), 15.0), batch(2): measured(batch(2), 24.0)}
    assert judged(batch(4), known) == "p99 rose from 15 to 24 ms with batches of 2"
    falling = {batch(1): measured(batch(1), 40.0), batch(2): measured(batch(2), 24.0)}
    assert judged(batch(4), falling) is None, "under overload a larger batch may be the way to the target"


def test_batch_that_no_frames_fill_is_left_out() -> None:
    known = {batch(1): measured(batch(1), 9.0), batch(2): measured(batch(2), 9.0, full=False)}
    assert judged(batch(4), known) == "the fullest batch held 1 of 2 images"


def test_lanes_are_added_until_they_give_nothing() -> None:
    lanes = {number: replace(ONE, lanes=number) for number in (1, 2, 3)}
    equal = {lanes[1]: measured(lanes[1], 12.0, rate=100), lanes[2]: measured(lanes[2], 12.0, rate=102)}
    assert judged(lanes[3], equal) == "2 lanes gave no more images/s than 1, and no less latency"
    faster = equal | {lanes[2]: measured(lanes[2], 12.0, rate=150)}
    assert judged(lanes[3], faster) is None
    quicker = equal | {lanes[2]: measured(lanes[2], 8.0, rate=100)}
    assert judged(lanes[3], quicker) is None
    assert judged(lanes[3], {lanes[1]: equal[lanes[1]]}) is None, "one point is no trend"


def test_slower_mode_is_left_out_where_a_faster_one_clearly_missed_the_target() -> None:
    slow, fast = replace(ONE, power_mode="SLOW"), replace(ONE, power_mode="FAST")
    assert judged(slow, {fast: measured(fast, 23.0)}) == (
        "p99 was already 23 ms in FAST, which is faster in every respect"
    )
    assert judged(slow, {fast: measured(fast, 21.0)}) is None, "that may be chance"
    assert judged(fast, {slow: measured(slow, 23.0)}) is None
    assert judged(replace(slow, lanes=2), {fast: measured(fast, 23.0)}) is None
    hot = measured(fast, 23.0)
    hot = hot.model_copy(update={"point": hot.point.model_copy(update={"is_throttled": True})})
    assert judged(slow, {fast: hot}) is None, "what throttles says nothing of slower modes"


def test_faster_modes_come_first_and_small_settings_before_large_ones() -> None:
    assert fastest_first(("SLOW", "FAST", "MIDDLE"), is_slower) == ORDER
    assert fastest_first((None,), is_slower) == (None,)
    axes = Axes(("FAST", "SLOW"), ("gpu",), ("fp16",), (2, 1), (4, 1, 1))
    assert [str(each) for each in axes.candidates()][:4] == [
        "FAST gpu fp16 batch 1 1 lane",
        "FAST gpu fp16 batch 4 1 lane",
        "FAST gpu fp16 batch 1 2 lanes",
        "FAST gpu fp16 batch 4 2 lanes",
    ]


numbers = st.floats(0.1, 1e4)
candidates = st.builds(
    Setting,
    st.sampled_from(ORDER),
    st.just("gpu"),
    st.sampled_from(["fp16", "int8"]),
    st.integers(1, 4),
    st.sampled_from([1, 2, 4, 8]),
)


@given(st.dictionaries(candidates, st.tuples(numbers, numbers, numbers, st.booleans())), candidates, numbers)
def test_smallest_setting_of_the_fastest_mode_is_always_tried(
    known: dict[Setting, tuple[float, float, float, bool]], wanted: Setting, target_p99_ms: float
) -> None:
    told = {
        each: measured(each, p99_ms, rate=rate, service_ms=service_ms, full=full)
        for each, (p99_ms, rate, service_ms, full) in known.items()
    }
    first = replace(wanted, power_mode="FAST", lanes=1, max_batch=1)
    assert judged(first, told, target_p99_ms) is None


@pytest.mark.parametrize("target_p99_ms", [None, 20.0])
def test_nothing_is_left_out_before_anything_is_known(target_p99_ms: float | None) -> None:
    axes = Axes(ORDER, ("gpu", "dla0"), ("fp16", "int8"), (1, 2), (1, 2, 4))
    assert all(judged(each, {}, target_p99_ms) is None for each in axes.candidates())
