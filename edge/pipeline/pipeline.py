"""The models and streams of a configuration at work: starting, going over to another configuration, stopping."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import cv2

from edge.core.clock import now_ns
from edge.core.config import Config, ModelSettings
from edge.core.errors import EdgeError, EngineError, GpuLostError
from edge.core.memory import give_memory_back
from edge.inference.backends.engine import Engine
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.engine_rebuild import Rebuild, Step
from edge.pipeline.engine_recovery import EngineRecovery
from edge.pipeline.lane import Lane
from edge.pipeline.lane_pool import end_lanes, join_lanes, open_lanes, warm_lanes
from edge.pipeline.served_model import ServedModel
from edge.pipeline.shadow import Shadow
from edge.pipeline.stream import Stream, StreamOutlet

log = logging.getLogger(__name__)

# A camera comes back within the time-outs of the calls it may hang in (3 s); the lanes then finish what waits.
CAMERA_STOP_S = 3.2
STOP_S = 4.0
BACKGROUND_STOP_S = 0.5
DRAIN_POLL_S = 0.005


class Outlet(StreamOutlet, Protocol):
    """Where results and all changes go; called from the pipeline's threads."""

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        """Take how far the making of a model's engine is: step, share of the building done, what is the matter."""

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None:
        """Take how well what serves a model agrees with the model as it was exported, 0…1."""

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None:
        """Take that a model's engine fails again and again, and is opened again after a pause; None: no more."""


class Pipeline:
    """The models and streams of a configuration at work."""

    def __init__(self, config: Config, outlet: Outlet, environment: EngineEnvironment) -> None:
        """Open the models and warm their lanes; raise ModelError or ConfigError where something does not fit."""
        cv2.setNumThreads(1)  # the cores belong to the lanes; a picture is too small to share
        self._outlet = outlet
        self._environment = environment
        self._next_seq: dict[str, int] = {}  # of streams that were changed or taken out
        self._changing = threading.Lock()  # of models and lanes, by a new configuration or a new engine
        self._lanes: dict[str, list[Lane]] = {}
        self._rebuilds: dict[str, Rebuild] = {}
        self._shadows: dict[str, Shadow] = {}
        self._mendings: dict[str, EngineRecovery] = {}
        self._accuracy = config.accuracy
        self._is_stopped = False
        self.models: dict[str, ServedModel] = {}
        self.streams: dict[str, Stream] = {}
        self.change(config, start=False)

    def start(self) -> None:
        """Start the cameras, and the making of missing engines."""
        for stream in self.streams.values():
            stream.start()
        self._make_missing_engines()
        self._watch_agreement()

    def change(self, config: Config, *, start: bool = True) -> None:
        """Go over to another configuration; what is the same in both runs on untouched.

        Raises ModelError or ConfigError, with everything as it was, where the new one cannot be served.
        """
        wanted = used_models(config)
        models = {name: model for name, model in self.models.items() if wanted.get(name) == model.settings}
        streams = {
            name: stream
            for name, stream in self.streams.items()
            if config.streams.get(name) == stream.settings and stream.settings.model in models
        }
        lanes: dict[str, list[Lane]] = {}
        added: list[Stream] = []
        try:
            for name in wanted.keys() - models.keys():
                models[name] = ServedModel(name, wanted[name], self._environment)
                lanes[name] = open_lanes(models[name])
            for name, settings in config.streams.items():
                if settings.enabled and name not in streams:
                    added.append(Stream(name, settings, models[settings.model], self._outlet))
        except EdgeError:
            _stop(added, [model for name, model in models.items() if self.models.get(name) is not model], lanes)
            raise
        ended = [stream for name, stream in self.streams.items() if name not in streams]
        with self._changing:
            gone = [model for name, model in self.models.items() if models.get(name) is not model]
            gone_lanes = {model.name: self._lanes[model.name] for model in gone}
            self._lanes = {name: lanes.get(name) or self._lanes[name] for name in models}
            self.models = models
        self._end_background(gone)
        _stop(ended, gone, gone_lanes)
        self._next_seq |= {stream.name: stream.next_seq for stream in ended}
        self.streams = streams | {stream.name: stream for stream in added}
        del ended, gone, gone_lanes
        give_memory_back()
        if start:
            for stream in added:
                stream.start(self._next_seq.get(stream.name, 0))
            self._make_missing_engines()
            self._watch_agreement()

    def stop(self) -> None:
        """Stop the cameras, let the lanes finish what waits, and drop the rest; takes at most `STOP_S`."""
        self._end_background(list(self.models.values()))
        with self._changing:
            models, self._is_stopped = list(self.models.values()), True
        _stop(list(self.streams.values()), models, self._lanes)

    @property
    def has_ended(self) -> bool:
        """Tell whether every source has ended or failed for good and nothing of it is left to do."""
        return bool(self.streams) and all(s.has_ended and not s.meter.in_flight for s in self.streams.values())

    @property
    def lost(self) -> GpuLostError | None:
        """Why only a new process can go on; None where nothing is lost."""
        return next((model.lost for model in self.models.values() if model.lost is not None), None)

    def stuck_lanes(self) -> list[str]:
        """Name the lanes that neither waited for frames nor finished a batch since the last call."""
        return [lane.thread.name for lanes in self._lanes.values() for lane in lanes if not lane.has_progressed()]

    def mend(self) -> None:
        """Look after engines that fail again and again; those that are just being made are left to that."""
        for name, model in self.models.items():
            rebuild = self._rebuilds.get(name)
            if rebuild is not None and rebuild.thread.is_alive():
                continue
            if name not in self._mendings:
                self._mendings[name] = EngineRecovery(model, self._swap, self._outlet.engine_failing)
            self._mendings[name].look(self._lanes.get(name, []))

    def _make_missing_engines(self) -> None:
        for name, model in self.models.items():
            if model.missing_reason is None or name in self._rebuilds:
                continue
            if not model.can_build:
                self._outlet.engine_step(model, "failed", 0.0, model.missing_reason)
                continue
            self._rebuilds[name] = Rebuild(model, self._swap, self._outlet.engine_step)
            self._rebuilds[name].start()

    def _watch_agreement(self) -> None:
        for name, model in self.models.items():
            if self._accuracy.shadow and name not in self._shadows:
                self._shadows[name] = Shadow(model, self._accuracy, self._agreement_told)
                self._shadows[name].start()

    def _agreement_told(self, model: ServedModel, agreement: float) -> None:
        """Tell how well a model agrees with its reference, and go over to that one where it is so configured."""
        is_low = agreement < model.manifest.min_agreement
        self._outlet.agreement(model, agreement, is_low=is_low)
        if is_low and self._accuracy.fallback and not model.predictor.is_reference:
            self._swap(model, model.provider.open_reference())
            model.missing_reason, model.can_build = (
                f"its engine agreed by only {agreement:.3f} with the reference",
                False,
            )
            self._outlet.engine_step(model, "failed", 0.0, model.missing_reason)

    def _end_background(self, models: Sequence[ServedModel]) -> None:
        """End what is done for models that go beside serving them: the making of engines, the watching of agreement."""
        rebuilds = [self._rebuilds.pop(model.name) for model in models if model.name in self._rebuilds]
        shadows = [self._shadows.pop(model.name) for model in models if model.name in self._shadows]
        mendings = [self._mendings.pop(model.name) for model in models if model.name in self._mendings]
        for rebuild in rebuilds:
            rebuild.cancel()
        for shadow in shadows:
            shadow.stop()
        for mending in mendings:
            mending.stop()
        by_ns = now_ns() + int(BACKGROUND_STOP_S * 1e9)
        threads = [each.thread for each in rebuilds] + [each.thread for each in shadows]
        for thread in threads + [each.thread for each in mendings if each.thread is not None]:
            thread.join(max(0.0, (by_ns - now_ns()) / 1e9))

    def _swap(self, model: ServedModel, engine: Engine) -> None:
        """Bring a new engine into service: its lanes are warm before the others go, so no frame waits for it."""
        predictor = model.predictor.with_engine(engine)
        lanes = warm_lanes(model, predictor)
        with self._changing:
            if self.models.get(model.name) is not model or self._is_stopped:
                end_lanes(model, lanes)
                raise EngineError(f"model {model.name} has gone meanwhile")
            former, former_lanes = model.engine, self._lanes[model.name]
            self._lanes[model.name] = lanes
            model.adopt(predictor, len(lanes))
        if end_lanes(model, former_lanes):
            former.close()
        log.info("model %s: engine %s serves, in place of %s", model.name, engine.label, former.label)


def used_models(config: Config) -> dict[str, ModelSettings]:
    """Return the models that an enabled stream uses; only these are opened."""
    names = {stream.model for stream in config.streams.values() if stream.enabled}
    return {name: settings for name, settings in config.models.items() if name in names}


def _stop(streams: list[Stream], models: list[ServedModel], lanes: Mapping[str, list[Lane]]) -> None:
    """End streams and models within `STOP_S`: cameras first, then what waits is served, then the rest is dropped."""
    cameras_by_ns, lanes_by_ns = now_ns() + int(CAMERA_STOP_S * 1e9), now_ns() + int(STOP_S * 1e9)
    for stream in streams:
        stream.ask_to_stop()
    for stream in streams:
        stream.join(cameras_by_ns)
    while any(stream.meter.in_flight and stream.is_served for stream in streams) and now_ns() < lanes_by_ns:
        time.sleep(DRAIN_POLL_S)
    for stream in streams:
        stream.discard()
    for model in models:
        model.batcher.close()
    for model in models:
        if join_lanes(lanes.get(model.name, []), lanes_by_ns):
            model.close()
