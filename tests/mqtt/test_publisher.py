"""Publisher without a broker, or with a small one: what waits, what is sent, what is lost and counted."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge.core.backoff import Backoff
from edge.core.config import OutboxSettings
from edge.core.records import Message
from edge.mqtt import publisher as publish
from edge.mqtt.outbox import Outbox, codec
from edge.mqtt.outbox.factory import open_outbox
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.publisher import Publisher
from tests.support.counting_broker import CountingBroker
from tests.support.publishing import LONG_S, WILL, Sent, eventually, mqtt_settings, publishing, result_message
from tests.support.strict_broker import StrictBroker, incoming
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


ONLINE = Message("edge/dev/status", b'{"state":"online"}', retain=True)


def is_long(publication: Any) -> bool:
    return len(publication.body) > 500


@pytest.fixture
def pauses_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Have the publisher try again at once; return the bounds of its pauses."""
    bounds_s: list[float] = []

    def no_pause(_least_s: float, most_s: float) -> float:
        bounds_s.append(most_s)
        return 0.0

    monkeypatch.setattr(publish, "Backoff", lambda first_s, longest_s: Backoff(first_s, longest_s, no_pause))
    return bounds_s


def test_a_message_on_which_the_broker_hangs_up_is_given_up_and_the_others_arrive(
    pauses_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    broker = StrictBroker(objects=is_long)
    with publishing(broker.port, version="3.1.1") as publisher:
        publisher.put(ONLINE)
        for number in range(3):
            publisher.put(result_message(number))
        publisher.put(Message("edge/dev/snapshot", b"x" * 600, kind="answer"))
        for number in range(3, 6):
            publisher.put(result_message(number))
        assert eventually(lambda: publisher.outbox().messages == 0)
        assert publisher.outbox().dropped_by_cause["refused"] == 1
        assert broker.hung_up <= 5
        publisher.put(Message("edge/dev/snapshot", b"x" * 700, kind="answer"))
        assert eventually(lambda: publisher.outbox().dropped_by_cause["refused"] == 2)
        assert broker.hung_up <= 5
    bodies = [each.body.partition(b",")[0] for each in broker.publications if each.topic.endswith("/results")]
    assert set(bodies) == {b'{"seq":%d' % number for number in range(6)}
    assert all(bodies.count(body) <= 2 for body in bodies)
    assert "times on a message of 600 bytes on edge/dev/snapshot, which is given up" in caplog.text


def test_a_message_on_disk_on_which_the_broker_hangs_up_leaves_the_disk(tmp_path: Path, pauses_s: list[float]) -> None:
    settings = mqtt_settings(free_port(), version="3.1.1")
    outbox, spooler = open_outbox(settings, OutboxSettings(memory_s=0.0), "dev", tmp_path, lambda *_: None)
    outbox.put(Message("edge/dev/snapshot", b"x" * 600, kind="answer"))
    outbox.put(result_message(0))
    spooler.start()
    assert eventually(lambda: outbox.state().disk_messages == 2)
    assert spooler.close(LONG_S)
    outbox.close_journal()

    broker = StrictBroker(objects=is_long)
    settings = mqtt_settings(broker.port, version="3.1.1")
    outbox, spooler = open_outbox(
        settings, OutboxSettings(memory_s=0.0, foreign="send"), "dev", tmp_path, lambda *_: None
    )
    publisher = Publisher(settings, "edge-test", WILL, outbox, Sent())
    spooler.start()
    publisher.start()
    publisher.put(ONLINE)
    assert eventually(lambda: outbox.state().dropped_by_cause["refused"] == 1)
    assert eventually(lambda: publisher.outbox().messages == 0)
    assert broker.hung_up <= 6
    assert broker.topics().count("edge/dev/streams/s/results") in (1, 2)
    publisher.finish(0)
    assert publisher.join(LONG_S)
    assert spooler.close(LONG_S)


def test_a_retained_message_on_which_the_broker_hangs_up_is_not_renewed_with_each_connection(
    pauses_s: list[float],
) -> None:
    broker = StrictBroker(objects=is_long)
    with publishing(broker.port, version="3.1.1") as publisher:
        publisher.put(ONLINE)
        publisher.put(Message("edge/dev/long", b"x" * 600, retain=True))
        assert eventually(lambda: publisher.outbox().dropped_by_cause["refused"] == 1)
        lost = broker.hung_up
        publisher.put(result_message(0))
        assert eventually(lambda: publisher.outbox().messages == 0)
    assert broker.hung_up == lost <= 5
    assert publisher.outbox().dropped_by_cause["refused"] == 1


def test_a_broker_that_only_hangs_up_has_no_message_given_up(pauses_s: list[float]) -> None:
    broker = StrictBroker(objects=lambda _publication: True)
    with publishing(broker.port, version="3.1.1") as publisher:
        publisher.put(ONLINE)
        publisher.put(result_message(0))
        assert eventually(lambda: broker.hung_up >= 2)
        broker.objects = lambda _publication: False
        assert eventually(lambda: publisher.outbox().messages == 0)
        assert publisher.outbox().dropped == 0


@pytest.mark.parametrize("topic", ["edge/dev/#", "edge/+/x", "", "edge/a\0b"])
def test_what_cannot_be_published_at_all_is_refused_and_does_not_end_the_connection(topic: str) -> None:
    broker = StrictBroker()
    with publishing(broker.port) as publisher:
        publisher.put(Message(topic, b"{}", kind="answer"))
        publisher.put(result_message(0))
        assert eventually(lambda: broker.topics() == ["edge/dev/streams/s/results"])
        assert eventually(lambda: publisher.outbox().messages == 0)
        assert publisher.outbox().dropped_by_cause["refused"] == 1
    assert len(broker.wills) == 1


def test_a_quality_of_service_that_does_not_exist_is_sent_as_1() -> None:
    broker = StrictBroker()
    with publishing(broker.port) as publisher:
        publisher.put(Message("edge/dev/x", b"{}", qos=3, kind="answer"))
        assert eventually(lambda: [each.qos for each in broker.publications] == [1])


def test_another_client_of_the_same_id_is_told_with_the_remedy_and_the_pauses_grow(
    pauses_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    broker = StrictBroker(goodbye=0x8E)
    with publishing(broker.port) as publisher:
        publisher.put(result_message(0))
        assert eventually(lambda: len(broker.wills) >= 8)
    assert "Session taken over; another client connected with the same client id, edge-test" in caplog.text
    assert "a [device] name or [mqtt] client_id of its own" in caplog.text
    assert caplog.text.count("taken over") == 1
    assert {2.0, 4.0, 8.0, 16.0, 30.0} <= set(pauses_s)


def has_connected(publisher: Publisher, broker: StrictBroker, times: int) -> bool:
    return len(broker.wills) == times and publisher.outbox().messages == 0


def has_hung_up(broker: StrictBroker, times: int) -> bool:
    return broker.hung_up == times


def test_connections_that_work_and_end_after_seconds_without_a_reason_look_evicted(
    pauses_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    broker = StrictBroker(objects=lambda publication: publication.topic == "edge/dev/qos0")
    with publishing(broker.port, version="3.1.1") as publisher:
        publisher.put(ONLINE)
        for lost in range(1, 5):
            assert eventually(partial(has_connected, publisher, broker, lost))
            publisher.put(Message("edge/dev/qos0", b"{}", qos=0))
            assert eventually(partial(has_hung_up, broker, lost))
    assert caplog.text.count("another client may have connected with the same client id, edge-test") == 1
    assert 30.0 not in pauses_s
    assert 4.0 in pauses_s


def test_a_refused_answer_that_lasts_is_told_after_a_lost_connection(
    pauses_s: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    broker = StrictBroker(goodbye=0x8B)  # it shuts down
    with publishing(broker.port) as publisher:
        publisher.put(result_message(0))
        assert eventually(lambda: len(broker.wills) >= 2)
        broker.connack = lambda _will: 0x87
        seen = len(broker.wills)
        assert eventually(lambda: len(broker.wills) >= seen + 4)
    assert "Server shutting down" in caplog.text
    assert caplog.text.count("Not authorized; check user name, password and the broker's log") == 1


@pytest.mark.parametrize("version", ["5", "3.1.1"])
@pytest.mark.parametrize(("max_qos", "retains"), [(1, 0), (0, 1), (0, 0)])
def test_a_broker_without_retention_or_qos_1_is_served_with_less_and_that_is_told(
    version: str, max_qos: int, retains: int, caplog: pytest.LogCaptureFixture
) -> None:
    def connack(will: Any) -> int | None:
        code = 0x9A if will.retain and not retains else 0x9B if will.qos > max_qos else 0
        return code if version == "5" or not code else None

    told = b"\x24" + bytes([max_qos]) + b"\x25" + bytes([retains])
    broker = StrictBroker(connack, told, lambda sent: sent.qos > max_qos or sent.retain > retains)
    with publishing(broker.port, version=version) as publisher:
        publisher.put(ONLINE)
        publisher.put(result_message(0))
        publisher.put(Message("edge/dev/gone", b"", retain=True))
        assert eventually(lambda: publisher.outbox().messages == 0 and len(broker.publications) >= 2)
        assert publisher.outbox().dropped == 0
        assert eventually(lambda: "it retains no" in caplog.text or "its maximum QoS" in caplog.text)
    expected = [("edge/dev/status", max_qos, bool(retains)), ("edge/dev/streams/s/results", max_qos, False)]
    found = [(each.topic, each.qos, each.retain) for each in broker.publications]
    assert [each for each in found if each[0] != "edge/dev/gone"] == expected
    assert ("edge/dev/gone" in broker.topics()) == bool(retains)
    told_too = "it retains no messages" in caplog.text, "its maximum QoS is 0" in caplog.text
    assert told_too == (not retains, max_qos == 0)
    assert broker.hung_up == 0


def test_a_broker_that_hung_up_once_gets_the_retained_will_again() -> None:
    refusals = iter([None, 0])
    broker = StrictBroker(lambda _will: next(refusals, 0))
    with publishing(broker.port, version="3.1.1") as publisher:
        publisher.put(ONLINE)
        assert eventually(lambda: [(each.qos, each.retain) for each in broker.publications] == [(1, True)])


def test_a_subscription_that_the_broker_refuses_is_told(caplog: pytest.LogCaptureFixture) -> None:
    broker = StrictBroker(suback=0x87)
    settings = mqtt_settings(broker.port)
    publisher = Publisher(settings, "edge-test", WILL, Outbox(10), Sent(), ["edge/dev/cmd/+"])
    publisher.start()
    assert eventually(lambda: "it refused a subscription" in caplog.text)
    assert "edge/dev/cmd/+ (Not authorized)" in caplog.text
    publisher.finish(0)
    assert publisher.join(LONG_S)


@pytest.mark.parametrize("size", [300_000, 3_000_000, 20_000_000])
def test_a_request_that_is_too_long_is_skipped_and_the_next_one_heard(
    size: int, caplog: pytest.LogCaptureFixture
) -> None:
    sent = incoming(b"edge/dev/cmd/x", bytes(size), 7) + incoming(b"edge/dev/cmd/reload", b"{}", 8)
    broker = StrictBroker(after_suback=sent)
    requests: list[Any] = []
    settings = mqtt_settings(broker.port, version="3.1.1")
    publisher = Publisher(settings, "edge-test", WILL, Outbox(10), Sent(), ["edge/dev/cmd/+"], requests.append)
    publisher.start()
    assert eventually(lambda: requests)
    assert [each.topic for each in requests] == ["edge/dev/cmd/reload"]
    assert eventually(lambda: broker.acknowledged == [7, 8])
    assert "a message on edge/dev/cmd/x that is too long, and is skipped" in caplog.text
    assert len(broker.wills) == 1
    publisher.finish(0)
    assert publisher.join(LONG_S)
