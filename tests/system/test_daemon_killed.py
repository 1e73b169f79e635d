"""The daemon is killed again and again: what was handed to the outbox arrives.

What was handed over is known from the outside: the model's decoder, which runs right before, makes a file grow by one
byte a frame. One lane serves one frame at a time, so at most one frame was decoded and not handed over.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt
from tests.support.killing import KILLS, SEED
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber
from tests.support.tiny_model import tiny_model
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

COUNTING = """
import os
from pathlib import Path
import numpy as np

frames = os.open(Path(__file__).with_name(f"{os.getpid()}.decoded"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)

def decode(outputs, options):
    os.write(frames, b".")
    return np.array([[0, 0, 16, 16]], np.float32), np.array([0.9], np.float32), np.array([0])
"""


def test_what_was_handed_to_the_outbox_arrives_though_the_daemon_is_killed(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    dice = random.Random(SEED)
    folder = tiny_model(tmp_path / "tiny", COUNTING)
    model: Json = {"path": str(folder), "lanes": 1, "threads": 1, "max_batch": 1}
    stream = belt(fps=100, size="160x120") | {"model": "tiny"}
    # In the first round, and some others, the broker is away or deaf for so long that what waits is on disk, or on its
    # way to it.
    tables = {"outbox": {"memory_s": 0.5, "commit_s": 0.2}, "models.tiny": model, "streams.belt": stream}
    daemon = start_edge(configure(tables))
    starts = list[int]()
    for kill in range(KILLS):
        starts.append(daemon.process.pid)
        eventually(lambda: daemon.log.count("run as boot") == len(starts), "a start")
        time.sleep(dice.uniform(0, 1.5))
        trouble = dice.choice(("none", "deaf", "away")) if kill else "away"
        if trouble == "deaf":
            broker.send(signal.SIGSTOP)
        elif trouble == "away":
            broker.end()  # in peace: what it took it keeps
        if trouble != "none":
            time.sleep(dice.uniform(0.1, 2))
        if not kill:
            eventually((tmp_path / "edge-state" / "outbox.db").exists, "what waits is written")
        daemon.kill()
        if trouble == "deaf":
            broker.send(signal.SIGCONT)
        elif trouble == "away":
            broker.start()
        daemon.start()
    starts.append(daemon.process.pid)
    eventually(lambda: daemon.log.count("run as boot") == len(starts), "the last start")
    subscriber.wait_for_results("belt", 50, after=len(subscriber.messages))
    eventually(lambda: subscriber.telemetry()[-1]["outbox"]["on_disk"]["messages"] == 0, "the backlog is sent")
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    boots = [line.split()[-1] for line in daemon.log.splitlines() if "run as boot" in line]
    windows = [window(subscriber, boot, folder / f"{pid}.decoded") for boot, pid in zip(boots, starts, strict=True)]
    results = len({(each["boot"], each["seq"]) for each in subscriber.results("belt")})
    twice = len(subscriber.results("belt")) - results
    print(f"{KILLS} kills: {results} results, {twice} of them twice; decoded and not handed over: {windows}")  # noqa: T201 -- for the record
    assert max(windows) <= 1


def window(subscriber: Subscriber, boot: str, decoded: Path) -> int:
    """Return how many of a start's frames were decoded and did not arrive; those that did must have no gap."""
    seqs = {result["seq"] for result in subscriber.results("belt") if result["boot"] == boot}
    assert seqs == set(range(len(seqs))), boot
    return decoded.stat().st_size - len(seqs)
