"""Board monitor: sensor readings, power mode, and the alarms about them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psutil

from edge.core.clock import now_ns
from edge.core.records import BoardState
from edge.core.tuned_profile import TunedProfile
from edge.daemon.alarms import Alarms
from edge.host.sensors.sensors import SensorReading, Sensors
from edge.pipeline.stream import Stream
from edge.power.controller import ModeCallback, PowerController, PowerPolicy
from edge.power.governor import Decision, GovernorInput, StreamLoad

Change = dict[str, Any]  # the message of an alarm


class BoardMonitor:
    """Reads the sensors, controls the power mode, and raises the alarms about both."""

    def __init__(
        self,
        policy: PowerPolicy,
        alarms: Alarms,
        on_alarm: Callable[[Change], None],
        on_decision: Callable[[Decision], None],
    ) -> None:
        """Set up the callbacks for changed alarms and for the governor's decisions."""
        self.state = BoardState()
        self._sensors = Sensors()
        self._alarms = alarms
        self._on_alarm = on_alarm
        self._on_decision = on_decision
        self._power_controller = PowerController(policy, self)
        self._is_governed = policy.governor.enabled
        self._reading: SensorReading | None = None

    def start(self, profile: TunedProfile | None) -> None:
        """Begin, with the profile that was measured on this board."""
        self._sensors.start()
        self._power_controller.start(profile)

    def stop(self) -> None:
        self._power_controller.stop()
        self._sensors.stop()

    @property
    def power_modes(self) -> tuple[str, ...]:
        """Modes that can be requested; empty if the board has none."""
        return self._power_controller.mode_names

    def ask_power_mode(self, mode: str, on_mode: ModeCallback) -> None:
        """Request a mode on behalf of a person; see `PowerController.request_mode`."""
        self._power_controller.request_mode(mode, on_mode)

    def update(self) -> None:
        """Update the state that is stamped on results; waits for nothing."""
        state = BoardState(self._power_controller.power_mode, self._sensors.latest().throttled)
        if state != self.state:
            self.state = state

    def read(self, images: int) -> SensorReading:
        """Return the period that ends now, in which so many images were inferred, and raise its alarms."""
        before, self._reading = self._reading, self._sensors.read(images, self._power_controller.power_mode)
        self._check_throttling(self._reading)
        if before is not None:
            self._check_over_current(before.over_current_events, self._reading.over_current_events)
        return self._reading

    def govern(self, streams: Iterable[Stream], period_s: float) -> None:
        """Pass the period that was read last to the governor, if there is one."""
        board = self._reading
        if board is not None and self._is_governed:
            self._power_controller.observe(
                GovernorInput(
                    time_s=now_ns() / 1e9,
                    mode=None,  # the controller knows
                    streams=tuple(_observe(stream, period_s) for stream in streams),
                    power_w=board.power_w,
                    temperature_c=board.conditions.hottest_c,
                    is_throttled=board.throttled,
                    battery=_battery(),
                )
            )

    def report_power_fault(self, reason: str | None) -> None:
        """Raise or clear the alarm that the power mode is not the configured one."""
        if reason is None:
            self._report(self._alarms.clear("power_mode", f"power mode {self._power_controller.power_mode} is set"))
        else:
            step = "the board stays in its current mode; edge power show lists the modes"
            self._report(self._alarms.set("power_mode", reason, step))

    def report_decision(self, decision: Decision) -> None:
        """Forward the governor's decision; raise or clear the alarm that no mode is sufficient."""
        self._on_decision(decision)
        if decision.notice is not None:
            step = "request fewer images, allow a longer latency, or allow more modes in [governor]"
            self._report(self._alarms.set("target_missed", decision.notice, step))
        else:
            self._report(self._alarms.clear("target_missed", decision.reason))

    def _check_throttling(self, board: SensorReading) -> None:
        if board.throttled:
            reason = f"the board throttles itself: {', '.join(board.slowed_by or ())}"
            step = "improve the cooling, or choose a lower power mode; each result says whether it was throttled"
            self._report(self._alarms.set("throttled", reason, step))
        elif board.throttled is False:
            self._report(self._alarms.clear("throttled", "the board runs at the full speed of its power mode"))

    def _check_over_current(self, before: int | None, events: int | None) -> None:
        if before is None or events is None:
            return
        if events > before:
            reason = f"{events - before} over-current events in the last period, {events} since the daemon started"
            step = "choose a lower power mode, or a stronger power supply"
            self._report(self._alarms.set("over_current", reason, step))
        else:
            self._report(self._alarms.clear("over_current", "no over-current event in the last period"))

    def _report(self, change: Change | None) -> None:
        if change is not None:
            self._on_alarm(change)


def _observe(stream: Stream, period_s: float) -> StreamLoad:
    pace = stream.meter.period
    return StreamLoad(
        stream.name,
        stream.settings.target_p99_ms,
        pace.p99_ms,
        pace.frames / period_s,
        pace.found / period_s,
        pace.late / pace.frames if pace.frames else None,
    )


def _battery() -> float | None:
    """Return the battery charge as a fraction; None without a battery, or on mains power."""
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged else battery.percent / 100
