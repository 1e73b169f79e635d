"""Publisher without a broker, or with a small one: what waits, what is sent, what is lost and counted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from edge.core.records import Message
from edge.mqtt.outbox import Outbox, codec
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.publisher import Publisher
from tests.support.counting_broker import CountingBroker
from tests.support.publishing import LONG_S, WILL, Sent, eventually, mqtt_settings, publishing, result_message
from tests.support.waiting import free_port


def test_a_broker_that_is_away_does_not_hold_up_the_end() -> None:
    publisher = Publisher(mqtt_settings(free_port()), "edge-test", WILL, Outbox(10), Sent())
    publisher.start()
    publisher.put(result_message(0))
    publisher.finish(60)
    assert publisher.join(LONG_S)
    assert not publisher.connected
    assert publisher.outbox().messages == 1


def test_while_the_broker_is_away_the_oldest_results_are_dropped_and_counted() -> None:
    with publishing(free_port(), queue_messages=10) as publisher:
        for number in range(25):
            publisher.put(result_message(number))
        assert publisher.outbox().messages == 10
        assert publisher.outbox().dropped == 15


def test_no_more_is_on_its_way_than_the_broker_takes_and_of_the_backlog_at_most_half(tmp_path: Path) -> None:
    killed = Outbox(1000, Journal(tmp_path / "journal"))
    for _ in range(100):
        killed.put(Message("backlog", b"{}", kind="result"))
    broker = CountingBroker(b"\x21" + (10).to_bytes(2, "big"))  # receive maximum
    store = Outbox(1000, Journal(tmp_path / "journal"))
    publisher = Publisher(mqtt_settings(broker.port), "edge-test", WILL, store, Sent())
    publisher.start()
    assert eventually(lambda: len(broker.topics) == 5)
    for _ in range(20):
        publisher.put(Message("live", b"{}", kind="result"))
    assert eventually(lambda: len(broker.topics) == 10)
    time.sleep(0.3)
    assert broker.topics == ["backlog"] * 5 + ["live"] * 5
    publisher.finish(0)
    assert publisher.join(LONG_S)
    assert publisher.outbox().messages == 120


def test_the_age_of_a_result_is_null_where_a_reboot_and_an_unset_clock_lie_between(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Outbox(10, Journal(tmp_path / "journal")).put(result_message(1, age_s=5))
    monkeypatch.setattr(codec, "kernel_start", lambda: 2)
    monkeypatch.setattr(codec, "clock_synchronised", lambda: False)
    store = Outbox(10, Journal(tmp_path / "journal"))
    assert store.state().oldest_s is None
    broker = CountingBroker()
    publisher = Publisher(mqtt_settings(broker.port), "edge-test", WILL, store, Sent())
    publisher.start()
    assert eventually(lambda: len(broker.packets) == 1)
    publisher.put(result_message(2, age_s=5))
    assert eventually(lambda: len(broker.packets) == 2)
    publisher.finish(0)
    assert publisher.join(LONG_S)
    assert [b'"age_ms":null}' in packet for packet in broker.packets] == [True, False]
    assert b'{"seq":2,"age_ms":5' in broker.packets[1]


def test_a_message_longer_than_the_broker_takes_does_not_hold_up_those_behind_it() -> None:
    """Sent, it would end the connection, and be sent again on the next one, for ever."""
    broker = CountingBroker(b"\x27" + (1000).to_bytes(4, "big"))  # maximum packet size
    with publishing(broker.port) as publisher:
        publisher.put(Message("long", b"x" * 990, kind="answer"))
        publisher.put(Message("short", b"x" * 900, kind="answer"))
        assert eventually(lambda: broker.topics == ["short"])
        state = publisher.outbox()
        assert (state.messages, state.dropped_by_cause["refused"]) == (1, 1)
