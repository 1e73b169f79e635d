"""What the daemon says of itself: results, statuses, alarms, decisions; the pipeline's outlet."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from edge import __version__
from edge.core.clock import clock_synchronised, utc_text, wall_ns
from edge.core.config import StreamSettings
from edge.core.records import BoardState, Message, Result, StreamState
from edge.daemon.alarms import Alarms
from edge.host.board import board_name
from edge.mqtt.encode import ResultEncoder, to_json
from edge.mqtt.topics import Topics
from edge.pipeline.engine_rebuild import Step
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream
from edge.power.governor import Decision

log = logging.getLogger(__name__)

# What comes after each step of the making of an engine.
NEXT_STEPS: dict[Step, str] = {
    "building": "an engine is being built in the background; this can take many minutes",
    "verifying": "the new engine is held against the one that serves, on frames of the cameras",
    "swapping": "the new engine takes over between two batches",
    "serving": "",
    "partly": 'correct the model, or set backend = "onnxruntime" in [models] to be told no more of it',
    "failed": 'correct that and reload, or set backend = "onnxruntime" in [models] to be told no more of it',
}
# Those of which a model has at most one.
ENGINE_ALARMS = ("engine_fallback", "int8_refused")
LOG_LEVELS: dict[StreamState, int] = {"failed": logging.ERROR, "reconnecting": logging.WARNING}


class DaemonState(Protocol):
    """What of the daemon stands in what it says."""

    @property
    def models(self) -> Mapping[str, ServedModel]: ...

    @property
    def board_state(self) -> BoardState: ...

    @property
    def is_falling_back(self) -> bool:
        """Whether a crash loop has it serve with something else than what is wanted."""


class EventPublisher:
    """Makes the messages of one run of the daemon; called from its threads and the pipeline's."""

    def __init__(self, told: DaemonState, topics: Topics, boot: str, publish: Callable[[Message], None]) -> None:
        """Take `publish`, which must not wait."""
        self._told = told
        self._topics = topics
        self._publish = publish
        self.head = {"v": 1, "device": topics.device, "boot": boot}  # which every message begins with
        self._encoder = ResultEncoder(topics.device, boot)
        self._builds: dict[str, dict[str, Any]] = {}  # progress of each engine that is being made
        self._low_since: dict[str, str] = {}  # models whose agreement is too low, with the engine's label
        self.alarms = Alarms(topics.device, boot)
        self.energy_j: dict[str, float | None] = {}  # of an image of each model, in the newest telemetry
        self.on_result: Callable[[Result], None] = lambda _result: None

    # Streams

    def result(self, stream: Stream, result: Result) -> None:
        self.on_result(result)
        topic = self._topics.results(stream.name)
        drops, energy_j = stream.meter.drops(), self.energy_j.get(result.model)
        state = self._told.board_state
        self._publish(self._encoder.encode(result, topic, stream.settings.qos, drops, state, energy_j))

    def stream_state(self, stream: Stream, reason: str | None) -> None:
        log.log(
            LOG_LEVELS.get(stream.state, logging.INFO),
            "stream %s is %s%s",
            stream.name,
            stream.state,
            f": {reason}" if reason else "",
            extra={"stream": stream.name},
        )
        self.stream_status(stream.name, stream.state, reason, stream.settings)

    def stream_status(self, name: str, state: StreamState, reason: str | None, settings: StreamSettings) -> None:
        body = {"v": 1, "state": state, "reason": reason, "at": utc_text(wall_ns()), "source": settings.source.shown}
        self._publish(Message(self._topics.stream_status(name), to_json(body), retain=True))

    def stream_gone(self, name: str) -> None:
        """Take away what the broker has retained: an empty message does."""
        self._publish(Message(self._topics.stream_status(name), b"", retain=True))

    # Engines

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        """Tell how far the making of an engine is: in the status, in an alarm, and in the log."""
        told = f"{model.engine.label} serves {model.name}"
        is_refused = step == "failed" and model.settings.precision == "int8" and not self._told.is_falling_back
        alarm = "int8_refused" if is_refused else "engine_fallback"
        changes = [
            self.alarms.cleared(other, told, model=model.name)
            for other in ENGINE_ALARMS
            if step == "serving" or other != alarm
        ]
        if step == "serving":
            self._builds.pop(model.name, None)
        else:
            self._builds[model.name] = {"step": step, "progress": round(progress, 3), "reason": reason}
            changes.append(self.alarms.raised(alarm, f"{told}: {reason}", _next(alarm, step), model=model.name))
        level = logging.WARNING if step in ("partly", "failed") else logging.INFO
        about = {"model": model.name, "engine": model.engine.label}
        log.log(level, "model %s: %s, %.0f %%", model.name, step, 100 * progress, extra=about)
        self._tell(changes)
        self.status("online")

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None:
        """Tell when what serves a model falls below, or comes back to, the agreement that is wanted."""
        told = f"{model.engine.label} agrees by {agreement:.3f} with {model.name} as it was exported"
        if not is_low:
            if self._low_since.pop(model.name, None) is not None:
                self.alarm(self.alarms.cleared("accuracy_low", told, model=model.name))
        elif self._low_since.get(model.name) != model.engine.label:  # told once for an engine, not with each figure
            self._low_since[model.name] = model.engine.label
            reason = f"{told}, wanted {model.manifest.min_agreement:g} or more"
            step = "quantize again with frames like these"
            self.alarm(self.alarms.raised("accuracy_low", reason, step, model=model.name))

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None:
        """Tell that an engine fails again and again, and when it is well again."""
        if fault is None:
            told = f"{model.engine.label} serves {model.name} again"
            self.alarm(self.alarms.cleared("engine_failing", told, model=model.name))
        else:
            reason = f"{model.engine.label} fails at each batch of {model.name}: {fault}"
            step = f"it is opened again in {pause_s:g} s" if pause_s else "it is opened again now"
            raised = self.alarms.raised("engine_failing", reason, step, model=model.name, severity="critical")
            self.alarm(raised)

    def drop_settled_builds(self) -> None:
        """Clear what stood for models that are gone, or have their engine now."""
        waiting = {name for name, model in self._told.models.items() if model.missing_reason is not None}
        for name in self._builds.keys() - waiting:
            self._builds.pop(name, None)
            told = "the configuration has changed"
            self._tell(self.alarms.cleared(alarm, told, model=name) for alarm in ENGINE_ALARMS)

    # The daemon itself

    def crash_loop(self, told: str) -> None:
        served = ", ".join(f"{model.engine.label} serves {name}" for name, model in self._told.models.items())
        step = f"meanwhile {served or 'nothing is served'}; see why it ended (journalctl -u edge), and mend that"
        self.alarm(self.alarms.raised("crash_loop", told, step, severity="critical"))

    def outbox(self, alarm: str, reason: str | None, step: str) -> None:
        """Tell of an alarm of the outbox: raised for a reason, else cleared."""
        raised, cleared = self.alarms.raised, self.alarms.cleared
        self.alarm(cleared(alarm, step) if reason is None else raised(alarm, reason, step))

    def decision(self, decision: Decision) -> None:
        """Tell what the governor decided, and why."""
        log.info("governor: %s", decision.reason)
        body = self.head | {
            "at": utc_text(wall_ns()),
            "power_mode": decision.mode,
            "max_batch": decision.max_batch,
            "max_wait_ms": decision.max_wait_ms,
            "urgent": decision.is_urgent,
            "reason": decision.reason,
        }
        self._publish(Message(self._topics.governor, to_json(body), kind="telemetry"))

    def alarm(self, change: dict[str, Any] | None) -> None:
        """Tell of an alarm, and in the status of all that stand; None where nothing has changed."""
        if change is not None:
            self._tell([change])
            self.status("online")

    def _tell(self, changes: Iterable[dict[str, Any] | None]) -> None:
        for change in changes:
            if change is not None:
                about = {"alarm": change["alarm"], "model": change["model"]}
                level = logging.WARNING if change["state"] == "raised" else logging.INFO
                log.log(level, "alarm %s %s: %s", change["alarm"], change["state"], change["reason"], extra=about)
                self._publish(Message(self._topics.alarms, to_json(change), kind="alarm"))

    def status(self, state: str) -> None:
        engines = {name: model.engine.label for name, model in self._told.models.items()}
        self._publish(self._status(state, utc_text(wall_ns()), engines))

    def last_will(self) -> Message:
        """Return what the broker says for us when we are lost; when that is, we cannot know."""
        return self._status("offline", None, {})

    def _status(self, state: str, at: str | None, engines: dict[str, str]) -> Message:
        body = self.head | {
            "state": state,
            "at": at,
            "version": __version__,
            "board": board_name(),
            "power_mode": self._told.board_state.power_mode,
            "clock_synchronised": clock_synchronised(),
            "engines": engines,
            "builds": dict(self._builds),
            "alarms": self.alarms.standing(),
        }
        return Message(self._topics.status, to_json(body), retain=True)


def _next(alarm: str, step: Step) -> str:
    """Return what comes next, or is to be done, for an alarm of an engine."""
    if alarm == "int8_refused":
        return "quantize again with frames like these (edge engines quantize), or set precision to auto"
    return NEXT_STEPS[step]
