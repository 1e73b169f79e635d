"""`edge power`: the board's power modes, what max-q and max-p mean here, and setting one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from edge.core.errors import EdgeError
from edge.core.state_dir import default_state_dir
from edge.core.tuned_profile import measured_modes, newest_profile
from edge.host.board import board_name, read_board
from edge.power.edge_power import CONF, Mode
from edge.power.mode_selection import budget_w, resolve
from edge.power.modes import ModeSetter, PowerModeError, PowerModes, read_modes, set_mode

_ELSEWHERE = f"not a Jetson: no power modes (there is no {CONF})"
_GOALS = ("max-q", "max-p")


def measured_here(state_dir: Path | None) -> Mapping[str, str]:
    """Return the modes that `edge tune` found for max-q and max-p on this board; empty where it found none."""
    profile = newest_profile(state_dir or default_state_dir(), board_name(), read_board().l4t)
    return measured_modes(profile)


def show(*, as_json: bool, measured: Mapping[str, str] | None = None) -> int:
    """Print the modes with their caps, and what max-q and max-p mean here; elsewhere that there are none.

    Raises PowerModeError where the configuration cannot be read.
    """
    modes = read_modes()
    report = _report(modes, measured)
    if as_json:
        print(json.dumps(report))  # noqa: T201 -- the command's output
    elif modes is None:
        print(_ELSEWHERE)  # noqa: T201
    else:
        _show(modes, report)
    return 0


def change(
    wanted: str,
    *,
    allow_reboot: bool,
    as_json: bool,
    measured: Mapping[str, str] | None = None,
    jtop: ModeSetter | None = None,
) -> int:
    """Set the mode that `wanted` means; raise NoSuchModeError, or PowerModeError where it was not set."""
    modes = read_modes()
    if modes is None:
        raise PowerModeError(f"{_ELSEWHERE}; {wanted!r} can be set on a Jetson")
    choice = resolve(wanted, modes, measured)
    done = set_mode(modes, choice.mode, allow_reboot=allow_reboot, jtop=jtop)
    if as_json:
        print(json.dumps(done.to_json() | {"reason": choice.reason}))  # noqa: T201 -- the command's output
        return 0
    state = "; the board reboots" if done.rebooting else ", as it was" if done.before == done.mode else ""
    print(f"{choice.mode.shown}{state} ({choice.reason})")  # noqa: T201
    return 0


def _report(modes: PowerModes | None, measured: Mapping[str, str] | None) -> dict[str, Any]:
    if modes is None:
        return {"board": board_name(), "modes": None, "why": _ELSEWHERE}
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


def _goal(goal: str, modes: PowerModes, measured: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        choice = resolve(goal, modes, measured)
    except EdgeError as error:
        return {"mode": None, "name": None, "reason": str(error), "needs_reboot": None}
    mode = choice.mode
    return {"mode": mode.id, "name": mode.name, "reason": choice.reason, "needs_reboot": choice.needs_reboot}


def _show(modes: PowerModes, report: Mapping[str, Any]) -> None:
    table = Table(box=box.SIMPLE, pad_edge=False)
    for column in ("id", "name", "W", "cores", "CPU", "GPU", "EMC", "DLA", "reboot"):
        table.add_column(column, justify="left" if column in ("name", "reboot") else "right", no_wrap=True)
    for mode, told in zip(modes.modes, report["modes"], strict=True):
        caps = [_cap(mode, unit) for unit in ("cpu", "gpu", "emc", "dla")]
        budget = "" if told["budget_w"] is None else f"{told['budget_w']:g}"
        reboot = {True: "", False: "needed", None: "?"}[told["without_reboot"]]
        mark = "►" if mode == modes.current else ""
        table.add_row(f"{mark} {mode.id}", Text(mode.name), budget, str(mode.cores or "?"), *caps, reboot)
    default = f"default: {modes.default.shown}; " if modes.default else ""
    table.caption = f"► now; {default}none: no cap; ?: not in the file"
    console = Console()
    console.print(Text(f"Power modes of {report['board']} ({modes.file}); clocks in MHz"), soft_wrap=True)
    console.print(table)
    for line in (modes.unknown, *(_sentence(goal, report[goal.replace("-", "_")]) for goal in _GOALS)):
        if line:
            console.print(Text(line), soft_wrap=True)


def _sentence(goal: str, told: Mapping[str, Any]) -> str:
    if told["name"] is None:
        return str(told["reason"])
    return f"{goal} is {told['name']} (mode {told['mode']}): {told['reason']}"


def _cap(mode: Mode, unit: str) -> str:
    if unit in mode.unstated:
        return "?"
    cap: float | None = getattr(mode, f"{unit}_max_mhz")
    return "none" if cap is None else f"{cap:g}"
