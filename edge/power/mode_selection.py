"""Which power mode is meant by `max-q`, `max-p`, `keep`, a name or an id, and why."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.power.edge_power import Mode
from edge.power.modes import NoSuchModeError, PowerModeError, PowerModes

# Names of modes that mean the same, without signs. The TX2 has three of Max-P; NVIDIA's default among them is this one.
_NAMED = {"max-q": ("MAXQ",), "max-p": ("MAXP", "MAXPCOREARM")}
_GOAL = {"max-q": "the least energy for an image", "max-p": "the most images per second"}


@dataclass(frozen=True, slots=True)
class ModeSelection:
    """A mode, why it was chosen, and whether the board must reboot for it."""

    mode: Mode
    reason: str
    needs_reboot: bool


def resolve(text: str, modes: PowerModes, measured: Mapping[str, str] | None = None) -> ModeSelection:
    """Return the mode that `text` means; `measured` holds the mode that was measured for "max-q" and "max-p".

    Raises NoSuchModeError naming the modes there are, PowerModeError for `keep` where the current mode cannot be told.
    """
    asked = text.strip()
    if asked.casefold() == "keep":
        if modes.current is None:
            raise PowerModeError(f"the power mode cannot be kept: {modes.unknown}")
        return ModeSelection(modes.current, "the board is in it", needs_reboot=False)
    if asked.casefold() in _NAMED:
        mode, reason = _by_goal(asked.casefold(), modes, measured or {})
    else:
        mode, reason = _by_name(asked, modes), "asked for"
    return ModeSelection(mode, reason, needs_reboot=modes.reachable(mode) is False)


def budget_w(mode: Mode) -> float | None:
    """Return the budget in W that a mode's name tells: infinity for MAXN and MAXN_SUPER, None where it tells none."""
    if re.match(r"(?i)MAXN(?![A-Z0-9])", mode.name):
        return math.inf
    match = re.search(r"(?i)(?<![\d.])(\d+(?:\.\d+)?)W(?![A-Z0-9])", mode.name)
    return float(match[1]) if match else None


def _by_name(asked: str, modes: PowerModes) -> Mode:
    found = [mode for mode in modes.modes if str(mode.id) == asked]
    found = found or [mode for mode in modes.modes if mode.name == asked]
    found = found or [mode for mode in modes.modes if mode.name.casefold() == asked.casefold()]
    if len(found) == 1:
        return found[0]
    names = ", ".join(mode.shown for mode in found or modes.modes)
    if found:
        raise NoSuchModeError(f"power mode {asked!r} could be any of {names}; give the id")
    raise NoSuchModeError(f"power mode {asked!r} is not in {modes.file}; wanted max-q, max-p, keep or one of {names}")


def _by_goal(goal: str, modes: PowerModes, measured: Mapping[str, str]) -> tuple[Mode, str]:
    """Return a mode and the reason: measured, else of that name, else by budget."""
    note = ""
    if goal in measured:
        try:
            return _by_name(measured[goal], modes), f"measured here: {_GOAL[goal]}"
        except NoSuchModeError:
            note = f"what was measured, {measured[goal]}, is no single mode of {modes.file}; "
    for name in _NAMED[goal]:
        for mode in modes.modes:
            if re.sub(r"[^A-Z0-9]", "", mode.name.upper()) == name:
                return mode, f"{note}the board has a mode of that name"
    mode, reason = _by_budget(goal, modes)
    return mode, note + reason


def _by_budget(goal: str, modes: PowerModes) -> tuple[Mode, str]:
    sign = 1 if goal == "max-p" else -1
    budgets = {mode: budget for mode in modes.modes if (budget := budget_w(mode)) is not None}
    near = {mode: budget for mode, budget in budgets.items() if modes.reachable(mode) is not False}
    if not near:
        raise PowerModeError(
            f"{goal} is not clear: no mode of {modes.file} within reach tells its budget in its name; "
            f"wanted one of {', '.join(mode.shown for mode in modes.modes)}"
        )
    best = max(near.values(), key=lambda budget: sign * budget)
    equals = [mode for mode, budget in near.items() if budget == best]
    chosen = max(equals, key=_strength)
    further = [mode for mode, budget in budgets.items() if sign * budget > sign * best]
    return chosen, _told(goal, best, equals, further)


def ascending(modes: Sequence[Mode]) -> list[Mode]:
    """Return modes the lowest budget first; by their caps where not every name tells a budget, as on the TX2."""
    budgets = [budget_w(mode) for mode in modes]
    if None in budgets:
        return sorted(modes, key=_strength)
    return sorted(modes, key=lambda mode: (budget_w(mode) or 0.0, _strength(mode)))


def _strength(mode: Mode) -> tuple[float, float]:
    """Order modes of one budget: highest GPU cap, then cores × clock. No cap is more than any."""
    cpu_mhz = math.inf if mode.cpu_max_mhz is None else mode.cpu_max_mhz
    return (math.inf if mode.gpu_max_mhz is None else mode.gpu_max_mhz), (mode.cores or 1) * cpu_mhz


def _told(goal: str, best_w: float, equals: Sequence[Mode], further: Sequence[Mode]) -> str:
    degree = "highest" if goal == "max-p" else "lowest"
    budget = "no limit" if math.isinf(best_w) else f"{best_w:g} W"
    reason = f"the {degree} budget within reach ({budget})"
    if len(equals) > 1:
        reason += f", of {len(equals)} such modes the highest GPU clock, then cores × clock"
    if further:
        names = " and ".join(mode.name for mode in further)
        reason += f"; {names} would need a reboot"
    return reason
