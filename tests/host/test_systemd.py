"""The notify protocol over a real socket, and the watchdog's period."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge.host.systemd import Notifier, watchdog_period_s


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """Listen as the service manager does."""
    name = str(tmp_path / "notify") if request.param == "path" else f"@edge-test-{uuid.uuid4().hex}"
    monkeypatch.setenv("NOTIFY_SOCKET", name)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(5)
        listening.bind(name.replace("@", "\0", 1))
        yield listening


@pytest.mark.parametrize(
    ("tell", "told"),
    [
        (Notifier.ready, "READY=1"),
        (Notifier.stopping, "STOPPING=1"),
        (Notifier.watchdog_ping, "WATCHDOG=1"),
    ],
)
def test_the_manager_hears_each_state(manager: socket.socket, tell: Callable[[Notifier], None], told: str) -> None:
    tell(Notifier())
    assert manager.recv(1000).decode() == told


def test_reloading_tells_the_moment_on_the_monotonic_clock(manager: socket.socket) -> None:
    before_us = time.monotonic_ns() // 1000
    Notifier().reloading()
    state, moment = manager.recv(1000).decode().split("\n")
    assert state == "RELOADING=1"
    name, _, value_us = moment.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before_us <= int(value_us) <= time.monotonic_ns() // 1000


def test_without_a_manager_nothing_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    monkeypatch.setattr(socket, "socket", lambda *_: pytest.fail("a socket was opened"))
    Notifier().ready()


def test_a_manager_that_has_gone_is_no_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody listens"))
    Notifier().watchdog_ping()


@pytest.mark.parametrize("microseconds", ["", "0", "soon", "-5"])
def test_without_a_period_nothing_watches(monkeypatch: pytest.MonkeyPatch, microseconds: str) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.setenv("WATCHDOG_USEC", microseconds)
    assert watchdog_period_s() is None


def test_outside_systemd_nothing_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    assert watchdog_period_s() is None


@pytest.mark.parametrize("pid", [None, str(os.getpid())], ids=["any", "ours"])
def test_the_watchdogs_period_is_told_in_seconds(monkeypatch: pytest.MonkeyPatch, pid: str | None) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")
    if pid is None:
        monkeypatch.delenv("WATCHDOG_PID", raising=False)
    else:
        monkeypatch.setenv("WATCHDOG_PID", pid)
    assert watchdog_period_s() == 2.5


def test_a_watchdog_of_another_process_is_not_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "2500000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid() + 1))
    assert watchdog_period_s() is None
