"""Journal of the outbox under `kill -9`."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox

KILLED = """
import itertools, sys
from pathlib import Path
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.core.records import Message

waiting = Outbox(1000, Journal(Path(sys.argv[1])))
for number in itertools.count():
    waiting.put(Message("t", b"%d" % number, kind="result"))
    print(number, flush=True)  # it is handed over
    if number >= 50:
        taken = waiting.pop()
        print(-int(taken.message.body), flush=True)  # from here on it may be gone
        waiting.settle(taken)
"""


@pytest.mark.parametrize("seed", range(8))
def test_kill_9_loses_nothing_that_was_handed_over(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "j"
    with subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        told = [int(process.stdout.readline()) for _ in range(random.Random(seed).randrange(100, 4000))]
        process.send_signal(signal.SIGKILL)
        told += [int(line) for line in process.stdout.read().split("\n")[:-1]]
    highest, lowest = max(told), -min(told)
    waiting = Outbox(10_000, Journal(path))
    found = [int(entry.message.body) for entry in iter(waiting.pop, None) if entry]
    assert found == list(range(found[0], found[-1] + 1))
    assert found[0] <= lowest + 1
    assert found[-1] >= highest
