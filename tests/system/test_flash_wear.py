"""While the broker is there, the daemon writes nothing to the disk."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, belt
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually

pytestmark = pytest.mark.broker


def written_bytes(pid: int) -> int:
    """Return how many bytes a process has made dirty in files that lie on a disk: those in memory are not counted."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of the last change of each file, and of the folder."""
    found = [folder, *folder.rglob("*")]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


def test_the_disk_is_touched_only_while_the_broker_is_away(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, broker: Mosquitto, subscriber: Subscriber
) -> None:
    tables = {"outbox": {"memory_s": 0.2, "commit_s": 0.1}, "streams.belt": belt(fps=60, size="160x120")}
    daemon = start_edge(configure(tables))
    state, pid = tmp_path / "edge-state", daemon.process.pid
    subscriber.wait_for_results("belt", 10)
    bytes_before, before = written_bytes(pid), contents(state)
    subscriber.wait_for_results("belt", 200, after=len(subscriber.messages))
    assert written_bytes(pid) == bytes_before
    assert contents(state) == before
    assert subscriber.telemetry()[-1]["outbox"]["journal"], "what waits in memory had its copies all the time"
    # What is measured here does move where the disk is used.
    broker.end()
    daemon.await_log("is unreachable")
    eventually(lambda: (state / "outbox.db").exists() and written_bytes(pid) > bytes_before, "the disk is used")
    assert contents(state) != before
    broker.start()
    subscriber.wait_for(
        lambda m: m.schema == "telemetry" and m.body["outbox"]["disk"] == "ok",
        "telemetry",
        after=len(subscriber.messages),
    )
    eventually(lambda: subscriber.telemetry()[-1]["outbox"]["on_disk"]["messages"] == 0, "the backlog is sent")
    time.sleep(0.5)  # the last of it is removed from the disk within a commit's time
    bytes_before, before = written_bytes(pid), contents(state)
    subscriber.wait_for_results("belt", 100, after=len(subscriber.messages))
    assert written_bytes(pid) == bytes_before
    assert contents(state) == before
    assert daemon.end() == 0
