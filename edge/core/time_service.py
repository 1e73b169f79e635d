"""Synchronisation of the system clock as systemd reports it, for a process that may not ask the kernel."""

from __future__ import annotations

import contextlib
import subprocess
import threading
import time

ASK = ("timedatectl", "show", "--property=NTPSynchronized", "--value")
ANSWER_LIMIT_S = 3.0
PERIOD_S = 30.0  # between two questions: each may start systemd's time service


class TimeService:
    """Asks systemd's time service, which asks the kernel: the first time at once, later from a thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked_s: float | None = None
        self._answer: bool | None = None

    def synchronised(self) -> bool | None:
        """Return the newest answer; None if there is none. The first call may take ANSWER_LIMIT_S."""
        with self._lock:
            now_s, asked_s = time.monotonic(), self._asked_s
            if asked_s is None:
                self._answer = _ask()
            elif now_s - asked_s >= PERIOD_S:
                threading.Thread(target=self._renew, name="time-service", daemon=True).start()
            else:
                return self._answer
            self._asked_s = now_s
        return self._answer

    def _renew(self) -> None:
        self._answer = _ask()


def _ask() -> bool | None:
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        done = subprocess.run(ASK, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_LIMIT_S, check=True)  # noqa: S603 -- as written here
        return {b"yes": True, b"no": False}.get(done.stdout.strip())
    return None
