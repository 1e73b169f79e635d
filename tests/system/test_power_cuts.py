"""The power is cut at random moments: what was on disk arrives, or stays on disk until the broker has it.

A cut leaves the state directory as it is at that moment, and nothing of memory. So the daemon is stopped, the directory
copied, the daemon killed, and the next one started on the copy: the journal, which belongs to the other path, is lost.
"""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from edge.mqtt.outbox.spool import LOWEST, Spool
from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt
from tests.support.killing import SEED
from tests.support.long_form import IS_LONG
from tests.support.process import Child, StartEdge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker

ROUNDS = 10 if IS_LONG else 2  # without the broker and with it, in turn
CUTS = 3  # a round; the daemon goes on after all but the last
Identity = tuple[str, int]


def identity(result: Json) -> Identity:
    return result["boot"], result["seq"]


def on_disk(state_dir: Path) -> set[Identity]:
    """Return the results in a state directory, opened as the daemon opens it, on a copy."""
    copy = Path(shutil.copytree(state_dir, state_dir.with_name(f"{state_dir.name}-read")))
    spool = Spool(copy / "outbox.db", 256, 3600, "commit")
    spool.open(1)
    entries = spool.read(LOWEST, 1_000_000)
    spool.close()
    shutil.rmtree(copy)
    return {identity(json.loads(each.message.body)) for each in entries if each.message.kind == "result"}


def received(subscriber: Subscriber) -> set[Identity]:
    return {identity(each) for each in subscriber.results("belt")}


def cut(daemon: Child, state_dir: Path, copy: Path, written: set[Identity], subscriber: Subscriber) -> set[Identity]:
    """Copy the state directory of the stopped daemon; return what is on disk.

    What was there at an earlier cut is there still, or the broker has it.
    """
    daemon.send(signal.SIGSTOP)
    shutil.copytree(state_dir, copy)
    found = on_disk(copy)
    eventually(lambda: written - found <= received(subscriber), "what is no longer on disk has arrived")
    return found


def test_what_is_on_disk_outlives_power_cuts(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    dice = random.Random(SEED)
    config = configure({"outbox": {"memory_s": 0.2, "commit_s": 0.1}, "streams.belt": belt(size="160x120")})
    state_dir = tmp_path / "state"
    written, cuts = set[Identity](), 0
    for number in range(ROUNDS):
        is_there = number % 2 == 1
        (broker.start if is_there else broker.end)()  # in peace: what it took it keeps
        earlier = {boot for boot, _ in written}
        daemon = start_edge(config, name=f"edge-{number}", state_dir=state_dir)
        daemon.await_log("connected to MQTT broker" if is_there else "run as boot")
        eventually((state_dir / "outbox.db").exists, "the file is there")
        for _ in range(CUTS):
            time.sleep(dice.uniform(0, 1.2))
            copy, cuts = tmp_path / f"cut-{cuts}", cuts + 1
            found = cut(daemon, state_dir, copy, written, subscriber)
            daemon.send(signal.SIGCONT)
            seqs = {seq for boot, seq in found if boot not in earlier}
            assert is_there or seqs == set(range(len(seqs))), "of what was handed over, only the newest may be missing"
            written |= found
        daemon.kill()
        assert "Traceback" not in daemon.log
        assert "outbox_disk" not in daemon.log
        state_dir = copy
    daemon = start_edge(config, state_dir=state_dir)
    daemon.await_log("run as boot")
    eventually(lambda: written <= received(subscriber), "all that was ever on disk has arrived")
    assert daemon.end() == 0
    assert not list(tmp_path.glob("cut-*/*.bad"))
    print(f"{cuts} cuts: {len(written)} results were on disk, {len(received(subscriber))} arrived")  # noqa: T201 -- for the record
