"""A board with power modes below EDGE_ROOT, its programs on PATH, for the tests of rooms that read or set them."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.power.edge_power import Mode
from edge.power.modes import PowerModes, read_modes
from tests.support.emulated_boards.boards import build
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes

# In the mode that the board starts in.
MEANT = {
    "tx2": ("MAXQ", "MAXP_CORE_ARM"),
    "xavier-nx": ("10W_4CORE", "20W_6CORE"),
    "agx-xavier": ("15W_DESKTOP", "MAXN"),
    "orin-nano": ("15W", "15W"),
    "orin-nano-super": ("15W", "MAXN_SUPER"),
    "orin-nx": ("10W", "15W"),
    "orin-nx-super": ("25W", "MAXN_SUPER"),
    "agx-orin": ("MODE_30W", "MODE_30W"),
    "thor": ("120W", "MAXN"),
}


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")


@dataclass(frozen=True)
class Emulated:
    """A board below EDGE_ROOT, its programs on PATH."""

    root: Path

    @property
    def state(self) -> Path:
        return self.root / "var/lib/nvpmodel"

    def noted(self, file: str) -> list[int]:
        path = self.state / file
        return [int(line) for line in path.read_text().split()] if path.exists() else []


def board_environment(name: str, folder: Path) -> dict[str, str]:
    """Build a board with its power modes in `folder`/board; return the environment of a process on it."""
    root = build(name, folder / "board")
    write_power_modes(root, name)
    return {"EDGE_ROOT": str(root), "PATH": install_tools(folder / "bin")}


@pytest.fixture
def emulate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Emulated]:
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    monkeypatch.setenv("PATH", install_tools(tmp_path / "bin"))
    monkeypatch.delenv("FAKE_NVPMODEL", raising=False)

    def board(name: str) -> Emulated:
        write_power_modes(tmp_path, name)
        return Emulated(tmp_path)

    return board


def read() -> PowerModes:
    modes = read_modes()
    assert modes is not None
    return modes


def named(modes: PowerModes, name: str) -> Mode:
    return next(mode for mode in modes.modes if mode.name == name)
