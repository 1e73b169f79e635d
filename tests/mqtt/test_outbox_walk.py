"""Random walks of broker, disk and restarts: whatever happens, each message is sent."""

from __future__ import annotations

import random
import time
from collections import Counter
from pathlib import Path

import pytest

from edge.core.records import MESSAGE_KINDS
from edge.mqtt.outbox.entry import Entry
from tests.support.spooled_outbox import SpooledOutbox, spooled_outbox

STEPS = 120


class Walk:
    """Hands messages over, sends them as a publisher does, and knows what the broker has taken."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.count = 0
        self.taken = Counter[int]()
        self.in_flight: list[Entry] = []

    def step(self, made: SpooledOutbox) -> None:
        self.dice.choice((self.put, self.put, self.send, self.send, self.connect, self.lose, self.wait))(made)

    def put(self, made: SpooledOutbox) -> None:
        many = self.dice.choice((1, 5, 80))
        made.put(self.count, many, self.dice.choice(MESSAGE_KINDS))
        self.count += many

    def send(self, made: SpooledOutbox) -> None:
        for _ in range(self.dice.randrange(100)):
            if (entry := made.outbox.pop(backlog=self.dice.random() < 0.7)) is not None:
                entry.times_sent += 1
                self.in_flight.append(entry)
        for _ in range(self.dice.randrange(len(self.in_flight) + 1)):
            entry = self.in_flight.pop(0)
            self.taken[int(entry.message.body.split()[0])] += 1
            made.outbox.settle(entry)

    def connect(self, made: SpooledOutbox) -> None:
        made.outbox.set_connected(connected=True)

    def lose(self, made: SpooledOutbox) -> None:
        made.outbox.set_connected(connected=False)
        made.outbox.put_back(self.in_flight)
        self.in_flight.clear()

    def wait(self, _made: SpooledOutbox) -> None:
        time.sleep(self.dice.random() * 0.05)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_broker_and_restarts_do_each_message_is_sent_and_no_count_is_off(tmp_path: Path, seed: int) -> None:
    walk = Walk(seed)
    for _ in range(3):
        with spooled_outbox(tmp_path, bound=4000, memory_s=0.02, journal=tmp_path / "journal") as made:
            for _ in range(STEPS):
                walk.step(made)
            walk.lose(made)
        told = made.outbox.state()
        assert told.dropped == 0
        assert told.messages == told.disk_messages == walk.count - len(walk.taken)
    with spooled_outbox(tmp_path) as made:
        found = made.sent(walk.count - len(walk.taken))
    walk.taken.update(found)
    assert set(walk.taken) == set(range(walk.count))
    assert set(walk.taken.values()) == {1}, "what the broker took is not sent again"
