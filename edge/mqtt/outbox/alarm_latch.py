"""Alarms of the outbox: raised once per cause, cleared when the cause is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.core.records import OutboxState


class AlarmCallback(Protocol):
    """Receiver of alarms: raised for a reason, or, without one, cleared."""

    def __call__(self, alarm: str, reason: str | None, step: str) -> None: ...


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Capacity of the outbox, as configured."""

    messages: int  # in memory
    max_mb: int = 0  # on disk
    max_age_s: float = 0  # on disk


class AlarmLatch:
    """The standing alarms of one outbox."""

    def __init__(self, on_alarm: AlarmCallback, limits: OutboxLimits, destination: str) -> None:
        self._on_alarm = on_alarm
        self._limits = limits
        self._destination = destination
        self._is_silent = False
        self._dropped = {"age": 0, "disk": 0, "memory": 0}  # by cause, at the last update
        self._causes = set[str]()  # those that the standing alarm names
        self.standing: set[str] = set()

    def silence(self) -> None:
        """Report no further alarm: the status has announced that the daemon stops."""
        self._is_silent = True

    def set(self, alarm: str, reason: str, step: str) -> None:
        """Raise an alarm, unless it stands already."""
        if alarm not in self.standing:
            self.standing.add(alarm)
            self._report(alarm, reason, step)

    def _clear(self, alarm: str, reason: str) -> None:
        if alarm in self.standing:
            self.standing.discard(alarm)
            self._report(alarm, None, reason)

    def _report(self, alarm: str, reason: str | None, step: str) -> None:
        if not self._is_silent:
            self._on_alarm(alarm, reason, step)

    def update(self, state: OutboxState, *, is_connected: bool) -> None:
        """Raise and clear alarms by what was dropped since the last update."""
        on_disk, full = state.dropped_on_disk, state.dropped_by_cause["full"]
        dropped = {"age": state.dropped_by_cause["age"], "disk": on_disk, "memory": full - on_disk}
        causes = {cause for cause, count in dropped.items() if count > self._dropped[cause]}
        if causes - self._causes:
            self._causes |= causes
            self.standing.discard("outbox_full")  # it is raised again, with the further cause
            found = [self._describe(cause, count, state) for cause, count in dropped.items() if cause in self._causes]
            reasons, steps = ("; ".join(parts) for parts in zip(*found, strict=True))
            self.set("outbox_full", f"messages were dropped: {reasons}", f"see why the broker is unreachable; {steps}")
        elif not causes and is_connected and not state.disk_messages:
            self._causes.clear()
            self._clear("outbox_full", "the backlog has been sent")
        self._dropped = dropped
        self._update_held(state)
        if state.disk == "ok":
            self._clear("outbox_disk", "the disk accepts messages again")

    def _update_held(self, state: OutboxState) -> None:
        if not state.held:
            self._clear("outbox_foreign", "no messages of another destination are held any more")
            return
        found = "; ".join(f"{count} messages for {destination}" for destination, count in state.held.items())
        reason = f"held: {found}; this device now publishes as {self._destination}"
        step = (
            "send them to the configured broker with `edge outbox send CONFIG`, or remove them with `… discard CONFIG`"
        )
        self.set("outbox_foreign", reason, step)

    def _describe(self, cause: str, count: int, state: OutboxState) -> tuple[str, str]:
        """Return how many messages were dropped for a cause, with its limit, and the step that keeps more."""
        limits = self._limits
        if cause == "age":
            return (
                f"{count} were older than {limits.max_age_s:g} s ([outbox] max_age_s)",
                "raise max_age_s to keep more",
            )
        if cause == "disk":
            return f"{count} exceeded the {limits.max_mb} MB on disk ([outbox] max_mb)", "raise max_mb to keep more"
        found = f"{count} exceeded the {limits.messages} messages in memory ([mqtt] queue_messages)"
        if state.disk == "failed":
            return f"{found}, and the disk accepts none", "repair the disk, as alarm outbox_disk says"
        if not limits.max_mb:
            return (
                f"{found}, and the disk is off ([outbox] max_mb)",
                "set max_mb, or raise queue_messages, to keep more",
            )
        return found, "raise queue_messages to keep more"
