"""Suspects of lost connections: who is suspected, and when one is given up."""

from __future__ import annotations

import pytest

from edge.core.records import Message
from edge.mqtt import loss_suspects
from edge.mqtt.loss_suspects import MOST_LOSSES, PROMPT_NS, REFUSED_NS, LossSuspects
from edge.mqtt.outbox.entry import Entry


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    times = [10**12]
    monkeypatch.setattr(loss_suspects, "now_ns", lambda: times[0])
    return times


def entry(size: int, topic: str = "edge/dev/snapshot", number: int = 0) -> Entry:
    return Entry(Message(topic, b"x" * size), number)


def give_up(suspects: LossSuspects, poison: Entry, now: int) -> int:
    """Lose connections upon one message until it is given up; return how many that took."""
    losses = 1
    assert suspects.note_loss([poison], None) is None
    while suspects.note_loss([poison], now) is None:
        losses += 1
        assert losses < 10
    return losses + 1


def test_the_first_and_the_longest_of_what_was_on_its_way_are_suspected(clock: list[int]) -> None:
    on_its_way = [entry(10), entry(20), entry(3000), entry(30)]
    assert LossSuspects().note_loss(on_its_way, None) is None
    assert [each.losses for each in on_its_way] == [1, 0, 1, 0]


def test_a_message_is_given_up_after_a_few_losses_and_sooner_on_the_same_topic(clock: list[int]) -> None:
    suspects = LossSuspects()
    assert give_up(suspects, entry(1000), clock[0]) == MOST_LOSSES
    assert give_up(suspects, entry(900), clock[0]) == 2
    assert give_up(suspects, entry(900, "another"), clock[0]) == MOST_LOSSES


def test_a_loss_that_comes_late_is_the_links(clock: list[int]) -> None:
    suspects, poison = LossSuspects(), entry(1000)
    for _ in range(20):
        assert suspects.note_loss([poison], clock[0] - PROMPT_NS - 1) is None
    assert not poison.is_given_up


def test_as_long_ones_on_its_topic_are_refused_for_an_hour(clock: list[int]) -> None:
    suspects = LossSuspects()
    give_up(suspects, entry(1000), clock[0])
    assert suspects.refusal(entry(1000)) == "it hung up on one of 1000 bytes there"
    assert suspects.refusal(entry(999)) is None
    assert suspects.refusal(entry(2000, "another")) is None
    clock[0] += REFUSED_NS + 1
    assert suspects.refusal(entry(1000)) is None


def test_nothing_on_its_way_is_no_message_to_blame(clock: list[int]) -> None:
    assert LossSuspects().note_loss([], None) is None
