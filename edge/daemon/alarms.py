"""Alarms: what stands, and each change of it as a message."""

from __future__ import annotations

import threading
from typing import Any, Literal

from edge.core.clock import utc_text, wall_ns

Severity = Literal["warning", "critical"]


class Alarms:
    """The alarms of one device; those that stand are listed in its status too, for late subscribers."""

    def __init__(self, device: str, boot: str) -> None:
        self._head = {"v": 1, "device": device, "boot": boot}
        self._lock = threading.Lock()
        self._standing: dict[tuple[str, str | None], dict[str, Any]] = {}

    def raised(
        self, alarm: str, reason: str, step: str, *, model: str | None = None, severity: Severity = "warning"
    ) -> dict[str, Any] | None:
        """Note that an alarm stands; return its message, None where it stands already for the same reason.

        `step` says what happens next, or what to do.
        """
        body = self._body(alarm, model, "raised", severity, reason, step)
        with self._lock:
            before = self._standing.get((alarm, model))
            self._standing[alarm, model] = body
        if before is not None and (before["reason"], before["next"]) == (reason, step):
            return None
        return body

    def cleared(self, alarm: str, reason: str, *, model: str | None = None) -> dict[str, Any] | None:
        """Note that an alarm does not stand any more; return its message, None where it did not stand."""
        with self._lock:
            before = self._standing.pop((alarm, model), None)
        if before is None:
            return None
        return self._body(alarm, model, "cleared", before["severity"], reason, "nothing is to be done")

    def standing(self) -> list[dict[str, Any]]:
        """Return the alarms that stand, as the status lists them."""
        with self._lock:
            bodies = list(self._standing.values())
        return [{key: body[key] for key in body if key not in ("v", "device", "boot", "state")} for body in bodies]

    def _body(
        self, alarm: str, model: str | None, state: str, severity: Severity, reason: str, step: str
    ) -> dict[str, Any]:
        return {
            **self._head,
            "at": utc_text(wall_ns()),
            "alarm": alarm,
            "state": state,
            "severity": severity,
            "model": model,
            "reason": reason,
            "next": step,
        }
