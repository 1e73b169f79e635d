"""The initial power mode is restored, whatever happens in between."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from pathlib import Path

import pytest

from edge.core.errors import EdgeError
from edge.perf.tune.measurements_file import MeasurementsFile
from edge.power.mode_guard import ModeGuard
from tests.support.tuned_board import KnownPower


@pytest.fixture
def record(tmp_path: Path) -> MeasurementsFile:
    return MeasurementsFile(tmp_path / "tune" / "m.json", {}, fresh=False)


class Impatient(KnownPower):
    """Somebody presses Ctrl-C again while the mode is put back."""

    def set_mode(self, mode: str, *, allow_reboot: bool = False) -> bool:
        if mode == "MID":
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
        return super().set_mode(mode, allow_reboot=allow_reboot)


def switched(power: KnownPower, record: MeasurementsFile, end: BaseException | None) -> None:
    """Go over to LOW, and end as told; MID, the mode from before, is then put back."""
    with ModeGuard(power, record, allow_reboot=False) as guard:
        guard.switch("LOW")
        if end is not None:
            raise end


def test_second_ctrl_c_does_not_keep_the_mode_from_being_put_back(record: MeasurementsFile) -> None:
    power = Impatient()
    handlers = (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
    with pytest.raises(KeyboardInterrupt):
        switched(power, record, KeyboardInterrupt())
    assert power.switched == ["LOW", "MID"]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_mode_that_cannot_be_put_back_is_an_error_that_names_both(record: MeasurementsFile) -> None:
    with pytest.raises(EdgeError, match=r"stays in LOW; restoring MID failed: mode MID cannot be set"):
        switched(KnownPower(fails="MID"), record, None)


def test_failure_that_came_first_is_the_one_that_is_raised(
    record: MeasurementsFile, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with pytest.raises(EdgeError, match="the camera is gone"):
        switched(KnownPower(fails="MID"), record, EdgeError("the camera is gone"))
    assert "stays in LOW" in caplog.text


def test_interrupt_after_a_reboot_reboots_nothing(record: MeasurementsFile) -> None:
    record.mode_before, record.mode_set = "MID", "OTHER"
    power = KnownPower("OTHER")
    with contextlib.suppress(KeyboardInterrupt), ModeGuard(power, record, allow_reboot=True):
        raise KeyboardInterrupt
    assert power.switched == []
    assert record.mode_before == "MID", "the next run puts it back"
