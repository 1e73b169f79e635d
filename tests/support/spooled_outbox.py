"""Outbox with its spooler, as the daemon has them, without a daemon."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from edge.core.records import Message, MessageKind
from edge.mqtt.outbox.destination import UNKNOWN, Destination, ForeignPolicy
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import Spool
from edge.mqtt.outbox.spooler import Spooler

PATIENCE_S = 30.0


class SpooledOutbox:
    """An outbox, its spooler, and the alarms that it reported."""

    def __init__(
        self,
        folder: Path,
        *,
        bound: int = 10_000,
        memory_s: float = 0,
        commit_s: float = 0.01,
        max_mb: int = 64,
        max_age_s: float = 3600,
        journal: Path | None = None,
        destination: Destination = UNKNOWN,
        foreign: ForeignPolicy = "hold",
    ) -> None:
        self.path = folder / "outbox.db"
        self.alarms: list[tuple[str, str | None]] = []
        self.outbox = Outbox(bound, Journal(journal, 4, destination) if journal else None, foreign)
        spool = Spool(self.path, max_mb, max_age_s, "commit", destination, foreign) if max_mb else None
        self.spooler = Spooler(self.outbox, spool, memory_s, commit_s, self._note_alarm)

    def _note_alarm(self, alarm: str, reason: str | None, step: str) -> None:
        assert step
        self.alarms.append((alarm, reason))

    def put(self, first: int, count: int, kind: MessageKind = "result", size: int = 100) -> None:
        for number in range(first, first + count):
            self.outbox.put(Message("t", (b"%d " % number).ljust(size, b"x"), kind=kind))

    def on_disk(self, count: int) -> None:
        """Wait until so many messages are on disk."""
        eventually(lambda: self.outbox.state().disk_messages == count, f"{count} on disk: {self.outbox.state()}")

    def sent(self, count: int) -> list[int]:
        """Take so many messages as a publisher does, with a broker that takes each of them."""
        self.outbox.set_connected(connected=True)
        found = list[int]()

        def take() -> bool:
            self.sent_more(found)
            return len(found) >= count

        eventually(take, f"{count} messages: {len(found)} came; {self.outbox.state()}")
        return found

    def sent_more(self, found: list[int]) -> bool:
        """Add what can be sent now; return whether nothing waits any more."""
        while (entry := self.outbox.pop()) is not None:
            found.append(int(entry.message.body.split()[0]))
            self.outbox.settle(entry)
        return self.outbox.state().messages == 0


def eventually(condition: Callable[[], bool], what: str) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < until_s, f"waited for: {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def spooled_outbox(folder: Path, **options: object) -> Iterator[SpooledOutbox]:
    made = SpooledOutbox(folder, **options)  # type: ignore[arg-type]
    made.spooler.start()
    try:
        yield made
    finally:
        assert made.spooler.close(PATIENCE_S)
        made.outbox.close_journal()
