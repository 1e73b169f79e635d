"""Queue of outgoing messages: its bound, its order, and what is dropped and counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.clock import now_ns
from edge.core.records import MESSAGE_KINDS, Message, MessageKind, OutboxState
from edge.mqtt.outbox import Outbox
from edge.mqtt.outbox.entry import Entry


def message(body: str, *, retain: bool = False, topic: str = "t", made_ns: int = 0) -> Message:
    return Message(topic, body.encode(), retain=retain, made_ns=made_ns or now_ns())


def drained(waiting: Outbox) -> list[str]:
    bodies = []
    while (each := waiting.pop()) is not None:
        bodies.append(each.message.body.decode())
    return bodies


def test_a_full_queue_drops_its_oldest_result_and_counts_it() -> None:
    waiting = Outbox(3)
    for number in range(5):
        waiting.put(message(str(number)))
    assert waiting.state([]).dropped == 2
    assert drained(waiting) == ["2", "3", "4"]


def test_retained_messages_are_not_dropped_for_results_and_keep_their_order() -> None:
    waiting = Outbox(3)
    for topic in "ab":
        waiting.put(message(topic, retain=True, topic=topic))
    for number in range(3):
        waiting.put(message(str(number)))
    assert drained(waiting) == ["a", "b", "2"]


def test_a_stream_that_reconnects_again_and_again_holds_one_place() -> None:
    waiting = Outbox(10)
    for number in range(1000):
        waiting.put(message(f"try {number}", retain=True, topic="streams/door/status"))
    waiting.put(message("result"))
    assert waiting.state([]).messages <= 10
    assert drained(waiting) == ["try 999", "result"]


def test_what_a_broker_was_told_to_forget_is_not_told_again() -> None:
    waiting = Outbox(10)
    for body in ("running", ""):
        waiting.put(message(body, retain=True, topic="streams/door/status"))
    forgotten = waiting.pop()
    assert forgotten is not None
    waiting.renew_retained()
    assert drained(waiting) == [""]  # it was not acknowledged yet
    waiting.settle(forgotten)
    waiting.renew_retained()
    assert drained(waiting) == []


def test_what_was_not_acknowledged_goes_first_again() -> None:
    waiting = Outbox(10)
    for number in range(4):
        waiting.put(message(str(number)))
    sent = [each for each in (waiting.pop(), waiting.pop()) if each]
    waiting.put_back(sent)
    assert drained(waiting) == ["0", "1", "2", "3"]


def test_putting_back_into_a_full_queue_drops_the_oldest() -> None:
    waiting = Outbox(3)
    for number in range(3):
        waiting.put(message(str(number)))
    sent = [each for each in (waiting.pop(), waiting.pop()) if each]
    waiting.put(message("3"))
    waiting.put(message("4"))
    waiting.put_back(sent)
    assert waiting.state([]).dropped == 2
    assert drained(waiting) == ["2", "3", "4"]


def test_a_new_connection_starts_with_the_newest_retained_message_of_each_topic() -> None:
    waiting = Outbox(10)
    for body, topic in (("old", "a"), ("b", "b"), ("new", "a")):
        waiting.put(message(body, retain=True, topic=topic))
    assert "new" in drained(waiting)
    waiting.put(message("result"))
    waiting.renew_retained()
    assert drained(waiting) == ["new", "b", "result"]


def test_the_outbox_tells_messages_bytes_and_age_with_those_on_their_way() -> None:
    waiting = Outbox(10)
    waiting.put(message("abc", made_ns=now_ns() - 5 * 10**9))
    waiting.put(message("é"))
    told = waiting.state([Entry(message("1234", made_ns=now_ns() - 60 * 10**9), 0)])
    assert (told.messages, told.bytes, told.dropped) == (3, 9, 0)
    assert told.oldest_s == pytest.approx(60, abs=30)


def test_an_empty_outbox_has_no_age() -> None:
    assert Outbox(10).state([]) == OutboxState(0, 0, None, 0)


def test_the_oldest_is_told_also_behind_a_newer_retained_message() -> None:
    waiting = Outbox(10)
    waiting.put(message("old result", made_ns=now_ns() - 600 * 10**9))
    waiting.put(message("status", retain=True))
    waiting.renew_retained()
    assert waiting.state([]).oldest_s == pytest.approx(600, abs=300)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.integers(0, 20)),
        st.tuples(st.just("retain"), st.integers(0, 3)),
        st.tuples(st.just("pop"), st.just(0)),
        st.tuples(st.just("put back"), st.integers(0, 5)),
        st.tuples(st.just("renew"), st.just(0)),
    ),
    max_size=80,
)


@given(st.integers(4, 7), STEPS)
def test_the_bound_holds_and_each_message_is_sent_waits_or_is_counted(bound: int, steps: list[tuple[str, int]]) -> None:
    waiting = Outbox(bound)
    put, sent = 0, list[Entry]()
    for step, number in steps:
        if step == "put":
            waiting.put(message("x" * number))
            put += 1
        elif step == "retain":
            waiting.put(message("y", retain=True, topic=f"status {number}"))
        elif step == "pop":
            popped = waiting.pop()
            sent += [popped] if popped and not popped.message.retain else []
        elif step == "put back" and number:
            waiting.put_back(sent[-number:])
            del sent[-number:]
        elif step == "renew":
            waiting.renew_retained()
        assert waiting.state([]).messages <= bound
    told = waiting.state([])
    left = [each for each in iter(waiting.pop, None) if each]
    assert (told.messages, told.bytes) == (len(left), sum(len(each.message.body) for each in left))
    assert put == len(sent) + sum(not each.message.retain for each in left) + told.dropped


KINDS = st.lists(st.sampled_from(MESSAGE_KINDS), max_size=60)


@given(KINDS)
def test_what_matters_most_goes_out_first_and_within_its_kind_in_order(kinds: list[MessageKind]) -> None:
    waiting = Outbox(100)
    for number, kind in enumerate(kinds):
        waiting.put(Message("t", b"%d" % number, kind=kind))
    numbers = drained(waiting)
    sent = [kinds[int(body)] for body in numbers]
    assert sent == sorted(kinds, key=MESSAGE_KINDS.index)
    for kind in MESSAGE_KINDS:
        of_kind = [int(body) for body in numbers if kinds[int(body)] == kind]
        assert of_kind == sorted(of_kind)


@given(KINDS, st.integers(1, 10))
def test_what_matters_least_is_given_up_first_and_counted_by_kind(kinds: list[MessageKind], bound: int) -> None:
    waiting = Outbox(bound)
    for number, kind in enumerate(kinds):
        waiting.put(Message("t", b"%d" % number, kind=kind))
    told = waiting.state()
    kept = [kinds[int(body)] for body in drained(waiting)]
    dropped = [kind for kind in MESSAGE_KINDS for _ in range(told.dropped_by_kind[kind])]
    assert sorted(kept + dropped) == sorted(kinds)
    assert told.dropped == told.dropped_by_cause["full"] == len(dropped) == max(len(kinds) - bound, 0)


def test_a_refused_message_is_counted_with_its_kind_and_cause() -> None:
    waiting = Outbox(10)
    waiting.put(message("a"))
    taken = waiting.pop()
    assert taken is not None
    waiting.settle(taken, "refused")
    told = waiting.state()
    assert (told.messages, told.dropped_by_cause["refused"], told.dropped_by_kind["status"]) == (0, 1, 1)
