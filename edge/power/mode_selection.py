"""Selection of a power mode by `max-q`, `max-p`, `keep`, a name or an id, with the reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.power.edge_power import Mode
from edge.power.modes import NoSuchModeError, PowerModeError, PowerModes

# Synonymous names of modes, without punctuation. The TX2 has three Max-P modes; this one is NVIDIA's default.
_NAMED = {"max-q": ("MAXQ",), "max-p": ("MAXP", "MAXPCOREARM")}
_GOAL = {"max-q": "least energy per image", "max-p": "most images per second"}


@dataclass(frozen=True, slots=True)
class ModeSelection:
    """A mode, the reason for it, and whether it needs a reboot."""

    mode: Mode
    reason: str
    needs_reboot: bool


def resolve(text: str, modes: PowerModes, measured: Mapping[str, str] | None = None) -> ModeSelection:
    """Return the mode that `text` selects; `measured` maps "max-q" and "max-p" to measured modes.

    Raises NoSuchModeError naming the available modes, PowerModeError for `keep` if the current mode is not known.
    """
    name = text.strip()
    if name.casefold() == "keep":
        if modes.current is None:
            raise PowerModeError(f"the power mode cannot be kept: {modes.unknown}")
        return ModeSelection(modes.current, "the current mode", needs_reboot=False)
    if name.casefold() in _NAMED:
        mode, reason = _by_goal(name.casefold(), modes, measured or {})
    else:
        mode, reason = _by_name(name, modes), "as requested"
    return ModeSelection(mode, reason, needs_reboot=modes.reachable(mode) is False)


def budget_w(mode: Mode) -> float | None:
    """Return the budget in W in a mode's name: infinity for MAXN and MAXN_SUPER, None if there is none."""
    if re.match(r"(?i)MAXN(?![A-Z0-9])", mode.name):
        return math.inf
    match = re.search(r"(?i)(?<![\d.])(\d+(?:\.\d+)?)W(?![A-Z0-9])", mode.name)
    return float(match[1]) if match else None


def _by_name(name: str, modes: PowerModes) -> Mode:
    found = [mode for mode in modes.modes if str(mode.id) == name]
    found = found or [mode for mode in modes.modes if mode.name == name]
    found = found or [mode for mode in modes.modes if mode.name.casefold() == name.casefold()]
    if len(found) == 1:
        return found[0]
    names = ", ".join(mode.shown for mode in found or modes.modes)
    if found:
        raise NoSuchModeError(f"power mode {name!r} is ambiguous: {names}; give the id")
    raise NoSuchModeError(f"power mode {name!r} is not in {modes.file}; wanted max-q, max-p, keep or one of {names}")


def _by_goal(goal: str, modes: PowerModes, measured: Mapping[str, str]) -> tuple[Mode, str]:
    """Return a mode and the reason: the measured one, else one of that name, else by budget."""
    note = ""
    if goal in measured:
        try:
            return _by_name(measured[goal], modes), f"measured here: {_GOAL[goal]}"
        except NoSuchModeError:
            note = f"the measured mode {measured[goal]} is not a single mode of {modes.file}; "
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
            f"{goal} is not clear: no mode of {modes.file} within reach has its budget in its name; "
            f"wanted one of {', '.join(mode.shown for mode in modes.modes)}"
        )
    best = max(near.values(), key=lambda budget: sign * budget)
    equals = [mode for mode, budget in near.items() if budget == best]
    chosen = max(equals, key=_strength)
    further = [mode for mode, budget in budgets.items() if sign * budget > sign * best]
    return chosen, _budget_reason(goal, best, equals, further)


def ascending(modes: Sequence[Mode]) -> list[Mode]:
    """Return modes with the lowest budget first; ordered by caps if a name lacks a budget, as on the TX2."""
    budgets = [budget_w(mode) for mode in modes]
    if None in budgets:
        return sorted(modes, key=_strength)
    return sorted(modes, key=lambda mode: (budget_w(mode) or 0.0, _strength(mode)))


def _strength(mode: Mode) -> tuple[float, float]:
    """Return a sort key for modes of one budget: GPU cap, then cores × clock. No cap ranks above any cap."""
    cpu_mhz = math.inf if mode.cpu_max_mhz is None else mode.cpu_max_mhz
    return (math.inf if mode.gpu_max_mhz is None else mode.gpu_max_mhz), (mode.cores or 1) * cpu_mhz


def _budget_reason(goal: str, best_w: float, equals: Sequence[Mode], further: Sequence[Mode]) -> str:
    degree = "highest" if goal == "max-p" else "lowest"
    budget = "no limit" if math.isinf(best_w) else f"{best_w:g} W"
    reason = f"the {degree} budget within reach ({budget})"
    if len(equals) > 1:
        reason += f", and among {len(equals)} such modes the highest GPU clock, then cores × clock"
    if further:
        names = " and ".join(mode.name for mode in further)
        reason += f"; {names} would need a reboot"
    return reason
