"""The governor: power mode, batch and waiting time for each latency target at the least energy, within limits.

Pure: no clock, no I/O, no thread. The caller applies a decision, and the next input says which mode is in force. A
switch waits for the dwell unless it is urgent: a person's override, a limit of heat or battery, a mode that is not
allowed, or frames that are late now.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from edge.core.tuned_profile import TunedProfile
from edge.power.governor.contract import Decision, GovernorInput, Rules
from edge.power.governor.demand import Demand
from edge.power.governor.forecast import GovernedSetting, by_mode
from edge.power.governor.learned_rates import LearnedRates, Observation
from edge.power.governor.limits import Limits
from edge.power.governor.mode_ranking import ModeRanking
from edge.power.governor.switch_history import SwitchHistory

# Tuned on simulated days of seeds 1 to 6 (benchmarks/governor.md).
_SETTLE_S = 4.0  # after a switch, before observations count
_URGENT_LATE = 0.025  # fraction of the frames of the last seconds
_BEYOND = 1.2  # × the sustained rate; above, a switch need not wait for late frames


@dataclass(frozen=True)
class _Situation:
    """Situation of one decision."""

    time_s: float
    period_s: float
    mode: str
    allowed: Sequence[str]  # the lowest budget first
    need: float  # images/s


class Governor:
    """Decides, and learns from each input; an input given twice gets the same decision."""

    def __init__(self, rules: Rules, profile: TunedProfile | None = None) -> None:
        if not rules.modes:
            raise ValueError("found no allowed power mode; wanted one or more")
        self._rules = rules
        engines = {mode: each for mode, each in by_mode(profile).items() if mode in rules.modes}
        self._learned = LearnedRates(engines, rules.max_batches, rules.max_waits_ms)
        self._demand = Demand()
        self._ranking = ModeRanking(self._learned, self._demand)
        self._limits = Limits(rules)
        self._switches = SwitchHistory(rules)
        self._answered: tuple[GovernorInput, Decision] | None = None
        self._setting: GovernedSetting | None = None  # decided
        self._time_s = -math.inf  # of the last input
        self._wasted_j = 0.0  # beyond the energy of the better mode, for as long as there has been one
        self._is_unreachable = False

    def decide(self, state: GovernorInput) -> Decision:
        """Return the setting from now on, with its reason."""
        if self._answered is not None and self._answered[0] == state:
            return self._answered[1]
        last_s, self._time_s = self._time_s, state.time_s
        observed = self._demand.add(state, self._switches.last_s + _SETTLE_S)
        self._learn(state.mode, observed, last_s)
        decision = self._next_decision(state, max(0.0, state.time_s - last_s) if math.isfinite(last_s) else 0.0)
        self._answered = (state, decision)
        return decision

    def _learn(self, mode: str | None, observed: Observation | None, from_s: float) -> None:
        if observed is None:
            return
        self._learned.forget(self._time_s - from_s)
        if self._setting is not None and self._setting.mode == mode:
            self._learned.learn(self._setting, observed, self._demand.target_ms)

    def _next_decision(self, state: GovernorInput, period_s: float) -> Decision:
        allowed = self._limits.allowed(state)
        if state.override is not None:
            return self._override(state.override, state)
        if state.mode is None:
            self._setting = None
            return Decision(None, None, None, "the power mode cannot be read and is left unchanged")
        in_force = self._switches.follow(state.mode, state.time_s)
        if in_force == "not yet" and self._setting is not None:
            return self._decision(f"{self._setting.mode} is not in force yet")
        if in_force == "refused" and self._setting is not None:
            return self._give_up(self._setting.mode, state)
        if in_force == "changed":
            self._demand.forget_late()
        now = _Situation(state.time_s, period_s, state.mode, allowed, self._demand.need)
        for rule in (self._obey_limits, self._catch_up, self._save):
            if (decision := rule(now)) is not None:
                return decision
        return self._stay(now)

    # Overrides, and switches that failed

    def _override(self, mode: str, state: GovernorInput) -> Decision:
        is_new = state.mode != mode and (self._setting is None or self._setting.mode != mode)
        if is_new:
            self._switches.record(mode, state.time_s)
            self._demand.forget_late()
        self._setting = self._ranking.best(mode, self._demand.need)
        return self._decision(f"{mode} was requested manually", is_switch=is_new, is_urgent=is_new)

    def _give_up(self, decided: str, state: GovernorInput) -> Decision:
        mode = state.mode or decided
        self._limits.refuse(decided, state.time_s)
        self._setting = self._ranking.best(mode, self._demand.need)
        reason = f"{decided} could not be set; the board stays in {mode}, and {decided} is not tried again for a while"
        return self._decision(reason, notice=reason)

    # Rules; the first with a decision applies

    def _obey_limits(self, now: _Situation) -> Decision | None:
        if now.mode in now.allowed:
            return None
        self._setting = self._ranking.best(now.mode, now.need)
        if not now.allowed:
            return self._decision(f"no allowed mode could be set recently; the board stays in {now.mode}")
        is_listed = now.mode in self._rules.modes
        reason = self._limits.reason if is_listed else f"only {', '.join(now.allowed)} may be used"
        mode = self._ranking.cheapest(now.allowed, now.need) or self._ranking.strongest(now.allowed)
        return self._switch(mode, now, reason or f"{now.mode} is not allowed now", urgent=True)

    def _catch_up(self, now: _Situation) -> Decision | None:
        """Leave a setting, or a mode, that does not sustain the demand."""
        is_late = self._demand.late > _URGENT_LATE
        sustained = self._ranking.sustained(self._ranking.best(now.mode, now.need))
        is_beyond = now.need > _BEYOND * sustained and self._switches.has_dwelled(now.time_s)
        if not (is_late or is_beyond):
            self._is_unreachable &= sustained < now.need
            return None
        if is_late and (decision := self._change_batch(now)) is not None:
            return decision
        stronger = self._ranking.stronger(now.mode, now.allowed)
        mode = self._ranking.cheapest(stronger, now.need) or (self._ranking.strongest(stronger) if stronger else None)
        if mode is None:
            return self._unreachable(now) if is_late else None
        fault = f"{self._demand.late:.1%} of frames are late" if is_late else f"{now.mode} sustains {sustained:.0f}"
        reason = f"demand is {now.need:.0f} images/s and {fault}; {mode} {self._ranking.describe(mode, now.need)}"
        return self._switch(mode, now, reason, urgent=is_late)

    def _change_batch(self, now: _Situation) -> Decision | None:
        """Try another batch or waiting time that should sustain more, before the mode is left."""
        failed = self._setting
        if failed is None or failed.mode != now.mode:
            return None
        self._learned.failed(failed, now.need, self._demand.target_ms)
        other = self._ranking.best(now.mode, now.need)
        if other == failed or self._ranking.sustained(other) < now.need:
            return None
        reason = f"{self._demand.late:.1%} of frames are late at {now.need:.0f} images/s; trying another batch"
        self._demand.forget_late()
        self._setting = other
        return self._decision(reason)

    def _save(self, now: _Situation) -> Decision | None:
        """Switch to a mode that has sufficed for the demand for a while and takes less power."""
        margin = 1 + self._rules.headroom - self._switches.exploration(now.time_s)
        if self._demand.late > _URGENT_LATE or self._ranking.cheaper(now.mode, now.allowed, now.need * margin) is None:
            self._wasted_j = 0.0
            return None
        calm_need = self._demand.highest_need(self._switches.calm_s(now.time_s)) * margin
        mode = self._ranking.cheaper(now.mode, now.allowed, calm_need)
        if mode is None or not self._has_been_calm(now):
            return None
        here_w, there_w = self._ranking.power_w(now.mode, now.need), self._ranking.power_w(mode, now.need)
        reason = f"demand is at most {calm_need:.0f} images/s; {mode} {self._ranking.describe(mode, calm_need)}"
        if here_w is None or there_w is None:
            return self._switch(mode, now, f"{reason} on a lower budget", saves=True)
        if not self._pays(here_w - there_w, now.period_s):
            return None
        return self._switch(mode, now, f"{reason} at {there_w:.2f} W instead of {here_w:.2f} W", saves=True)

    def _pays(self, saving_w: float, period_s: float) -> bool:
        """Return whether a stay of the usual length saves more than the switch there and back costs.

        If not, the switch still comes once as much was wasted as it costs, so that at most twice the least energy is
        spent, however long the stay.
        """
        self._wasted_j += saving_w * period_s
        there_and_back_j = 2 * self._rules.switch_cost_j
        return saving_w * self._switches.usual_stay_s > there_and_back_j or self._wasted_j >= there_and_back_j

    def _stay(self, now: _Situation) -> Decision:
        self._setting = self._ranking.best(now.mode, now.need)
        reason = f"demand is {now.need:.0f} images/s; {now.mode} {self._ranking.describe(now.mode, now.need)}"
        if (power_w := self._ranking.power_w(now.mode, now.need)) is not None:
            reason += f" at about {power_w:.2f} W"
        return self._decision(reason)

    def _unreachable(self, now: _Situation) -> Decision:
        """Run as fast as possible, and give notice once."""
        self._setting = self._ranking.best(now.mode, math.inf)
        reason = (
            f"{now.need:.0f} images/s cannot be sustained: {now.mode}, the fastest of {', '.join(now.allowed)}, "
            f"{self._ranking.describe(now.mode, math.inf)}; reduce the demand or allow more modes"
        )
        notice, self._is_unreachable = None if self._is_unreachable else reason, True
        return self._decision(reason, notice=notice)

    def _has_been_calm(self, now: _Situation) -> bool:
        since_s = self._demand.since_s
        is_watched = since_s is not None and now.time_s - since_s >= self._rules.min_dwell_s
        return is_watched and self._switches.can_save(now.time_s)

    # Decisions

    def _switch(
        self, mode: str, now: _Situation, reason: str, *, urgent: bool = False, saves: bool = False
    ) -> Decision:
        self._switches.record(mode, now.time_s, saves=saves)
        self._demand.forget_late()
        self._wasted_j = 0.0
        self._setting = self._ranking.best(mode, now.need)
        return self._decision(f"{now.mode} → {mode}: {reason}", is_switch=True, is_urgent=urgent)

    def _decision(
        self, reason: str, *, is_switch: bool = False, is_urgent: bool = False, notice: str | None = None
    ) -> Decision:
        setting = self._setting
        if setting is None:
            return Decision(None, None, None, reason)
        return Decision(setting.mode, setting.max_batch, setting.max_wait_ms, reason, is_switch, is_urgent, notice)
