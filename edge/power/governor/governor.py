"""Snapshot → power mode, batch and waiting time: each stream's latency target at the least energy, within limits.

Pure: no clock, no I/O, no thread. Whoever calls sets what is decided, and tells in the next snapshot what is in force.
A switch waits for the dwell unless it is urgent: a person's override, a limit of heat or battery, a mode that is not
allowed, or frames that are late now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge.core.tuned_profile import Profile
from edge.power.governor.contract import Decision, GovernorInput, Rules
from edge.power.governor.demand import Demand
from edge.power.governor.forecast import GovernedSetting, by_mode
from edge.power.governor.limits import Limits
from edge.power.governor.mode_ranking import ModeRanking
from edge.power.governor.observations import LearnedRates, Observation
from edge.power.governor.switch_history import SwitchHistory

_SETTLE_S = 4.0  # after a switch, before what is seen counts
_URGENT_LATE = 0.025  # share of the frames of the last seconds
_BEYOND = 1.2  # × what a mode is thought to hold: with so much asked, frames need not be late first


@dataclass(frozen=True)
class _Now:
    """What the rules judge by."""

    time_s: float
    period_s: float
    mode: str
    allowed: Sequence[str]  # the lowest budget first
    need: float  # images/s


class Governor:
    """Decides, and learns from what it sees; a snapshot that was just answered gets the same answer."""

    def __init__(self, settings: Rules, profile: Profile | None = None) -> None:
        if not settings.modes:
            raise ValueError("found no allowed power mode; wanted one or more")
        self._settings = settings
        engines = {mode: each for mode, each in by_mode(profile).items() if mode in settings.modes}
        self._experience = LearnedRates(engines, settings.max_batches, settings.max_waits_ms)
        self._demand = Demand()
        self._choice = ModeRanking(self._experience, self._demand)
        self._limits = Limits(settings)
        self._switches = SwitchHistory(settings)
        self._answered: tuple[GovernorInput, Decision] | None = None
        self._setting: GovernedSetting | None = None  # that was decided
        self._time_s = -math.inf  # of the last snapshot
        self._wasted_j = 0.0  # more than a better mode would have taken, since that is the better one
        self._is_unreachable = False

    def decide(self, snapshot: GovernorInput) -> Decision:
        """Return what is to be in force, and why."""
        if self._answered is not None and self._answered[0] == snapshot:
            return self._answered[1]
        last_s, self._time_s = self._time_s, snapshot.time_s
        seen = self._demand.add(snapshot, self._switches.last_s + _SETTLE_S)
        self._learn(snapshot.mode, seen, last_s)
        decision = self._judge(snapshot, max(0.0, snapshot.time_s - last_s) if math.isfinite(last_s) else 0.0)
        self._answered = (snapshot, decision)
        return decision

    def _learn(self, mode: str | None, seen: Observation | None, from_s: float) -> None:
        if seen is None:
            return
        self._experience.forget(self._time_s - from_s)
        if self._setting is not None and self._setting.mode == mode:
            self._experience.learn(self._setting, seen, self._demand.target_ms)

    def _judge(self, snapshot: GovernorInput, period_s: float) -> Decision:
        allowed = self._limits.allowed(snapshot)
        if snapshot.override is not None:
            return self._override(snapshot.override, snapshot)
        if snapshot.mode is None:
            self._setting = None
            return Decision(None, None, None, "the power mode cannot be read, so it is left as it is")
        in_force = self._switches.follow(snapshot.mode, snapshot.time_s)
        if in_force == "not yet" and self._setting is not None:
            return self._decision(f"{self._setting.mode} was decided, and is not in force yet")
        if in_force == "refused" and self._setting is not None:
            return self._give_up(self._setting.mode, snapshot)
        if in_force == "changed":
            self._demand.forget_late()
        now = _Now(snapshot.time_s, period_s, snapshot.mode, allowed, self._demand.need)
        for rule in (self._obey_limits, self._catch_up, self._save):
            if (decision := rule(now)) is not None:
                return decision
        return self._stay(now)

    # What was asked, and what came of it

    def _override(self, mode: str, snapshot: GovernorInput) -> Decision:
        is_new = snapshot.mode != mode and (self._setting is None or self._setting.mode != mode)
        if is_new:
            self._switches.decided(mode, snapshot.time_s)
            self._demand.forget_late()
        self._setting = self._choice.best(mode, self._demand.need)
        return self._decision(f"{mode} was asked for by hand", is_switch=is_new, is_urgent=is_new)

    def _give_up(self, wanted: str, snapshot: GovernorInput) -> Decision:
        mode = snapshot.mode or wanted
        self._limits.refuse(wanted, snapshot.time_s)
        self._setting = self._choice.best(mode, self._demand.need)
        reason = f"{wanted} could not be set, so {mode} stays; {wanted} is left out for a while"
        return self._decision(reason, notice=reason)

    # Rules, the first that has an answer gives it

    def _obey_limits(self, now: _Now) -> Decision | None:
        if now.mode in now.allowed:
            return None
        self._setting = self._choice.best(now.mode, now.need)
        if not now.allowed:
            return self._decision(f"no allowed mode could be set of late, so {now.mode} stays")
        is_listed = now.mode in self._settings.modes
        told = self._limits.reason if is_listed else f"only {', '.join(now.allowed)} may be used"
        mode = self._choice.cheapest(now.allowed, now.need) or self._choice.strongest(now.allowed)
        return self._switch(mode, now, told or "it may not be used now", urgent=True)

    def _catch_up(self, now: _Now) -> Decision | None:
        """Leave a setting, or a mode, that does not hold what is asked."""
        is_late = self._demand.late > _URGENT_LATE
        held = self._choice.held(self._choice.best(now.mode, now.need))
        is_beyond = now.need > _BEYOND * held and self._switches.has_dwelled(now.time_s)
        if not (is_late or is_beyond):
            self._is_unreachable &= held < now.need
            return None
        if is_late and (decision := self._batch_otherwise(now)) is not None:
            return decision
        stronger = self._choice.stronger(now.mode, now.allowed)
        mode = self._choice.cheapest(stronger, now.need) or (self._choice.strongest(stronger) if stronger else None)
        if mode is None:
            return self._unreachable(now) if is_late else None
        seen = f"{self._demand.late:.1%} of the frames were late" if is_late else f"{now.mode} holds {held:.0f}"
        told = f"{now.need:.0f} images/s are asked and {seen}; {mode} {self._choice.told(mode, now.need)}"
        return self._switch(mode, now, told, urgent=is_late)

    def _batch_otherwise(self, now: _Now) -> Decision | None:
        """Before the mode is left, try another batch or waiting time that is thought to hold more."""
        failed = self._setting
        if failed is None or failed.mode != now.mode:
            return None
        self._experience.failed(failed, now.need, self._demand.target_ms)
        other = self._choice.best(now.mode, now.need)
        if other == failed or self._choice.held(other) < now.need:
            return None
        told = f"{self._demand.late:.1%} of the frames were late at {now.need:.0f} images/s; another batch is tried"
        self._demand.forget_late()
        self._setting = other
        return self._decision(told)

    def _save(self, now: _Now) -> Decision | None:
        """Go to a mode that holds what was asked for a while, and takes less."""
        margin = 1 + self._settings.headroom - self._switches.curiosity(now.time_s)
        if self._demand.late > _URGENT_LATE or self._choice.thriftier(now.mode, now.allowed, now.need * margin) is None:
            self._wasted_j = 0.0
            return None
        calm_need = self._demand.highest_need(self._switches.calm_s(now.time_s)) * margin
        mode = self._choice.thriftier(now.mode, now.allowed, calm_need)
        if mode is None or not self._has_been_calm(now):
            return None
        here_w, there_w = self._choice.power_w(now.mode, now.need), self._choice.power_w(mode, now.need)
        told = f"at most {calm_need:.0f} images/s are asked; {mode} {self._choice.told(mode, calm_need)}"
        if here_w is None or there_w is None:
            return self._switch(mode, now, f"{told}, and its budget is less", saves=True)
        if not self._pays(here_w - there_w, now.period_s):
            return None
        return self._switch(mode, now, f"{told}, and it takes {there_w:.2f} W instead of {here_w:.2f} W", saves=True)

    def _pays(self, saving_w: float, period_s: float) -> bool:
        """Return whether a stay of the usual length saves more than the way there and back takes.

        Where it would not, the switch still comes when as much was wasted as it takes, so that at most twice the least
        is spent, however long the stay.
        """
        self._wasted_j += saving_w * period_s
        there_and_back_j = 2 * self._settings.switch_cost_j
        return saving_w * self._switches.usual_stay_s > there_and_back_j or self._wasted_j >= there_and_back_j

    def _stay(self, now: _Now) -> Decision:
        self._setting = self._choice.best(now.mode, now.need)
        told = f"{now.need:.0f} images/s are asked; {now.mode} {self._choice.told(now.mode, now.need)}"
        if (power_w := self._choice.power_w(now.mode, now.need)) is not None:
            told += f" at about {power_w:.2f} W"
        return self._decision(told)

    def _unreachable(self, now: _Now) -> Decision:
        """Run as fast as may be, and say so once."""
        self._setting = self._choice.best(now.mode, math.inf)
        told = (
            f"{now.need:.0f} images/s cannot be held: {now.mode} {self._choice.told(now.mode, math.inf)}, "
            f"as the strongest of {', '.join(now.allowed)}; ask less, or allow more"
        )
        notice, self._is_unreachable = None if self._is_unreachable else told, True
        return self._decision(told, notice=notice)

    def _has_been_calm(self, now: _Now) -> bool:
        since_s = self._demand.since_s
        is_watched = since_s is not None and now.time_s - since_s >= self._settings.min_dwell_s
        return is_watched and self._switches.may_save(now.time_s)

    # Answers

    def _switch(self, mode: str, now: _Now, reason: str, *, urgent: bool = False, saves: bool = False) -> Decision:
        self._switches.decided(mode, now.time_s, saves=saves)
        self._demand.forget_late()
        self._wasted_j = 0.0
        self._setting = self._choice.best(mode, now.need)
        return self._decision(f"{now.mode} → {mode}: {reason}", is_switch=True, is_urgent=urgent)

    def _decision(
        self, reason: str, *, is_switch: bool = False, is_urgent: bool = False, notice: str | None = None
    ) -> Decision:
        setting = self._setting
        if setting is None:
            return Decision(None, None, None, reason)
        return Decision(setting.mode, setting.max_batch, setting.max_wait_ms, reason, is_switch, is_urgent, notice)
