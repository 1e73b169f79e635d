"""Report of the board's power modes: their limits, and the modes that max-q and max-p stand for here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.text import Text

from edge.core.console import output_console, print_table
from edge.core.errors import EdgeError
from edge.core.state_dir import default_state_dir
from edge.core.tuned_profile import measured_modes, newest_profile
from edge.host.board import board_name, read_board
from edge.power.edge_power import CONF, Mode
from edge.power.mode_selection import budget_w, resolve
from edge.power.modes import PowerModes

NO_MODES = f"no power modes: there is no {CONF}, which only a Jetson has"
_GOALS = ("max-q", "max-p")


def measured_here(state_dir: Path | None) -> Mapping[str, str]:
    """Return the modes that `edge tune` measured for max-q and max-p on this board; empty without a measurement."""
    profile = newest_profile(state_dir or default_state_dir(), board_name(), read_board().l4t)
    return measured_modes(profile)


def report_of(modes: PowerModes | None, measured: Mapping[str, str]) -> dict[str, Any]:
    """Return the command's document; `measured` are the modes that max-q and max-p stand for by measurement."""
    if modes is None:
        return {"board": board_name(), "modes": None, "why": NO_MODES}
    return {
        "board": board_name(),
        "file": modes.file,
        "current": modes.current.id if modes.current else None,
        "why": modes.unknown,
        "default": modes.default.id if modes.default else None,
        "modes": [_mode(mode, modes) for mode in modes.modes],
        "reboot_groups": modes.reboot_groups,
        **{goal.replace("-", "_"): _goal(goal, modes, measured) for goal in _GOALS},
    }


def _mode(mode: Mode, modes: PowerModes) -> dict[str, Any]:
    budget = budget_w(mode)
    known = None if budget is None or math.isinf(budget) else budget
    return mode.to_json() | {"budget_w": known, "without_reboot": modes.reachable(mode)}


def _goal(goal: str, modes: PowerModes, measured: Mapping[str, str]) -> dict[str, Any]:
    try:
        choice = resolve(goal, modes, measured)
    except EdgeError as error:
        return {"mode": None, "name": None, "reason": str(error), "needs_reboot": None}
    mode = choice.mode
    return {"mode": mode.id, "name": mode.name, "reason": choice.reason, "needs_reboot": choice.needs_reboot}


def print_report(modes: PowerModes, report: Mapping[str, Any]) -> None:
    """Print the modes as a table, then a sentence each for max-q and max-p."""
    rows = []
    for mode, entry in zip(modes.modes, report["modes"], strict=True):
        caps = [_cap(mode, unit) for unit in ("cpu", "gpu", "emc", "dla")]
        budget = "" if entry["budget_w"] is None else f"{entry['budget_w']:g}"
        reboot = {True: "", False: "needed", None: "?"}[entry["without_reboot"]]
        mark = "►" if mode == modes.current else ""
        rows.append((mark, str(mode.id), mode.name, budget, str(mode.cores or "?"), *caps, reboot))
    console = output_console()
    title = f"Power modes of {report['board']} ({modes.file}); clocks in MHz"
    print_table(console, ("", "id", "name", "W", "cores", "CPU", "GPU", "EMC", "DLA", "reboot"), rows, title=title)
    default = f"default: {modes.default.shown}; " if modes.default else ""
    console.print(Text(f"► current; {default}none: no limit; ?: not in the file", "dim"), soft_wrap=True)
    for line in (modes.unknown, *(_sentence(goal, report[goal.replace("-", "_")]) for goal in _GOALS)):
        if line:
            console.print(Text(line), soft_wrap=True)


def _sentence(goal: str, choice: Mapping[str, Any]) -> str:
    if choice["name"] is None:
        return str(choice["reason"])
    return f"{goal} is {choice['name']} (mode {choice['mode']}): {choice['reason']}"


def _cap(mode: Mode, unit: str) -> str:
    if unit in mode.unstated:
        return "?"
    cap: float | None = getattr(mode, f"{unit}_max_mhz")
    return "none" if cap is None else f"{cap:g}"
