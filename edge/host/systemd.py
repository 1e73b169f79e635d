"""The service manager's notify protocol (sd_notify(3)); silent without a service manager."""

from __future__ import annotations

import os
import socket
import time


class Notifier:
    """Reports the daemon's state to systemd."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):
            self._address = "\0" + self._address[1:]  # an abstract socket

    @property
    def is_heard(self) -> bool:
        """A service manager started this process, and so will restart it."""
        return bool(self._address)

    def ready(self) -> None:
        self._send("READY=1")

    def reloading(self) -> None:
        # Type=notify-reload requires the time of the monotonic clock, in microseconds.
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def status(self, text: str) -> None:
        self._send(f"STATUS={text}")

    def extend_start(self, seconds: float) -> None:
        """Ask for this much time from now until `ready`."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def watchdog_ping(self) -> None:
        self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
                notify.settimeout(1)
                notify.sendto(state.encode(), self._address)
        except OSError:
            pass  # a missing service manager is no reason to stop


def watchdog_period_s() -> float | None:
    """Return the period within which systemd expects a ping; None if it does not watch this process."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    if not microseconds.isdigit() or int(microseconds) == 0 or watched != str(os.getpid()):
        return None
    return int(microseconds) / 1e6
