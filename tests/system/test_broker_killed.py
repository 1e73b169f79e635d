"""The broker is killed again and again while results flow: each of them arrives."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt
from tests.support.killing import KILLS, LONGEST_S, SEED
from tests.support.late_answers import DELAY_S, late_answers
from tests.support.process import Child, StartEdge
from tests.support.subscriber import Received, Subscriber, subscribed
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

# It writes its subscriber's session down with each change, and holds nothing back from the subscriber.
LASTING = ("allow_anonymous true", "autosave_on_changes true", "autosave_interval 1", "max_inflight_messages 0")
STREAMS = ("one", "two")
FEW = 60  # messages, of a second of both streams


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    server = Mosquitto(tmp_path, *LASTING)
    yield server
    server.kill()


def test_every_result_arrives_though_the_broker_is_killed(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto
) -> None:
    dice = random.Random(SEED)
    with late_answers(broker.port) as port:
        kill_and_count(configure, start_edge, broker, port, dice)


def kill_and_count(
    configure: Configure, start_edge: StartEdge, broker: Mosquitto, port: int, dice: random.Random
) -> None:
    tables: dict[str, Json] = {f"streams.{name}": belt(fps=30, size="160x120") for name in STREAMS}
    # So short, that the longer ones of the breaks are bridged by the disk.
    mqtt: Json = {"url": f"mqtt://127.0.0.1:{port}", "in_flight": 500}
    tables |= {"mqtt": mqtt, "outbox": {"memory_s": 0.3, "commit_s": 0.1}}
    config = configure(tables)
    with subscribed(broker.port) as subscriber:
        daemon = start_edge(config)
        for kills in range(KILLS):
            await_connection(daemon, kills + 1)
            await_flow(subscriber)
            # Past the first answer: a connection that gave none is not told in the log, which is waited for above.
            time.sleep(dice.uniform(2 * DELAY_S, LONGEST_S))
            broker.kill()
            time.sleep(dice.choice((0, 0, 2)) * dice.random())
            broker.start()
        await_connection(daemon, KILLS + 1)
        await_flow(subscriber)
        after = len(subscriber.messages)
        subscriber.wait_for(backlog_is_sent, "the backlog is sent", after=after)
        assert daemon.end() == 0
        subscriber.wait_for_state("stopped")
        summary = json.loads(daemon.output)
        assert summary["messages_lost"] == 0
        away = list[int]()  # on disk: the end waits for the last answers for some seconds, and no longer
        for name in STREAMS:
            count, seqs = summary["streams"][name]["results"], subscriber.seqs(name)
            print(f"{name}: {count} results, {len(seqs) - count} of them twice, {KILLS} kills")  # noqa: T201 -- for the record
            away += sorted(set(range(count)) - set(seqs))
        assert len(away) <= summary["messages_kept"], away


def backlog_is_sent(message: Received) -> bool:
    """Return whether nothing waits but what was sent a moment ago: the end waits for its answers, for a while."""
    if message.schema != "telemetry":
        return False
    outbox = message.body["outbox"]
    return bool(outbox["on_disk"]["messages"] == 0 and outbox["messages"] < FEW)


def await_connection(daemon: Child, count: int) -> None:
    eventually(lambda: daemon.log.count("connected to MQTT broker") >= count, f"connection {count}")


def await_flow(subscriber: Subscriber) -> None:
    """Wait until results of now arrive: what comes while the subscriber is away is the broker's to keep."""
    before = len(subscriber.messages)
    for name in STREAMS:
        subscriber.wait_for_results(name, 3, after=before)
