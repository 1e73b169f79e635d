"""Child processes: any program, and `edge` itself."""

from __future__ import annotations

import atexit
import functools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pytest

from tests.support.waiting import PATIENCE_S, POLL_S, accepts_connections, eventually


class Child:
    """A process whose output goes into files, which grow over its restarts."""

    def __init__(
        self, command: Sequence[str | Path], folder: Path, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._folder = folder
        self._out, self._log = folder / f"{name}.out", folder / f"{name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._out.open("ab") as out, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=out, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end and return the exit code; fail with its log where it does not come."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._command} did not end within {timeout_s:g} s; its log:\n{self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        self.send(number)
        return self.wait(timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def await_log(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        until_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < until_s, f"waited {timeout_s:g} s for {text!r} in the log:\n{self.log}"
            assert self.process.poll() is None, f"it ended without {text!r} in its log:\n{self.log}"
            time.sleep(POLL_S)


class Server(Child):
    """A process that listens on one port all its life."""

    def __init__(self, command: Sequence[str | Path], folder: Path, name: str, port: int) -> None:
        super().__init__(command, folder, name)
        self.port = port

    def start(self) -> None:
        super().start()
        eventually(lambda: accepts_connections(self.port) or self.process.poll() is not None, "the port is open")
        assert self.process.poll() is None, self.log

    def restart(self) -> None:
        self.kill()
        self.start()


class StartEdge(Protocol):
    """Starts `edge run CONFIG`; `name` tells two daemons of one test apart, in their logs and state directories."""

    def __call__(
        self,
        config: Path,
        *,
        name: str = "edge",
        state_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Child: ...


# What the service manager of the tests themselves may have set.
INHERITED = ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "STATE_DIRECTORY", "EDGE_ROOT")


def edge_command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "edge", *arguments]


@functools.cache
def runtime_dir() -> str:
    """Return a folder in memory, as systemd gives one to a service; it is removed at the end of all tests."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="edge-tests-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in INHERITED}
    return inherited | {"RUNTIME_DIRECTORY": runtime_dir()} | dict(added or {})


def run_edge(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of `edge` to its end."""
    return subprocess.run(
        edge_command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=clean_environment(),
    )
