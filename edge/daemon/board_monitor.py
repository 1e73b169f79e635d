"""The board while the daemon serves: measured, held in its power mode, and told when it slows itself down."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import psutil

from edge.core.clock import now_ns
from edge.core.records import BoardState
from edge.core.tuned_profile import Profile
from edge.daemon.alarms import Alarms
from edge.host.sensors.sensors import SensorReading, Sensors
from edge.pipeline.stream import Stream
from edge.power.controller import ModeCallback, PowerController, PowerPolicy
from edge.power.governor import Decision, GovernorInput, StreamLoad

Change = dict[str, Any]  # the message of an alarm


class BoardMonitor:
    """Sensors and power mode of the board, and the alarms that are about them."""

    def __init__(
        self,
        wanted: PowerPolicy,
        alarms: Alarms,
        told: Callable[[Change], None],
        decided: Callable[[Decision], None],
    ) -> None:
        """Take who hears of changed alarms, and who of the governor's decisions."""
        self.state = BoardState()
        self._sensors = Sensors()
        self._alarms = alarms
        self._told = told
        self._decided = decided
        self._steering = PowerController(wanted, self)
        self._is_governed = wanted.governor.enabled
        self._reading: SensorReading | None = None

    def start(self, profile: Profile | None) -> None:
        """Begin, with what was measured on this board."""
        self._sensors.start()
        self._steering.start(profile)

    def stop(self) -> None:
        self._steering.stop()
        self._sensors.stop()

    @property
    def power_modes(self) -> tuple[str, ...]:
        """The modes that can be asked for; none where the board has none."""
        return self._steering.mode_names

    def ask_power_mode(self, mode: str, told: ModeCallback) -> None:
        """Have a mode set that a person wants; see `PowerController.request_mode`."""
        self._steering.request_mode(mode, told)

    def look(self) -> None:
        """Take over what is stamped on results; quick, and waits for nothing."""
        state = BoardState(self._steering.power_mode, self._sensors.latest().throttled)
        if state != self.state:
            self.state = state

    def read(self, images: int) -> SensorReading:
        """Return the period that ends now, in which so many images were inferred; tell what is alarming in it."""
        before, self._reading = self._reading, self._sensors.read(images, self._steering.power_mode)
        self._tell_throttled(self._reading)
        if before is not None:
            self._tell_over_current(before.over_current_events, self._reading.over_current_events)
        return self._reading

    def steer(self, streams: Iterable[Stream], period_s: float) -> None:
        """Let the governor, where there is one, see the period that was read last."""
        board = self._reading
        if board is not None and self._is_governed:
            self._steering.observe(
                GovernorInput(
                    time_s=now_ns() / 1e9,
                    mode=None,  # the steering knows
                    streams=tuple(_seen(stream, period_s) for stream in streams),
                    power_w=board.power_w,
                    temperature_c=board.conditions.hottest_c,
                    is_throttled=board.throttled,
                    battery=_battery(),
                )
            )

    def report_power_fault(self, reason: str | None) -> None:
        """Raise or clear the alarm that the power mode is not as it is wanted."""
        if reason is None:
            self._tell(self._alarms.cleared("power_mode", f"power mode {self._steering.power_mode} is set"))
        else:
            step = "the board stays in the mode that it is in; edge power show tells which there are"
            self._tell(self._alarms.raised("power_mode", reason, step))

    def report_decision(self, decision: Decision) -> None:
        """Hand on what the governor decided; raise or clear the alarm that no mode is enough."""
        self._decided(decision)
        if decision.notice is not None:
            step = "ask for fewer images, allow a longer latency, or allow more modes in [governor]"
            self._tell(self._alarms.raised("target_missed", decision.notice, step))
        else:
            self._tell(self._alarms.cleared("target_missed", decision.reason))

    def _tell_throttled(self, board: SensorReading) -> None:
        if board.throttled:
            reason = f"the board slows itself down: {', '.join(board.slowed_by or ())}"
            step = "cool it, or choose a lower power mode; results say whether they were throttled"
            self._tell(self._alarms.raised("throttled", reason, step))
        elif board.throttled is False:
            self._tell(self._alarms.cleared("throttled", "the board runs as fast as its power mode lets it"))

    def _tell_over_current(self, before: int | None, events: int | None) -> None:
        if before is None or events is None:
            return
        if events > before:
            reason = f"{events - before} over-current events in the newest period, {events} since the daemon started"
            step = "choose a lower power mode, or a stronger supply"
            self._tell(self._alarms.raised("over_current", reason, step))
        else:
            self._tell(self._alarms.cleared("over_current", "no over-current event in the newest period"))

    def _tell(self, change: Change | None) -> None:
        if change is not None:
            self._told(change)


def _seen(stream: Stream, period_s: float) -> StreamLoad:
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
    """Return the share of the charge, None where there is no battery or the mains feed the board."""
    battery = psutil.sensors_battery()
    return None if battery is None or battery.power_plugged else battery.percent / 100
