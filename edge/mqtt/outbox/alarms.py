"""The outbox's alarms: raised once, cleared when what they tell of is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from edge.core.records import OutboxState


class AlarmCallback(Protocol):
    """Tells of an alarm that stands, or with no reason, that it does not stand any more."""

    def __call__(self, alarm: str, reason: str | None, step: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Bounds:
    """What may wait, as configured."""

    messages: int  # in memory
    max_mb: int = 0  # on disk
    max_age_s: float = 0  # on disk


class AlarmLatch:
    """Which alarms stand."""

    def __init__(self, tell: AlarmCallback, bounds: Bounds) -> None:
        self._tell = tell
        self._bounds = bounds
        self._is_silent = False
        self._dropped = {"age": 0, "disk": 0, "memory": 0}  # by cause, when it was looked at last
        self._causes = set[str]()  # those that the alarm that stands tells of
        self.standing: set[str] = set()

    def silence(self) -> None:
        """Tell nothing any more: the status has said that the daemon stops."""
        self._is_silent = True

    def raised(self, alarm: str, reason: str, step: str) -> None:
        if alarm not in self.standing:
            self.standing.add(alarm)
            self._say(alarm, reason, step)

    def _cleared(self, alarm: str, why: str) -> None:
        if alarm in self.standing:
            self.standing.discard(alarm)
            self._say(alarm, None, why)

    def _say(self, alarm: str, reason: str | None, step: str) -> None:
        if not self._is_silent:
            self._tell(alarm, reason, step)

    def look(self, state: OutboxState, *, is_there: bool) -> None:
        """Raise and clear what the counts tell; `is_there` is the broker."""
        on_disk, full = state.dropped_on_disk, state.dropped_by_cause["full"]
        dropped = {"age": state.dropped_by_cause["age"], "disk": on_disk, "memory": full - on_disk}
        causes = {cause for cause, count in dropped.items() if count > self._dropped[cause]}
        if causes - self._causes:
            self._causes |= causes
            self.standing.discard("outbox_full")  # it is raised again, with the further cause
            found = [self._cause(cause, count, state) for cause, count in dropped.items() if cause in self._causes]
            reasons, steps = ("; ".join(parts) for parts in zip(*found, strict=True))
            self.raised("outbox_full", f"messages were dropped: {reasons}", f"see why the broker is away; {steps}")
        elif not causes and is_there and not state.disk_messages:
            self._causes.clear()
            self._cleared("outbox_full", "what waited has been sent")
        self._dropped = dropped
        if state.disk == "ok":
            self._cleared("outbox_disk", "the disk takes messages again")

    def _cause(self, cause: str, count: int, state: OutboxState) -> tuple[str, str]:
        """Return how many messages were dropped for a cause, with its limit, and the step that keeps more."""
        bounds = self._bounds
        if cause == "age":
            return (
                f"{count} were older than {bounds.max_age_s:g} s ([outbox] max_age_s)",
                "raise max_age_s to keep more",
            )
        if cause == "disk":
            return f"{count} found the disk's {bounds.max_mb} MB full ([outbox] max_mb)", "raise max_mb to keep more"
        found = f"{count} found the {bounds.messages} places in memory taken ([mqtt] queue_messages)"
        if state.disk == "failed":
            return f"{found}, and the disk takes none", "fix the disk, as alarm outbox_disk says"
        if not bounds.max_mb:
            return (
                f"{found}, and the disk is off ([outbox] max_mb)",
                "set max_mb, or raise queue_messages, to keep more",
            )
        return found, "raise queue_messages to keep more"
