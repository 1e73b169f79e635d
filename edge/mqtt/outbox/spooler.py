"""The thread that owns the disk: what memory should not hold goes there, and comes back when the broker is there.

A thread of its own, since both others would suffer from a disk that is slow: a lane must not wait for it, and the
publisher, which may wait seconds for a name server or a broker, must not keep messages from being written, nor live
results wait for a commit.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from itertools import islice
from pathlib import Path

from edge.core.clock import now_ns
from edge.core.records import Message
from edge.mqtt.outbox.alarms import AlarmCallback, AlarmLatch, Bounds
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.salvage import salvaged
from edge.mqtt.outbox.spool import LOWEST, Spool, Stock

log = logging.getLogger(__name__)

AHEAD = 256  # messages read from the disk before they are sent
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class Spooler:
    """Moves messages between an outbox and its shelf."""

    def __init__(
        self, outbox: Outbox, shelf: Spool | None, memory_s: float, commit_s: float, tell: AlarmCallback
    ) -> None:
        self._outbox = outbox
        self._shelf = shelf
        self._memory_ns = int(memory_s * 1e9)
        self._commit_ns = int(commit_s * 1e9)
        on_disk = (shelf.max_mb, shelf.max_age_s) if shelf else ()
        self._alarms = AlarmLatch(tell, Bounds(outbox.bound, *on_disk))
        self._wake = threading.Event()
        self._closing = False
        self._read: set[int] = set()  # keys of what was read from the disk and is not taken from it yet
        self._read_up_to = LOWEST
        self._stock = Stock()
        self._retries = 0
        self._retry_at_ns: int | None = None
        self._looked_ns = 0  # when it was looked at last whether anything is to be written
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        outbox.on_pressure = self._on_pressure

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Bring all to the disk, and end; tell whether that was done in time."""
        self._closing = True
        self._alarms.silence()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _on_pressure(self) -> None:
        # Where there is no disk, or it is in a fault, it is not asked again with each message.
        if self._shelf is not None and self._retry_at_ns is None:
            self._wake.set()

    def _run(self) -> None:
        done = False
        while not done:
            self._wake.clear()  # before it is asked whether to end: else the call to do so may be missed
            done = self._closing
            try:
                self._work()
            except (sqlite3.Error, OSError) as error:
                self._mend(error)
            except Exception:  # a defect here must not end what keeps the messages
                log.exception("the outbox failed unexpectedly")
                self._fail("it failed unexpectedly; the log has the reason")
            self._alarms.look(self._outbox.state(), is_there=self._outbox.away_since_ns is None)
            if not done:
                self._wake.wait(self._wait_s())
        if self._shelf is not None:
            self._shelf.close()

    def _wait_s(self) -> float:
        """Return how long there is nothing to do but what somebody asks for."""
        away_ns = self._outbox.away_since_ns
        commit_at_ns = self._looked_ns + self._commit_ns
        if self._retry_at_ns is not None or self._shelf is None:
            due_ns = self._retry_at_ns or now_ns() + int(FIRST_RETRY_S * 1e9)
        elif away_ns is not None:
            due_ns = max(away_ns + self._memory_ns, commit_at_ns)
        elif self._stock.messages:
            due_ns = commit_at_ns
        else:
            due_ns = now_ns() + max(self._memory_ns, self._commit_ns)
        return max(due_ns - now_ns(), 10**6) / 1e9

    # Work

    def _work(self) -> None:
        shelf = self._shelf
        if shelf is None or (self._retry_at_ns is not None and now_ns() < self._retry_at_ns and not self._closing):
            return
        self._retry_at_ns = None
        if not shelf.is_open and self._is_to_open(shelf):
            self._open(shelf)
        if shelf.is_open:
            if not shelf.is_there():
                self._replace(shelf)
            self._read_some(shelf)
            self._write(shelf)
        if self._is_due():
            self._looked_ns = now_ns()

    def _is_to_open(self, shelf: Spool) -> bool:
        # After a fault it is opened also where nothing is to be written: else nobody is told that the fault is over.
        return self._retries > 0 or shelf.path.exists() or (self._is_wanted() and self._outbox.holds_durable())

    def _is_due(self) -> bool:
        return now_ns() - self._looked_ns >= self._commit_ns

    def _is_wanted(self) -> bool:
        """Tell whether memory is not to hold what waits any longer."""
        away_ns = self._outbox.away_since_ns
        is_long = away_ns is not None and now_ns() - away_ns >= self._memory_ns
        # A link that lets nothing pass looks like one that stands, until the client's patience is at its end.
        return self._closing or is_long or self._outbox.is_pressed or self._outbox.has_waited(self._memory_ns)

    def _open(self, shelf: Spool) -> None:
        shelf.open(self._outbox.first_number)
        self._note_stock(shelf)
        if self._stock.messages:
            log.info("%d messages of earlier wait on disk (%s)", self._stock.messages, shelf.path)
            # What the journal kept is younger: behind what is on disk it keeps its place.
            while self._move(shelf):
                pass

    def _note_stock(self, shelf: Spool) -> None:
        self._stock = shelf.stock()
        self._outbox.note_stock(self._stock)
        self._outbox.note_disk("ok")

    def _read_some(self, shelf: Spool) -> None:
        if self._outbox.away_since_ns is not None or self._outbox.ahead > AHEAD // 2:
            return
        rows = shelf.read(self._read_up_to, AHEAD)
        if rows:
            self._read_up_to = rows[-1].number
        found = [message for message in rows if message.number not in self._read]
        if found:
            self._read.update(message.number for message in found)
            self._outbox.read_ahead(found)

    def _write(self, shelf: Spool) -> None:
        if self._is_wanted():
            while self._is_wanted() and self._move(shelf):
                pass
            self._looked_ns = now_ns()
        elif self._is_due() and (settled := self._outbox.settled()):
            self._change(shelf, [], settled)
        if not self._stock.messages and self._read:
            self._read.clear()
            self._read_up_to = LOWEST
            shelf.shrink()

    def _move(self, shelf: Spool) -> bool:
        """Move a batch from memory to the disk; tell whether there was anything to move."""
        messages = self._outbox.take_for_disk(shelf.batch_bytes)
        settled = self._outbox.settled()
        if not messages and not settled:
            return False
        try:
            self._change(shelf, messages, settled)
        except BaseException:
            self._outbox.give_back()
            raise
        return bool(messages)

    def _change(self, shelf: Spool, messages: list[Message], settled: list[int]) -> None:
        gone = shelf.change(messages, settled)
        self._looked_ns = now_ns()
        self._stock = shelf.stock()
        # What was read is on its way, and not lost.
        self._outbox.shelved(settled, [each for each in gone if each.key not in self._read], self._stock)
        if messages:  # not all come behind what was read already
            self._read_up_to = min(self._read_up_to, *(shelf.key(message) - 1 for message in messages))
        self._read.difference_update(settled)
        self._retries = 0
        self._outbox.note_disk("ok")

    # Faults

    def _replace(self, shelf: Spool) -> None:
        """Somebody has taken the file, or its folder, away; what it held is still open."""
        log.warning("%s is gone: it is written anew", shelf.path)
        shelf.move_to_new_file()
        self._open(shelf)

    def _mend(self, error: Exception) -> None:
        """Put a damaged file aside and begin a new one; leave all else for a later try."""
        shelf = self._shelf
        if shelf is None:
            return
        # Of SQLite's errors, the one of no subclass says that the file is damaged, or none of SQLite.
        if type(error) is not sqlite3.DatabaseError:
            if not shelf.is_open or shelf.is_there():  # else what it holds would be gone with it
                shelf.close()
            self._fail(f"{shelf.path} cannot be used ({error})")
            return
        try:
            aside = shelf.set_aside()
            self._start_anew(shelf, aside, error)
        except (sqlite3.Error, OSError) as further:
            shelf.close()
            self._fail(f"{shelf.path} is damaged ({error}) and cannot be put aside ({further})")

    def _start_anew(self, shelf: Spool, aside: Path, error: Exception) -> None:
        """Begin a new file with what can still be read of the one that was put aside."""
        had, saved = self._stock.messages, 0
        shelf.open(self._outbox.first_number)
        messages = salvaged(aside)
        while batch := list(islice(messages, AHEAD)):
            saved += len(batch)
            self._change(shelf, batch, [])
        self._note_stock(shelf)
        self._outbox.count_damaged(max(had - saved, 0))
        reason = f"{shelf.path} was damaged ({error}): {saved} messages in it could be read and go on"
        log.error("%s; it is put aside as %s", reason, aside.name)
        self._alarms.raised("outbox_disk", reason, f"nothing is lost but what was damaged; {aside} may be removed")

    def _fail(self, reason: str) -> None:
        pause_s = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** min(self._retries, 10))
        self._retry_at_ns = now_ns() + int(pause_s * 1e9)
        self._retries += 1
        self._outbox.note_disk("failed")
        if "outbox_disk" not in self._alarms.standing:
            log.error("the outbox's disk: %s; messages wait in memory, and it is tried again", reason)
        step = "mend the disk or give it room; until then messages wait in memory alone"
        self._alarms.raised("outbox_disk", reason, step)
