"""Selection of a power mode by `max-q`, `max-p`, `keep`, a name or an id, with the reason."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edge.core.suggestion import did_you_mean
from edge.power.edge_power import Mode
from edge.power.modes import NoSuchModeError, PowerModeError, PowerModes

# Synonymous names of modes, without punctuation. The TX2 has three Max-P modes; this one is NVIDIA's default.
_NAMED = {"max-q": ("MAXQ",), "max-p": ("MAXP", "MAXPCOREARM")}
# Budgets as people write them: 15W, 7.5W, MODE_28_1_W (28.1 W), 30_WATTS. An underscore is a decimal point only before
# one digit, so MODE_2_15W is 15 W.
_BUDGET = re.compile(r"(?i)(?<![\d.])(\d+)(?:[._,](\d)|\.(\d+))?[\s_-]?W(?:ATTS?)?(?![A-Z0-9])")
_GOAL = {"max-q": "least energy per image", "max-p": "most images per second"}
_SIDE = {"max-q": "below", "max-p": "above"}


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
    if re.match(r"(?i)(?:MODE[\s_-]?)?MAXN(?![A-Z0-9])", mode.name):
        return math.inf
    match = _BUDGET.search(mode.name)
    return float(f"{match[1]}.{match[2] or match[3] or 0}") if match else None


def is_capped_within(mode: Mode, other: Mode) -> bool:
    """Return whether every cap of a mode is at or below that of another. No cap ranks above any cap."""
    return all(a <= b for a, b in zip(_caps(mode), _caps(other), strict=True))


def _by_name(name: str, modes: PowerModes) -> Mode:
    found = [mode for mode in modes.modes if str(mode.id) == name]
    found = found or [mode for mode in modes.modes if mode.name == name]
    found = found or [mode for mode in modes.modes if mode.name.casefold() == name.casefold()]
    if len(found) == 1:
        return found[0]
    names = ", ".join(mode.shown for mode in found or modes.modes)
    if found:
        raise NoSuchModeError(f"power mode {name!r} is ambiguous: {names}; give the id")
    meant = did_you_mean(name, ("max-q", "max-p", "keep", *(mode.name for mode in modes.modes)))
    wanted = f"wanted max-q, max-p, keep or one of {names}{meant}"
    raise NoSuchModeError(f"power mode {name!r} is not in {modes.file}; {wanted}")


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
    near = [mode for mode in modes.modes if modes.reachable(mode) is not False]
    budgets = {mode: budget for mode in modes.modes if (budget := budget_w(mode)) is not None}
    sign = 1 if goal == "max-p" else -1
    best = max((budgets[mode] for mode in near if mode in budgets), key=lambda budget: sign * budget, default=None)
    if best is None:
        return _by_caps(goal, near, modes)
    equals = [mode for mode in near if budgets.get(mode) == best]
    further = [mode for mode, budget in budgets.items() if sign * budget > sign * best]
    reason = _budget_reason(goal, best, equals, further)
    for mode in _beyond(goal, near, equals):
        if budgets.get(mode) != best:  # what a name says comes first only among modes that it sets apart
            passed = next(each for each in equals if _is_further(goal, mode, each))
            return mode, f"its caps are all at or {_SIDE[goal]} those of {passed.name}, {reason}"
    return max(equals, key=_strength), reason


def _by_caps(goal: str, near: Sequence[Mode], modes: PowerModes) -> tuple[Mode, str]:
    """Return the mode whose caps are furthest, where no name within reach has a budget."""
    if len(near) == 1:
        return near[0], f"the only mode {'of ' + modes.file if len(modes.modes) == 1 else 'within reach'}"
    for mode in near:
        if all(_is_further(goal, mode, other) for other in near if other != mode):
            return mode, f"its caps are all at or {_SIDE[goal]} those of every other mode within reach"
    raise PowerModeError(
        f"{goal} is not clear: no mode of {modes.file} within reach has its budget in its name, nor caps that are all "
        f"at or {_SIDE[goal]} the others'; wanted one of {', '.join(mode.shown for mode in modes.modes)}"
    )


def _beyond(goal: str, near: Sequence[Mode], equals: Sequence[Mode]) -> list[Mode]:
    """Return the modes further than one of `equals` by all their caps, the furthest first."""
    beyond = [mode for mode in near if any(_is_further(goal, mode, each) for each in equals)]
    return sorted(beyond, key=_strength, reverse=goal == "max-p")


def _is_further(goal: str, mode: Mode, other: Mode) -> bool:
    return _ranks_below(mode, other) if goal == "max-q" else _ranks_below(other, mode)


def _ranks_below(mode: Mode, other: Mode) -> bool:
    return is_capped_within(mode, other) and _caps(mode) != _caps(other)


def ascending(modes: Sequence[Mode]) -> list[Mode]:
    """Return modes with the lowest budget first; ordered by caps if a name lacks a budget, as on the TX2.

    A mode whose caps are all at or below another's comes before it, whatever their names say.
    """
    budgets = {mode: budget_w(mode) for mode in modes}
    by_caps = None in budgets.values()
    left = sorted(modes, key=lambda mode: (0.0 if by_caps else budgets[mode] or 0.0, _strength(mode)))
    ordered: list[Mode] = []
    while left:
        lowest = next(mode for mode in left if not any(_ranks_below(other, mode) for other in left))
        left.remove(lowest)
        ordered.append(lowest)
    return ordered


def _strength(mode: Mode) -> tuple[float, float]:
    """Return a sort key for modes of one budget: GPU cap, then cores × clock. No cap ranks above any cap."""
    cpu_mhz = math.inf if mode.cpu_max_mhz is None else mode.cpu_max_mhz
    return (math.inf if mode.gpu_max_mhz is None else mode.gpu_max_mhz), (mode.cores or 1) * cpu_mhz


def _caps(mode: Mode) -> tuple[float, ...]:
    """Return cores and clocks; infinity for what has no cap."""
    caps = (mode.cores, mode.cpu_max_mhz, mode.gpu_max_mhz, mode.emc_max_mhz, mode.dla_max_mhz)
    return tuple(math.inf if each is None else each for each in caps)


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
