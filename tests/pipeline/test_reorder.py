"""Results in capture order again, whatever order the lanes finish in."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.records import Classes, Result
from edge.pipeline.reorder import ReorderBuffer

LONG_S = 10.0  # a wait that only a hanging test reaches
NOTHING_FOUND = Classes(np.empty(0, np.float32), np.empty(0, np.int64))


def result(frame: int) -> Result:
    return Result("door", "m", "e", frame, 0, 0, 0, (1, 1), NOTHING_FOUND, (), 0.0, 0.0, 0.0, 0.0, 1)


def in_background(order: ReorderBuffer, ticket: int, value: Result | None) -> threading.Thread:
    thread = threading.Thread(target=order.hand_in, args=(ticket, value), daemon=True)
    thread.start()
    return thread


def have_ended(threads: Iterable[threading.Thread]) -> bool:
    for thread in threads:
        thread.join(LONG_S)
    return not any(thread.is_alive() for thread in threads)


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)))
def test_any_order_of_finishing_publishes_in_order_without_gaps(tickets: list[int], failed: set[int]) -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=12)
    for ticket in tickets:
        order.hand_in(ticket, None if ticket in failed else result(ticket))
    assert [each.frame for each in published] == [ticket for ticket in range(12) if ticket not in failed]
    assert [each.seq for each in published] == list(range(len(published)))


@given(st.permutations(range(12)), st.sets(st.integers(0, 11)), st.integers(1, 4))
def test_lanes_that_wait_for_a_place_all_get_through(tickets: list[int], failed: set[int], capacity: int) -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity)
    lanes = [in_background(order, ticket, None if ticket in failed else result(ticket)) for ticket in tickets]
    assert have_ended(lanes)
    assert [each.frame for each in published] == [ticket for ticket in range(12) if ticket not in failed]
    assert [each.seq for each in published] == list(range(len(published)))


def test_a_result_is_published_as_soon_as_its_turn_comes() -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=4)
    order.hand_in(1, result(1))
    assert published == []
    order.hand_in(0, result(0))
    assert [each.frame for each in published] == [0, 1]


def test_an_early_result_waits_outside_when_the_places_are_taken() -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=1)
    order.hand_in(1, result(1))
    early = in_background(order, 2, result(2))
    early.join(0.05)
    assert early.is_alive()
    order.hand_in(0, result(0))
    assert have_ended([early])
    assert [each.frame for each in published] == [0, 1, 2]


def test_a_failed_frame_never_waits_since_its_lane_may_hold_the_frame_before() -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=1)
    order.hand_in(2, result(2))
    freed = in_background(order, 1, None)
    assert have_ended([freed]), "the lane waits for a result that it has itself yet to hand in"
    order.hand_in(0, result(0))
    assert [each.frame for each in published] == [0, 2]


def test_closing_lets_every_lane_go() -> None:
    order = ReorderBuffer(lambda _: None, capacity=1)
    order.hand_in(1, result(1))
    early = [in_background(order, ticket, result(ticket)) for ticket in (2, 3)]
    order.close()
    assert have_ended(early)


def test_what_comes_after_closing_gets_no_number_and_is_told_apart() -> None:
    published: list[Result] = []
    order = ReorderBuffer(published.append, capacity=2)
    assert order.hand_in(0, result(0))
    assert order.hand_in(2, result(2))
    order.close()
    assert not order.hand_in(1, result(1))
    assert not order.hand_in(3, result(3))
    assert [(each.frame, each.seq) for each in published] == [(0, 0), (2, 1)]
    assert order.next_seq == 2


def test_one_result_at_a_time_is_published() -> None:
    inside = threading.Lock()
    published: list[int] = []

    def publish(each: Result) -> None:
        assert inside.acquire(blocking=False)
        published.append(each.seq)
        inside.release()

    order = ReorderBuffer(publish, capacity=8)
    assert have_ended([in_background(order, ticket, result(ticket)) for ticket in reversed(range(64))])
    assert published == list(range(64))


def test_a_publish_that_fails_costs_no_other_result_its_turn() -> None:
    published: list[int] = []

    def publish(each: Result) -> None:
        if each.frame == 0:
            raise ValueError("cannot be encoded")
        published.append(each.frame)

    order = ReorderBuffer(publish, capacity=4)
    order.hand_in(1, result(1))
    with pytest.raises(ValueError, match="cannot be encoded"):
        order.hand_in(0, result(0))
    order.hand_in(2, result(2))
    assert published == [1, 2]
