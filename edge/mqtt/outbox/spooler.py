"""Spooler: the thread that owns the disk, moving messages there during an outage and back after it.

It has a thread of its own because a slow disk would hold up both others: a lane must not wait for it, and the
publisher, which may wait seconds for a name server or a broker, must neither keep messages from being written nor have
live results wait for a commit.
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from itertools import islice
from pathlib import Path

from edge.core.backoff import Backoff
from edge.core.clock import now_ns
from edge.mqtt.outbox.alarm_latch import AlarmCallback, AlarmLatch, OutboxLimits
from edge.mqtt.outbox.entry import Entry
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.salvage import count_messages, salvage
from edge.mqtt.outbox.spool import LOWEST, Spool, SpoolLevel

log = logging.getLogger(__name__)

AHEAD = 256  # entries read from the disk before they are sent
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0


class Spooler:
    """Moves messages between an outbox and its spool."""

    def __init__(
        self, outbox: Outbox, spool: Spool | None, memory_s: float, commit_s: float, on_alarm: AlarmCallback
    ) -> None:
        self._outbox = outbox
        self._spool = spool
        self._memory_ns = int(memory_s * 1e9)
        self._commit_ns = int(commit_s * 1e9)
        limits = OutboxLimits(outbox.bound, spool.max_mb, spool.max_age_s) if spool else OutboxLimits(outbox.bound)
        self._alarms = AlarmLatch(on_alarm, limits, str(spool.destination) if spool else "the configured broker")
        self._wake = threading.Event()
        self._is_closing = False
        self._read: set[int] = set()  # keys that were read from the disk and are not removed from it yet
        self._read_up_to = LOWEST
        self._level = SpoolLevel()
        self._backoff = Backoff(FIRST_RETRY_S, LONGEST_RETRY_S)
        self._retry_at_ns: int | None = None
        self._checked_ns = 0  # the last check for anything to write
        self._thread = threading.Thread(target=self._run, name="outbox", daemon=True)
        outbox.on_pressure = self._on_pressure

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> bool:
        """Write everything to the disk and end; return whether that was done in time."""
        self._is_closing = True
        self._alarms.silence()
        self._wake.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _on_pressure(self) -> None:
        # Where there is no disk, or it has failed, not every message asks for it again.
        if self._spool is not None and self._retry_at_ns is None:
            self._wake.set()

    def _run(self) -> None:
        is_done = False
        while not is_done:
            self._wake.clear()  # before the flag is read: else the call to end may be missed
            is_done = self._is_closing
            try:
                self._tick()
            except (sqlite3.Error, OSError) as error:
                self._recover(error)
            except Exception:  # a defect here must not end what keeps the messages
                log.exception("the outbox failed unexpectedly")
                self._fail("unexpected failure; see the log")
            self._alarms.update(self._outbox.state(), is_connected=self._outbox.disconnected_since_ns is None)
            if not is_done:
                self._wake.wait(self._wait_s())
        if self._spool is not None:
            self._spool.close()

    def _wait_s(self) -> float:
        """Return how long there is nothing to do unless somebody asks for it."""
        disconnected_ns = self._outbox.disconnected_since_ns
        commit_at_ns = self._checked_ns + self._commit_ns
        if self._retry_at_ns is not None or self._spool is None:
            due_ns = self._retry_at_ns or now_ns() + int(FIRST_RETRY_S * 1e9)
        elif disconnected_ns is not None:
            due_ns = max(disconnected_ns + self._memory_ns, commit_at_ns)
        elif self._level.messages or self._level.held:  # a command may decide about these
            due_ns = commit_at_ns
        else:
            due_ns = now_ns() + max(self._memory_ns, self._commit_ns)
        return max(due_ns - now_ns(), 10**6) / 1e9

    # Reading and writing

    def _tick(self) -> None:
        spool = self._spool
        if spool is None or (self._retry_at_ns is not None and now_ns() < self._retry_at_ns and not self._is_closing):
            return
        self._retry_at_ns = None
        if not spool.is_open and self._is_needed(spool):
            self._open(spool)
        if spool.is_open:
            if not spool.is_there():
                self._replace(spool)
            elif spool.has_changed_elsewhere():
                self._reload(spool)
            self._read_ahead(spool)
            self._write(spool)
        if self._is_commit_due():
            self._checked_ns = now_ns()

    def _is_needed(self, spool: Spool) -> bool:
        # After a fault it is opened even if there is nothing to write: else nobody learns that the fault is over.
        is_stored = spool.path.exists() or (self._must_drain() and self._outbox.holds_durable())
        return self._backoff.failures > 0 or is_stored

    def _is_commit_due(self) -> bool:
        return now_ns() - self._checked_ns >= self._commit_ns

    def _must_drain(self) -> bool:
        """Return whether memory should no longer hold what waits."""
        disconnected_ns = self._outbox.disconnected_since_ns
        is_long = disconnected_ns is not None and now_ns() - disconnected_ns >= self._memory_ns
        # A link that lets nothing pass looks connected until the client's patience runs out.
        is_full = self._outbox.is_near_limit or self._outbox.holds_foreign()
        return self._is_closing or is_long or is_full or self._outbox.has_waited(self._memory_ns)

    def _open(self, spool: Spool) -> None:
        spool.open(self._outbox.first_number)
        self._note_level(spool)
        self._discard_foreign(spool)
        if self._level.messages:
            log.info("%d messages of an earlier run wait on disk (%s)", self._level.messages, spool.path)
            # What the journal kept is younger: behind what is on disk, it keeps its place.
            while self._move(spool):
                pass

    def _discard_foreign(self, spool: Spool) -> None:
        """Discard what is for other destinations, where the configuration wants that."""
        discarded = 0
        while spool.foreign == "discard" and (gone := spool.discard_held()):
            discarded += len(gone)
            self._level = spool.level()
            self._outbox.note_spooled([], gone, self._level)
        if discarded:
            log.warning('%d messages for other destinations were discarded ([outbox] foreign = "discard")', discarded)

    def _reload(self, spool: Spool) -> None:
        """Take over what a command has decided about the messages on disk."""
        spool.reload()
        self._note_level(spool)
        self._read_up_to = LOWEST

    def _note_level(self, spool: Spool) -> None:
        self._level = spool.level()
        self._outbox.note_spool_level(self._level)
        self._outbox.note_disk("ok")

    def _read_ahead(self, spool: Spool) -> None:
        if self._outbox.disconnected_since_ns is not None or self._outbox.ahead > AHEAD // 2:
            return
        rows = spool.read(self._read_up_to, AHEAD)
        if rows:
            self._read_up_to = rows[-1].number
        found = [entry for entry in rows if entry.number not in self._read]
        if found:
            self._read.update(entry.number for entry in found)
            self._outbox.add_ahead(found)

    def _write(self, spool: Spool) -> None:
        if self._must_drain():
            while self._must_drain() and self._move(spool):
                pass
            self._checked_ns = now_ns()
        elif self._is_commit_due() and (settled := self._outbox.settled_keys()):
            self._change(spool, [], settled)
        if not self._level.messages and self._read:
            self._read.clear()
            self._read_up_to = LOWEST
            spool.shrink()

    def _move(self, spool: Spool) -> bool:
        """Move a batch from memory to the disk; return whether there was anything to move."""
        entries = self._outbox.drain_durable(spool.batch_bytes)
        settled = self._outbox.settled_keys()
        if not entries and not settled:
            return False
        try:
            self._change(spool, entries, settled)
        except BaseException:
            self._outbox.put_back_drained()
            raise
        return bool(entries)

    def _change(self, spool: Spool, entries: list[Entry], settled: list[int]) -> None:
        evicted = spool.change(entries, settled)
        self._checked_ns = now_ns()
        self._level = spool.level()
        # What was read ahead is on its way, and not lost.
        lost = [each for each in evicted if each.key not in self._read]
        self._outbox.note_spooled(settled, lost, self._level)
        if entries:  # not all of them come behind what was read already
            self._read_up_to = min(self._read_up_to, *(spool.key(entry) - 1 for entry in entries))
        self._read.difference_update(settled)
        self._backoff.reset()
        self._outbox.note_disk("ok")

    # Faults

    def _replace(self, spool: Spool) -> None:
        """Write the file again after somebody has removed it or its folder; its content is still open."""
        log.warning("%s has disappeared and is written again", spool.path)
        spool.move_to_new_file()
        self._open(spool)

    def _recover(self, error: Exception) -> None:
        """Set a damaged file aside and start a new one; leave every other fault to a retry."""
        spool = self._spool
        if spool is None:
            return
        # Of SQLite's errors, the one without a subclass says that the file is damaged or no SQLite file.
        if type(error) is not sqlite3.DatabaseError:
            if not spool.is_open or spool.is_there():  # else its content would be gone with it
                spool.close()
            self._fail(f"{spool.path} cannot be used ({error})")
            return
        try:
            aside = spool.set_aside()
            self._start_over(spool, aside, error)
        except (sqlite3.Error, OSError) as further:
            spool.close()
            self._fail(f"{spool.path} is damaged ({error}) and cannot be set aside ({further})")

    def _start_over(self, spool: Spool, aside: Path, error: Exception) -> None:
        """Start a new file with what can still be read from the one that was set aside."""
        before, saved = max(count_messages(aside), self._level.messages), 0
        spool.open(self._outbox.first_number)
        entries = salvage(aside)
        while batch := list(islice(entries, AHEAD)):
            saved += len(batch)
            self._change(spool, batch, [])
        self._note_level(spool)
        self._outbox.count_damaged(max(before - saved, 0))
        reason = f"{spool.path} was damaged ({error}); {saved} messages were recovered from it"
        log.error("%s; it is kept as %s", reason, aside.name)
        self._alarms.set("outbox_disk", reason, f"only damaged messages are lost; {aside} may be deleted")

    def _fail(self, reason: str) -> None:
        self._retry_at_ns = now_ns() + int(self._backoff.next_s() * 1e9)
        self._outbox.note_disk("failed")
        if "outbox_disk" not in self._alarms.standing:
            log.error("disk of the outbox: %s; messages wait in memory while it is retried", reason)
        step = "repair the disk or free space on it; until then messages wait in memory only"
        self._alarms.set("outbox_disk", reason, step)
