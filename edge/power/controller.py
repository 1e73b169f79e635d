"""Control of the board's power mode while the daemon serves: as configured, requested, or decided by the governor.

Reading and setting a mode starts programs and asks services, which can take seconds: hence a thread of its own.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from edge.core.clock import now_ns
from edge.core.config import GovernorSettings
from edge.core.errors import EdgeError
from edge.core.tuned_profile import TunedProfile, measured_modes
from edge.power.edge_power import Mode
from edge.power.governor import Decision, Governor, GovernorInput, Rules
from edge.power.jtop import JtopClient
from edge.power.mode_selection import ascending, resolve
from edge.power.modes import PowerModeError, PowerModes, read_modes, set_mode

log = logging.getLogger(__name__)

POLL_S = 1.0
# A change in progress when the daemon ends is finished by edge-power.
STOP_S = 0.5


# Called with the mode that the board is in now, or the reason why it is not the requested one.
ModeCallback = Callable[[str | EdgeError], None]


class PowerControlOutlet(Protocol):
    """Receiver of faults and decisions; called from the controller's thread."""

    def report_power_fault(self, reason: str | None) -> None:
        """Report why the power mode is not the intended one; None: it is again."""

    def report_decision(self, decision: Decision) -> None:
        """Report the governor's decision, which includes the batches that fit the mode."""


@dataclass(frozen=True)
class PowerPolicy:
    """Configuration of the power mode."""

    power_mode: str  # max-q, max-p, keep, a name or an id
    governor: GovernorSettings


class PowerController:
    """Keeps the board in the intended power mode."""

    def __init__(self, policy: PowerPolicy, outlet: PowerControlOutlet) -> None:
        self.power_mode: str | None = None  # that the board is in; None if it has none or it is unknown
        self.mode_names: tuple[str, ...] = ()  # that can be requested
        self._policy = policy
        self._outlet = outlet
        self._governor: Governor | None = None
        self._profile: TunedProfile | None = None
        self._names: Mapping[str, Mode] = {}
        self._input: GovernorInput | None = None  # not processed yet
        self._own_mode: str | None = None  # set by this controller, or found at the start
        self._override: tuple[str, int] | None = None  # a mode that a person set, and until when it stays
        self._decision: Decision | None = None
        self._request: tuple[str, ModeCallback] | None = None  # of a person, not processed yet
        self._missing_reason = "the power modes have not been read yet; send the command again in a moment"
        self._fault: str | None = None
        self._stopped = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def start(self, profile: TunedProfile | None = None) -> None:
        """Start the thread, with the profile measured on this board."""
        self._profile = profile
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopped, self._missing_reason = True, "the daemon is stopping"
            self._wake.notify()
        self._thread.join(STOP_S)

    def observe(self, state: GovernorInput) -> None:
        """Hand over the state of board and streams; only the newest is used."""
        with self._wake:
            self._input = state
            self._wake.notify()

    def request_mode(self, mode: str, on_done: ModeCallback) -> None:
        """Have a person's mode set; `on_done` is called from the thread, and not at all if this raises.

        Raises PowerModeError if there are no modes or another request is pending.
        """
        with self._wake:
            if self._stopped or not self.mode_names:
                raise PowerModeError(self._missing_reason)
            if self._request is not None:
                raise PowerModeError("another power mode is being set; send the command again when that is done")
            self._request = mode, on_done
            self._wake.notify()

    def _run(self) -> None:
        try:
            modes = self._open()
            if modes is not None:
                self.mode_names = tuple(each.name for each in modes.modes if modes.reachable(each) is not False)
            while modes is not None and self._wait():
                self._tick(modes)
        # The top of a thread: whatever failed, the daemon continues to serve in the current mode.
        except Exception as error:
            log.exception("the power mode is left unchanged from now on")
            self._missing_reason = f"the power mode is left unchanged: {error}"
            self._report_fault(self._missing_reason)
        with self._wake:
            self.mode_names = ()
            request, self._request = self._request, None
        if request is not None:
            request[1](PowerModeError(self._missing_reason))

    def _open(self) -> PowerModes | None:
        """Read the modes and set the configured one; return None if no mode can be set."""
        policy = self._policy
        try:
            modes = read_modes()
        except EdgeError as error:
            self._missing_reason = str(error)
            self._report_fault(str(error))
            return None
        if modes is None:
            self._missing_reason = "this is not a Jetson: it has no power modes"
            if policy.power_mode != "keep" or policy.governor.enabled:
                self._report_fault(f"{self._missing_reason}; set power_mode to keep and disable [governor]")
            return None
        self._names = {mode.name: mode for mode in modes.modes}
        self.power_mode = self._own_mode = modes.current.name if modes.current else None
        if policy.power_mode != "keep":
            try:
                selection = resolve(policy.power_mode, modes, measured_modes(self._profile))
                log.info("power_mode %s is %s: %s", policy.power_mode, selection.mode.shown, selection.reason)
                self._set(modes, selection.mode)
            except EdgeError as error:
                self._report_fault(str(error))
        if policy.governor.enabled:
            self._open_governor(modes)
        return modes

    def _open_governor(self, modes: PowerModes) -> None:
        settings = self._policy.governor
        try:
            allowed = [resolve(name, modes).mode for name in settings.modes] or list(modes.modes)
        except EdgeError as error:
            self._report_fault(f"[governor] modes: {error}")
            return
        unreachable = [mode.name for mode in allowed if modes.reachable(mode) is False]
        if unreachable:
            log.info("the governor does not use %s: switching there needs a reboot", ", ".join(unreachable))
        usable = tuple(mode.name for mode in ascending(allowed) if mode.name not in unreachable)
        if not usable:
            self._report_fault("[governor] modes: none of them can be set without a reboot; allow others")
            return
        profile = self._profile if self._profile is not None and self._profile.is_saturated else None
        if profile is None:
            log.info(
                "without measurements of this board the governor changes modes one step at a time; "
                "run edge tune --saturate for better decisions"
            )
        self._governor = Governor(_rules(settings, usable), profile)

    def _wait(self) -> bool:
        """Wait for an input or a request, at most for a while; return False when it is time to stop."""
        with self._wake:
            if self._input is None and self._request is None and not self._stopped:
                self._wake.wait(POLL_S)
            return not self._stopped

    def _tick(self, modes: PowerModes) -> None:
        stored = modes.stored()
        with self._wake:
            state, self._input = self._input, None
            request, self._request = self._request, None
        if stored is not None and stored.name != self.power_mode:
            self._note_external_change(stored.name)
        if request is not None:
            self._fulfil(modes, *request)
        if self._governor is not None and state is not None:
            decision = self._governor.decide(replace(state, mode=self.power_mode, override=self._override_now()))
            self._report(decision)
            if decision.mode is not None and decision.mode != self.power_mode:
                self._try_to_set(modes, self._names[decision.mode])

    def _note_external_change(self, mode: str) -> None:
        log.info("power mode changed externally from %s to %s", self.power_mode, mode)
        self.power_mode = mode
        if mode != self._own_mode:
            self._hold(mode)

    def _fulfil(self, modes: PowerModes, name: str, on_done: ModeCallback) -> None:
        """Set the mode that a person requested, and hold it like one that was set externally."""
        try:
            modes = replace(modes, current=self._names.get(self.power_mode or ""))
            mode = resolve(name, modes, measured_modes(self._profile)).mode
            if mode.name != self.power_mode:
                self._set(modes, mode)
        except EdgeError as error:
            on_done(error)
            return
        except Exception as error:  # the requester must get an answer; the top of the thread reports the rest
            on_done(PowerModeError(f"the power mode is left unchanged: {error}"))
            raise
        self._hold(mode.name)
        on_done(mode.name)

    def _hold(self, mode: str) -> None:
        """Keep the governor from leaving a person's mode for a while."""
        if self._governor is not None:
            self._override = mode, now_ns() + int(self._policy.governor.hold_s * 1e9)

    def _override_now(self) -> str | None:
        if self._override is not None and now_ns() >= self._override[1]:
            self._override = None
        return self._override[0] if self._override else None

    def _try_to_set(self, modes: PowerModes, mode: Mode) -> None:
        try:
            self._set(replace(modes, current=self._names.get(self.power_mode or "")), mode)
        except EdgeError as error:
            self._report_fault(str(error))

    def _set(self, modes: PowerModes, mode: Mode) -> None:
        set_mode(modes, mode, jtop=JtopClient())
        self.power_mode = self._own_mode = mode.name
        if self._fault is not None:
            self._fault = None
            self._outlet.report_power_fault(None)

    def _report(self, decision: Decision) -> None:
        """Report a decision if its mode or batches are new, or if it has a notice."""
        before, self._decision = self._decision, decision
        if before is None or decision.notice or _setting(before) != _setting(decision):
            self._outlet.report_decision(decision)

    def _report_fault(self, reason: str) -> None:
        if reason != self._fault:
            self._fault = reason
            log.warning("%s", reason)
            self._outlet.report_power_fault(reason)


def _rules(settings: GovernorSettings, modes: tuple[str, ...]) -> Rules:
    return Rules(
        modes,
        min_dwell_s=settings.min_dwell_s,
        switch_cost_j=settings.switch_cost_j,
        max_switches_per_h=settings.max_switches_per_h,
        max_temperature_c=settings.max_temperature_c,
        low_battery=settings.low_battery,
    )


def _setting(decision: Decision) -> Sequence[object]:
    return decision.mode, decision.max_batch, decision.max_wait_ms
