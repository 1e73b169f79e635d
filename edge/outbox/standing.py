"""The outbox's alarms: raised once, cleared when what they tell of is over."""

from __future__ import annotations

from typing import Protocol

from edge.records import OutboxState


class Tell(Protocol):
    """Tells of an alarm that stands, or with no reason, that it does not stand any more."""

    def __call__(self, alarm: str, reason: str | None, step: str) -> None: ...


class Standing:
    """Which alarms stand."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._is_silent = False
        self._dropped = 0  # when it was looked at last
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
        dropped = state.dropped_by_cause["full"] + state.dropped_by_cause["age"]
        if dropped > self._dropped:
            place = "on disk" if state.disk == "ok" else "in memory"
            reason = f"more messages wait {place} than may: the oldest of what goes out last are given up, and counted"
            self.raised(
                "outbox_full", reason, "see why the broker is away; [outbox] max_mb and max_age_s are the bounds"
            )
        elif is_there and not state.disk_messages:
            self._cleared("outbox_full", "what waited has been sent")
        self._dropped = dropped
        if state.disk == "ok":
            self._cleared("outbox_disk", "the disk takes messages again")
