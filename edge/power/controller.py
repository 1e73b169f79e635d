"""The board's power mode while the daemon serves: as configured, or as the governor decides.

Reading and setting a mode starts programs and asks services, which can take seconds: so this is a thread of its own.
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
from edge.core.tuned_profile import Profile, measured_modes
from edge.power.edge_power import Mode
from edge.power.governor import Decision, Governor, GovernorInput, Rules
from edge.power.jtop import JtopClient
from edge.power.mode_selection import ascending, resolve
from edge.power.modes import PowerModeError, PowerModes, read_modes, set_mode

log = logging.getLogger(__name__)

POLL_S = 1.0
# What is being set when the daemon ends is brought to its end by edge-power.
STOP_S = 0.5


# Hears which mode the board is in now, or why it is not the one that was asked for.
ModeTold = Callable[[str | EdgeError], None]


class PowerControlOutlet(Protocol):
    """Who hears of changes; called from the thread of the steering."""

    def power_trouble(self, reason: str | None) -> None:
        """Take why the power mode is not as it is wanted; None: it is again."""

    def decided(self, decision: Decision) -> None:
        """Take what the governor wants from now on: also the batches that fit the mode."""


@dataclass(frozen=True)
class PowerPolicy:
    """What the configuration says of power modes."""

    power_mode: str  # max-q, max-p, keep, a name or an id
    governor: GovernorSettings


class PowerController:
    """Holds the board in the power mode that is wanted."""

    def __init__(self, wanted: PowerPolicy, outlet: PowerControlOutlet) -> None:
        self.power_mode: str | None = None  # that the board is in; None where it has none, or it cannot be told
        self.mode_names: tuple[str, ...] = ()  # that can be asked for
        self._wanted = wanted
        self._outlet = outlet
        self._governor: Governor | None = None
        self._profile: Profile | None = None
        self._names: Mapping[str, Mode] = {}
        self._seen: GovernorInput | None = None  # not looked at yet
        self._ours: str | None = None  # the mode that was set from here, or was there at the start
        self._held: tuple[str, int] | None = None  # a mode that a person set, and until when it stays
        self._told: Decision | None = None
        self._asked: tuple[str, ModeTold] | None = None  # by a person, not looked at yet
        self._missing_reason = "the power modes are not read yet; send it again in a moment"
        self._trouble: str | None = None
        self._stopped = False
        self._wake = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="power", daemon=True)

    def start(self, profile: Profile | None = None) -> None:
        """Begin, with what was measured here."""
        self._profile = profile
        self._thread.start()

    def stop(self) -> None:
        with self._wake:
            self._stopped, self._missing_reason = True, "the daemon stops"
            self._wake.notify()
        self._thread.join(STOP_S)

    def observe(self, snapshot: GovernorInput) -> None:
        """Hand over how things are; the newest is looked at, those before it are passed over."""
        with self._wake:
            self._seen = snapshot
            self._wake.notify()

    def ask(self, mode: str, told: ModeTold) -> None:
        """Have a mode set that a person wants; `told` hears of it from the thread, and nobody where this raises.

        Raises PowerModeError where there are no modes, or another one is being asked for.
        """
        with self._wake:
            if self._stopped or not self.mode_names:
                raise PowerModeError(self._missing_reason)
            if self._asked is not None:
                raise PowerModeError("another power mode is being set; send it again when that is done")
            self._asked = mode, told
            self._wake.notify()

    def _run(self) -> None:
        try:
            modes = self._open()
            if modes is not None:
                self.mode_names = tuple(each.name for each in modes.modes if modes.reachable(each) is not False)
            while modes is not None and self._wait():
                self._look(modes)
        # The top of a thread: whatever failed, the daemon serves on in the mode that the board is in.
        except Exception as error:
            log.exception("the power mode is left as it is from now on")
            self._missing_reason = f"the power mode is left as it is: {error}"
            self._complain(self._missing_reason)
        with self._wake:
            self.mode_names = ()
            asked, self._asked = self._asked, None
        if asked is not None:
            asked[1](PowerModeError(self._missing_reason))

    def _open(self) -> PowerModes | None:
        """Read the modes and set the one that is configured; None where there is nothing to do any more."""
        wanted = self._wanted
        try:
            modes = read_modes()
        except EdgeError as error:
            self._missing_reason = str(error)
            self._complain(str(error))
            return None
        if modes is None:
            self._missing_reason = "this is not a Jetson: it has no power modes"
            if wanted.power_mode != "keep" or wanted.governor.enabled:
                self._complain("this is not a Jetson: it has no power modes; set power_mode to keep, and no governor")
            return None
        self._names = {mode.name: mode for mode in modes.modes}
        self.power_mode = self._ours = modes.current.name if modes.current else None
        if wanted.power_mode != "keep":
            try:
                choice = resolve(wanted.power_mode, modes, measured_modes(self._profile))
                log.info("power_mode %s is %s: %s", wanted.power_mode, choice.mode.shown, choice.reason)
                self._set(modes, choice.mode)
            except EdgeError as error:
                self._complain(str(error))
        if wanted.governor.enabled:
            self._open_governor(modes)
        return modes

    def _open_governor(self, modes: PowerModes) -> None:
        settings = self._wanted.governor
        try:
            allowed = [resolve(name, modes).mode for name in settings.modes] or list(modes.modes)
        except EdgeError as error:
            self._complain(f"[governor] modes: {error}")
            return
        far = [mode.name for mode in allowed if modes.reachable(mode) is False]
        if far:
            log.info("the governor leaves out %s: a reboot is needed for it", ", ".join(far))
        near = tuple(mode.name for mode in ascending(allowed) if mode.name not in far)
        if not near:
            self._complain("[governor] modes: none of them is within reach without a reboot; allow others")
            return
        profile = self._profile if self._profile is not None and self._profile.is_saturated else None
        if profile is None:
            log.info("the governor goes step by step: edge tune --saturate has measured nothing here for it to go by")
        self._governor = Governor(_rules(settings, near), profile)

    def _wait(self) -> bool:
        """Wait until there is something to look at, at most for a while; False when it is time to stop."""
        with self._wake:
            if self._seen is None and self._asked is None and not self._stopped:
                self._wake.wait(POLL_S)
            return not self._stopped

    def _look(self, modes: PowerModes) -> None:
        stored = modes.stored()
        with self._wake:
            seen, self._seen = self._seen, None
            asked, self._asked = self._asked, None
        if stored is not None and stored.name != self.power_mode:
            self._changed_elsewhere(stored.name)
        if asked is not None:
            self._set_for_person(modes, *asked)
        if self._governor is not None and seen is not None:
            decision = self._governor.decide(replace(seen, mode=self.power_mode, override=self._override()))
            self._tell(decision)
            if decision.mode is not None and decision.mode != self.power_mode:
                self._try_to_set(modes, self._names[decision.mode])

    def _changed_elsewhere(self, mode: str) -> None:
        hold_s = self._wanted.governor.hold_s
        log.info("power mode %s was set by another hand, in place of %s", mode, self.power_mode)
        self.power_mode = mode
        if self._governor is not None and mode != self._ours:
            self._held = mode, now_ns() + int(hold_s * 1e9)

    def _set_for_person(self, modes: PowerModes, wanted: str, told: ModeTold) -> None:
        """Set what a person asked for, and leave it for as long as one that was set by hand."""
        try:
            modes = replace(modes, current=self._names.get(self.power_mode or ""))
            mode = resolve(wanted, modes, measured_modes(self._profile)).mode
            if mode.name != self.power_mode:
                self._set(modes, mode)
        except EdgeError as error:
            told(error)
            return
        except Exception as error:  # who asked is waited for no longer; the thread's top tells the rest
            told(PowerModeError(f"the power mode is left as it is: {error}"))
            raise
        if self._governor is not None:
            self._held = mode.name, now_ns() + int(self._wanted.governor.hold_s * 1e9)
        told(mode.name)

    def _override(self) -> str | None:
        if self._held is not None and now_ns() >= self._held[1]:
            self._held = None
        return self._held[0] if self._held else None

    def _try_to_set(self, modes: PowerModes, mode: Mode) -> None:
        try:
            self._set(replace(modes, current=self._names.get(self.power_mode or "")), mode)
        except EdgeError as error:
            self._complain(str(error))

    def _set(self, modes: PowerModes, mode: Mode) -> None:
        set_mode(modes, mode, jtop=JtopClient())
        self.power_mode = self._ours = mode.name
        if self._trouble is not None:
            self._trouble = None
            self._outlet.power_trouble(None)

    def _tell(self, decision: Decision) -> None:
        """Tell what is new: a mode, batches, something that a person should know."""
        before, self._told = self._told, decision
        if before is None or decision.notice or _said(before) != _said(decision):
            self._outlet.decided(decision)

    def _complain(self, reason: str) -> None:
        if reason != self._trouble:
            self._trouble = reason
            log.warning("%s", reason)
            self._outlet.power_trouble(reason)


def _rules(settings: GovernorSettings, modes: tuple[str, ...]) -> Rules:
    return Rules(
        modes,
        min_dwell_s=settings.min_dwell_s,
        switch_cost_j=settings.switch_cost_j,
        max_switches_per_h=settings.max_switches_per_h,
        max_temperature_c=settings.max_temperature_c,
        low_battery=settings.low_battery,
    )


def _said(decision: Decision) -> Sequence[object]:
    return decision.mode, decision.max_batch, decision.max_wait_ms
