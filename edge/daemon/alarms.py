"""Standing alarms of the device, and the message of each change."""

from __future__ import annotations

import threading
from typing import Any, Literal

from edge.mqtt.encode import MessageHead

Severity = Literal["warning", "critical"]


class Alarms:
    """The alarms of one device; its status lists the standing ones too, for late subscribers."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._lock = threading.Lock()
        self._standing: dict[tuple[str, str | None], dict[str, Any]] = {}

    def set(
        self, alarm: str, reason: str, step: str, *, model: str | None = None, severity: Severity = "warning"
    ) -> dict[str, Any] | None:
        """Raise an alarm; return its message, None if it stands already for the same reason.

        `step` says what happens next, or what to do.
        """
        body = self._body(alarm, model, "raised", severity, reason, step)
        with self._lock:
            before = self._standing.get((alarm, model))
            self._standing[alarm, model] = body
        if before is not None and (before["reason"], before["next"]) == (reason, step):
            return None
        return body

    def clear(self, alarm: str, reason: str, *, model: str | None = None) -> dict[str, Any] | None:
        """Clear an alarm; return its message, None if it did not stand."""
        with self._lock:
            before = self._standing.pop((alarm, model), None)
        if before is None:
            return None
        return self._body(alarm, model, "cleared", before["severity"], reason, "no action needed")

    def standing(self) -> list[dict[str, Any]]:
        """Return the standing alarms, as the status lists them."""
        with self._lock:
            bodies = list(self._standing.values())
        return [{key: body[key] for key in body if key not in ("v", "device", "boot", "state")} for body in bodies]

    def _body(
        self, alarm: str, model: str | None, state: str, severity: Severity, reason: str, step: str
    ) -> dict[str, Any]:
        return {
            **self._head.stamped(),
            "alarm": alarm,
            "state": state,
            "severity": severity,
            "model": model,
            "reason": reason,
            "next": step,
        }
