"""Power modes of emulated boards as edge tune switches between them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edge.power.board_power import BoardPower, board_power
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes


@pytest.fixture
def emulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], BoardPower]:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", install_tools(tmp_path / "bin"))
    monkeypatch.setattr("edge.power.modes.os.geteuid", lambda: 0)  # the fake programs let anybody

    def board(name: str) -> BoardPower:
        write_power_modes(tmp_path, name)
        power = board_power()
        assert power is not None
        return power

    return board


def test_machine_without_modes_has_no_power_to_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    assert board_power() is None


def test_modes_of_a_tx2_are_set_live_and_compared_by_their_caps(emulate: Callable[[str], BoardPower]) -> None:
    power = emulate("tx2")
    assert power.current() == "MAXP_CORE_ARM"
    assert all(power.is_live(mode) for mode in power.modes())
    assert power.is_slower("MAXQ", "MAXN")
    assert not power.is_slower("MAXN", "MAXQ")
    assert power.is_slower("MAXQ", "MAXP_CORE_ARM"), "the same cores, at less"
    assert not power.is_slower("MAXP_CORE_ALL", "MAXP_CORE_ARM"), "more cores at a lower clock are no clear case"
    assert not power.is_slower("MAXN", "MAXN")
    assert power.set_mode("MAXQ") is False
    assert power.current() == "MAXQ"


def test_mode_behind_another_power_gating_needs_a_reboot(emulate: Callable[[str], BoardPower]) -> None:
    power = emulate("agx-orin")
    assert power.current() == "MODE_30W"
    assert [mode for mode in power.modes() if power.is_live(mode)] == ["MODE_30W"]
    assert power.is_slower("MODE_15W", "MODE_30W")
