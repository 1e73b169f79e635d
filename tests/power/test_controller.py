"""Control of the power mode: set as configured, changed by the governor, held for a person."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edge.core.config import GovernorSettings
from edge.core.errors import EdgeError
from edge.power.controller import PowerController, PowerPolicy
from edge.power.governor import Decision, GovernorInput, StreamLoad
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")

BUSY = StreamLoad("door", 50.0, 400.0, 30.0, 12.0, 0.6)
CALM = StreamLoad("door", 50.0, 12.0, 2.0, 2.0, 0.0)


@dataclass
class Heard:
    """Records the reports to an outlet."""

    troubles: list[str | None] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)

    def report_power_fault(self, reason: str | None) -> None:
        self.troubles.append(reason)

    def report_decision(self, decision: Decision) -> None:
        self.decisions.append(decision)


@pytest.fixture
def board(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Emulate a board in one of its modes."""
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", install_tools(tmp_path / "bin"))
    monkeypatch.delenv("FAKE_NVPMODEL", raising=False)

    def emulated(name: str, mode: int | None = None) -> Path:
        write_power_modes(tmp_path, name, mode)
        return tmp_path / "var/lib/nvpmodel/status"

    return emulated


@contextmanager
def steered(heard: Heard, power_mode: str = "keep", **governor: object) -> Iterator[PowerController]:
    settings = GovernorSettings.model_validate(governor)
    steering = PowerController(PowerPolicy(power_mode, settings), heard)
    steering.start()
    try:
        yield steering
    finally:
        steering.stop()


def observe(
    steering: PowerController, stream: StreamLoad, periods: int, from_s: float = 0.0, period_s: float = 1.0
) -> None:
    """Hand over so many periods, one after the other, as the telemetry does."""
    for period in range(periods):
        steering.observe(GovernorInput(from_s + period * period_s, None, (stream,)))
        eventually(lambda: steering._input is None, "a look at the snapshot")


def test_the_configured_mode_is_set_and_told(board: Callable[..., Path]) -> None:
    status = board("tx2")
    with steered(heard := Heard(), "max-q") as steering:
        eventually(lambda: steering.power_mode == "MAXQ", "MAXQ")
    assert "pmode:0001" in status.read_text()
    assert heard.troubles == []


def test_keep_changes_nothing(board: Callable[..., Path]) -> None:
    status = board("tx2", 2)
    before = status.read_text()
    with steered(heard := Heard()) as steering:
        eventually(lambda: steering.power_mode == "MAXP_CORE_ALL", "the mode that it is in")
    assert (status.read_text(), heard.troubles) == (before, [])


@pytest.mark.parametrize(
    ("name", "power_mode", "message"),
    [("tx2", "MAXX", "'MAXX' is not in"), ("orin-nano", "7W", "needs a reboot")],
)
def test_a_mode_that_cannot_be_set_is_told_and_the_board_stays(
    board: Callable[..., Path], name: str, power_mode: str, message: str
) -> None:
    board(name)
    with steered(heard := Heard(), power_mode) as steering:
        eventually(lambda: bool(heard.troubles), "what is the matter")
        assert steering.power_mode is not None
    assert message in (heard.troubles[0] or "")


def test_off_a_jetson_there_is_no_mode_and_only_who_asked_for_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    with steered(quiet := Heard()) as steering:
        pass
    with steered(asked := Heard(), "max-q"):
        eventually(lambda: bool(asked.troubles), "what is the matter")
    assert (steering.power_mode, quiet.troubles) == (None, [])
    assert "not a Jetson" in (asked.troubles[0] or "")


def test_a_hanging_nvpmodel_does_not_keep_the_daemon_from_stopping(
    board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    board("tx2")
    monkeypatch.setenv("FAKE_NVPMODEL", "hang")
    with steered(Heard(), "max-q") as steering:
        assert steering.power_mode is None


def test_the_governor_raises_the_mode_where_frames_come_late(board: Callable[..., Path]) -> None:
    status = board("tx2", 1)
    with steered(heard := Heard(), enabled=True, min_dwell_s=1) as steering:
        eventually(lambda: steering.power_mode == "MAXQ", "the mode that it is in")
        observe(steering, BUSY, 40)
        eventually(lambda: steering.power_mode not in (None, "MAXQ"), "a stronger mode")
    assert "pmode:0001" not in status.read_text()
    assert heard.decisions[-1].mode == steering.power_mode
    assert all(decision.reason for decision in heard.decisions)


def test_the_governor_keeps_to_its_modes_and_within_reach(board: Callable[..., Path]) -> None:
    board("orin-nano-super")
    with steered(heard := Heard(), enabled=True, min_dwell_s=1, modes=["15W", "7W", "25W"]) as steering:
        eventually(lambda: steering.power_mode is not None, "the mode that it is in")
        observe(steering, BUSY, 30)
        observe(steering, CALM, 30, from_s=30.0)
    assert {decision.mode for decision in heard.decisions} <= {"15W", "25W", None}


def test_a_mode_that_a_person_sets_is_left_alone(board: Callable[..., Path]) -> None:
    board("tx2", 1)
    with steered(heard := Heard(), enabled=True, min_dwell_s=1) as steering:
        eventually(lambda: steering.power_mode == "MAXQ", "the mode that it is in")
        observe(steering, CALM, 3)
        board("tx2", 0)
        eventually(lambda: steering.power_mode == "MAXN", "the mode that a person set")
        observe(steering, CALM, 40, from_s=10.0)
        assert steering.power_mode == "MAXN"
    assert "manually" in heard.decisions[-1].reason


def test_who_asks_for_a_mode_hears_of_a_defect_that_keeps_it_from_being_set(
    board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken_down(*_: object, **__: object) -> None:
        raise ZeroDivisionError("no such number")

    board("tx2", 1)
    monkeypatch.setattr("edge.power.controller.set_mode", broken_down)
    answers: list[str | EdgeError] = []
    with steered(Heard()) as steering:
        eventually(lambda: bool(steering.mode_names), "the modes")
        steering.request_mode("MAXN", answers.append)
        eventually(lambda: bool(answers), "an answer")
    assert "left unchanged: no such number" in str(answers[0])
    assert "Traceback" in caplog.text


def test_a_failed_change_is_told_and_cleared_when_it_works_again(
    board: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    board("tx2", 1)
    monkeypatch.setenv("FAKE_NVPMODEL", "silent")
    with steered(heard := Heard(), enabled=True, min_dwell_s=1) as steering:
        eventually(lambda: steering.power_mode == "MAXQ", "the mode that it is in")
        observe(steering, BUSY, 20)
        eventually(lambda: bool(heard.troubles), "what is the matter")
        monkeypatch.delenv("FAKE_NVPMODEL")
        observe(steering, BUSY, 60, from_s=20, period_s=60.0)
        eventually(lambda: steering.power_mode != "MAXQ", "a stronger mode")
    assert steering.power_mode != "MAXQ"
    assert heard.troubles[-1] is None
