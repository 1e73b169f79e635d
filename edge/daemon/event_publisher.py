"""Event publisher: messages about results, statuses, alarms and decisions; the pipeline's outlet."""

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
from edge.mqtt.encode import MessageHead, ResultEncoder, to_json
from edge.mqtt.topics import Topics
from edge.pipeline.engine_rebuild import Step
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream
from edge.power.governor import Decision

log = logging.getLogger(__name__)

# Next step after each step of building an engine.
NEXT_STEPS: dict[Step, str] = {
    "building": "an engine is being built in the background; this can take many minutes",
    "verifying": "the new engine is being compared with the serving one on live camera frames",
    "swapping": "the new engine takes over between two batches",
    "serving": "",
    "partly": 'fix the model, or set backend = "onnxruntime" in [models] to silence this alarm',
    "failed": 'fix that and reload, or set backend = "onnxruntime" in [models] to silence this alarm',
}
# A model has at most one of these.
ENGINE_ALARMS = ("engine_fallback", "int8_refused")
LOG_LEVELS: dict[StreamState, int] = {"failed": logging.ERROR, "reconnecting": logging.WARNING}


class DaemonState(Protocol):
    """State of the daemon that its messages contain."""

    @property
    def models(self) -> Mapping[str, ServedModel]: ...

    @property
    def board_state(self) -> BoardState: ...

    @property
    def is_falling_back(self) -> bool:
        """True if a crash loop has other engines serve than the configured ones."""


class EventPublisher:
    """Publishes the messages of one run of the daemon; called from its threads and the pipeline's."""

    def __init__(
        self, daemon: DaemonState, topics: Topics, head: MessageHead, publish: Callable[[Message], None]
    ) -> None:
        """Set up `publish`, which must not wait."""
        self._daemon = daemon
        self._topics = topics
        self._publish = publish
        self._head = head
        self._encoder = ResultEncoder(head)
        self._builds: dict[str, dict[str, Any]] = {}  # progress of each engine that is being built
        self._low_since: dict[str, str] = {}  # models whose agreement is too low → the engine's label
        self._implausible: dict[str, str] = {}  # models with implausible outputs → the engine's label
        self.alarms = Alarms(head)
        self.energy_j: dict[str, float | None] = {}  # per image of each model, in the newest telemetry
        self.on_result: Callable[[Result], None] = lambda _result: None

    # Streams

    def result(self, stream: Stream, result: Result) -> None:
        self.on_result(result)
        topic = self._topics.results(stream.name)
        drops, energy_j = stream.meter.drops(), self.energy_j.get(result.model)
        state = self._daemon.board_state
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
        """Remove what the broker has retained, by an empty message."""
        self._publish(Message(self._topics.stream_status(name), b"", retain=True))

    # Engines

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        """Report the progress of building an engine: in the status, an alarm, and the log."""
        serving = f"{model.engine.label} serves {model.name}"
        is_refused = step == "failed" and model.settings.precision == "int8" and not self._daemon.is_falling_back
        alarm = "int8_refused" if is_refused else "engine_fallback"
        changes = [
            self.alarms.clear(other, serving, model=model.name)
            for other in ENGINE_ALARMS
            if step == "serving" or other != alarm
        ]
        if step == "serving":
            self._builds.pop(model.name, None)
        else:
            self._builds[model.name] = {"step": step, "progress": round(progress, 3), "reason": reason}
            changes.append(self.alarms.set(alarm, f"{serving}: {reason}", _next(alarm, step), model=model.name))
        level = logging.WARNING if step in ("partly", "failed") else logging.INFO
        about = {"model": model.name, "engine": model.engine.label}
        log.log(level, "model %s: %s, %.0f %%", model.name, step, 100 * progress, extra=about)
        self._publish_alarms(changes)
        self.status("online")

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None:
        """Report when the agreement of a serving engine falls below its minimum, or recovers."""
        measured = f"{model.engine.label} agrees to {agreement:.3f} with {model.name} as exported"
        if not is_low:
            if self._low_since.pop(model.name, None) is not None:
                self.alarm(self.alarms.clear("accuracy_low", measured, model=model.name))
        elif self._low_since.get(model.name) != model.engine.label:  # once for an engine, not with every figure
            self._low_since[model.name] = model.engine.label
            reason = f"{measured}, wanted {model.manifest.min_agreement:g} or more"
            step = "quantize again with frames like these"
            self.alarm(self.alarms.set("accuracy_low", reason, step, model=model.name))

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None:
        """Report that an engine fails again and again, and when it has recovered."""
        if fault is None:
            serving = f"{model.engine.label} serves {model.name} again"
            self.alarm(self.alarms.clear("engine_failing", serving, model=model.name))
        else:
            reason = f"{model.engine.label} fails on every batch of {model.name}: {fault}"
            step = f"it is reopened in {pause_s:g} s" if pause_s else "it is reopened now"
            raised = self.alarms.set("engine_failing", reason, step, model=model.name, severity="critical")
            self.alarm(raised)

    def output_implausible(self, model: ServedModel, reason: str | None) -> None:
        """Report outputs that cannot mean what the manifest says, and when there are none any more."""
        if reason is None:
            served = f"the outputs of {model.name} have been plausible for a while"
            self.alarm(self.alarms.clear("output_implausible", served, model=model.name))
        elif self._implausible.get(model.name) != model.engine.label or not self._stands("output_implausible", model):
            # Once for an engine, as each picture has figures of its own.
            self._implausible[model.name] = model.engine.label
            step = "its frames are dropped and counted as errors; correct [output] in model.toml, or draft it again"
            raised = self.alarms.set("output_implausible", reason, step, model=model.name, severity="critical")
            self.alarm(raised)

    def _stands(self, alarm: str, model: ServedModel) -> bool:
        return any((each["alarm"], each["model"]) == (alarm, model.name) for each in self.alarms.standing())

    def drop_settled_builds(self) -> None:
        """Clear the builds and alarms of models that are gone, or have their engine now."""
        waiting = {name for name, model in self._daemon.models.items() if model.missing_reason is not None}
        for name in self._builds.keys() - waiting:
            self._builds.pop(name, None)
            reason = "the configuration has changed"
            self._publish_alarms(self.alarms.clear(alarm, reason, model=name) for alarm in ENGINE_ALARMS)

    # The daemon itself

    def crash_loop(self, reason: str) -> None:
        """Raise the alarm of a crash loop."""
        served = ", ".join(f"{model.engine.label} serves {name}" for name, model in self._daemon.models.items())
        step = f"meanwhile {served or 'nothing is served'}; see why it exited (journalctl -u edge), and fix that"
        self.alarm(self.alarms.set("crash_loop", reason, step, severity="critical"))

    def outbox(self, alarm: str, reason: str | None, step: str) -> None:
        """Raise an alarm of the outbox for a reason, or clear it without one."""
        self.alarm(self.alarms.clear(alarm, step) if reason is None else self.alarms.set(alarm, reason, step))

    def decision(self, decision: Decision) -> None:
        """Publish what the governor decided, and why."""
        log.info("governor: %s", decision.reason)
        body = self._head.stamped() | {
            "power_mode": decision.mode,
            "max_batch": decision.max_batch,
            "max_wait_ms": decision.max_wait_ms,
            "urgent": decision.is_urgent,
            "reason": decision.reason,
        }
        self._publish(Message(self._topics.governor, to_json(body), kind="telemetry"))

    def alarm(self, change: dict[str, Any] | None) -> None:
        """Publish a changed alarm, and the status with all that stand; do nothing for None."""
        if change is not None:
            self._publish_alarms([change])
            self.status("online")

    def _publish_alarms(self, changes: Iterable[dict[str, Any] | None]) -> None:
        for change in changes:
            if change is not None:
                about = {"alarm": change["alarm"], "model": change["model"]}
                level = logging.WARNING if change["state"] == "raised" else logging.INFO
                log.log(level, "alarm %s %s: %s", change["alarm"], change["state"], change["reason"], extra=about)
                self._publish(Message(self._topics.alarms, to_json(change), kind="alarm"))

    def status(self, state: str) -> None:
        engines = {name: model.engine.label for name, model in self._daemon.models.items()}
        self._publish(self._status(state, self._head.stamped(), engines))

    def last_will(self) -> Message:
        """Return what the broker publishes when we are lost; its time cannot be known in advance."""
        return self._status("offline", self._head.fields | {"at": None}, {})

    def _status(self, state: str, head: dict[str, Any], engines: dict[str, str]) -> Message:
        body = head | {
            "state": state,
            "version": __version__,
            "board": board_name(),
            "power_mode": self._daemon.board_state.power_mode,
            "clock_synchronised": clock_synchronised(),
            "engines": engines,
            "builds": dict(self._builds),
            "alarms": self.alarms.standing(),
        }
        return Message(self._topics.status, to_json(body), retain=True)


def _next(alarm: str, step: Step) -> str:
    """Return what happens next, or what to do, for an alarm of an engine."""
    if alarm == "int8_refused":
        return "quantize again with frames like these (edge engines quantize), or set precision to auto"
    return NEXT_STEPS[step]
