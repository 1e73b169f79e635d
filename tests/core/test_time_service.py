"""Systemd's time service in place of the kernel, with a stand-in for timedatectl."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.core import time_service
from edge.core.time_service import TimeService
from tests.support.waiting import eventually


@pytest.fixture
def answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Return a function that has the stand-in run another line of shell."""

    def write(line: str) -> None:
        program = tmp_path / "timedatectl"
        program.write_text(f'#!/bin/sh\n[ "$*" = "show --property=NTPSynchronized --value" ] || exit 1\n{line}\n')
        program.chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return write


@pytest.mark.parametrize(
    ("line", "synchronised"),
    [("echo yes", True), ("echo no", False), ("echo", None), ("exit 1", None), ("echo yes; exit 1", None)],
)
def test_the_first_answer_is_waited_for(answer: Callable[[str], None], line: str, *, synchronised: bool | None) -> None:
    answer(line)
    assert TimeService().synchronised() is synchronised


def test_a_machine_without_systemd_does_not_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert TimeService().synchronised() is None


def test_a_service_that_hangs_is_not_waited_for(answer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    answer("exec sleep 60")
    monkeypatch.setattr(time_service, "ANSWER_LIMIT_S", 0.1)
    assert TimeService().synchronised() is None


def test_it_is_asked_once_a_period(answer: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    answer("echo no")
    service = TimeService()
    assert service.synchronised() is False
    answer("echo yes")
    assert service.synchronised() is False
    monkeypatch.setattr(time_service, "PERIOD_S", 0.0)
    eventually(lambda: service.synchronised() is True, "the next answer")
