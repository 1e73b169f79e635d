"""The service manager's end of the notify socket."""

from __future__ import annotations

import contextlib
import socket
from pathlib import Path

from tests.support.waiting import eventually


class ServiceManager:
    """What the daemon tells systemd, over a real socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self._told: list[str] = []

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """Return what systemd would set for a service of `Type=notify`."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": str(self._path)} | watchdog

    @property
    def told(self) -> list[str]:
        """All messages up to now, in order."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._told.append(self._socket.recv(4096).decode())
        return list(self._told)

    def wait_for(self, text: str, *, after: int = 0) -> None:
        eventually(lambda: any(text in each for each in self.told[after:]), f"{text} at the service manager")

    def close(self) -> None:
        self._socket.close()
