"""Pipeline: the models and streams of a configuration, their start, change and stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Protocol

import cv2

from edge.capture.picture_memory import PictureMemory
from edge.core.clock import now_ns
from edge.core.config import Config, ModelSettings
from edge.core.errors import EdgeError, EngineError, GpuLostError
from edge.core.process import trim_heap
from edge.inference.backends.engine import Engine
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.engine_rebuild import EngineRebuild, Step
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
PLAUSIBLE_AGAIN_S = 60.0  # without an implausible output
DRAIN_POLL_S = 0.005


class Outlet(StreamOutlet, Protocol):
    """Destination of results and of all changes; called from the pipeline's threads."""

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        """Report the rebuild of a model's engine: step, fraction of the build, and why it is made or has failed."""

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None:
        """Report the agreement, 0…1, of a model's serving engine with the exported model."""

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None:
        """Report that a model's engine fails repeatedly and is reopened after a pause; fault None: it has recovered."""

    def output_implausible(self, model: ServedModel, reason: str | None) -> None:
        """Report that a model's outputs cannot mean what its manifest says; reason None: they do again."""


class Pipeline:
    """Runs the models and streams of a configuration."""

    def __init__(self, config: Config, outlet: Outlet, environment: EngineEnvironment) -> None:
        """Open the models and warm their lanes; raise ModelError or ConfigError where something does not fit."""
        cv2.setNumThreads(1)  # the cores belong to the lanes; a picture is too small to divide
        self._outlet = outlet
        self._environment = environment
        self._next_seq: dict[str, int] = {}  # of streams that were changed or taken out
        self._changing = threading.Lock()  # of models and lanes, by a new configuration or a new engine
        self._lanes: dict[str, list[Lane]] = {}
        self._rebuilds: dict[str, EngineRebuild] = {}
        self._shadows: dict[str, Shadow] = {}
        self._recoveries: dict[str, EngineRecovery] = {}
        self._accuracy = config.accuracy
        limit_mb = config.device.picture_memory_mb
        self._memory = PictureMemory(None if limit_mb == "auto" else limit_mb)
        self._is_stopped = False
        self.models: dict[str, ServedModel] = {}
        self.streams: dict[str, Stream] = {}
        self.change(config, start=False)

    def start(self) -> None:
        """Start the cameras, and the rebuild of missing engines."""
        for stream in self.streams.values():
            stream.start()
        self._rebuild_missing_engines()
        self._start_shadows()

    def change(self, config: Config, *, start: bool = True) -> None:
        """Switch to another configuration; models and streams that are the same in both keep running.

        Raises ModelError or ConfigError, with everything as before, where the new one cannot be served.
        """
        needed = used_models(config)
        models = {name: model for name, model in self.models.items() if needed.get(name) == model.settings}
        streams = {
            name: stream
            for name, stream in self.streams.items()
            if config.streams.get(name) == stream.settings and stream.settings.model in models
        }
        lanes: dict[str, list[Lane]] = {}
        added: list[Stream] = []
        try:
            for name in needed.keys() - models.keys():
                models[name] = ServedModel(name, needed[name], self._environment)
                lanes[name] = open_lanes(models[name])
            for name, settings in config.streams.items():
                if settings.enabled and name not in streams:
                    added.append(Stream(name, settings, models[settings.model], self._outlet, self._memory))
            served = [*streams.values(), *added]
            self._memory.check({stream.name: stream.expected_bytes for stream in served if stream.expected_bytes})
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
        trim_heap()
        if start:
            for stream in added:
                stream.start(self._next_seq.get(stream.name, 0))
            self._rebuild_missing_engines()
            self._start_shadows()

    def stop(self) -> None:
        """Stop the cameras, let the lanes finish what waits, and drop the rest; takes at most `STOP_S`."""
        self._end_background(list(self.models.values()))
        with self._changing:
            models, self._is_stopped = list(self.models.values()), True
        _stop(list(self.streams.values()), models, self._lanes)

    @property
    def has_ended(self) -> bool:
        """True where every source has ended or failed for good, and all its frames are settled."""
        return bool(self.streams) and all(s.has_ended and not s.meter.in_flight for s in self.streams.values())

    @property
    def lost(self) -> GpuLostError | None:
        """The loss of a GPU, after which only a new process can go on; None without one."""
        return next((model.lost for model in self.models.values() if model.lost is not None), None)

    def stuck_lanes(self) -> list[str]:
        """Return the names of lanes that neither waited for frames nor finished a batch since the last call."""
        return [lane.thread.name for lanes in self._lanes.values() for lane in lanes if not lane.has_progressed()]

    def recover_engines(self) -> None:
        """Reopen engines that fail repeatedly; a model whose engine is being rebuilt is left to that."""
        for name, model in self.models.items():
            rebuild = self._rebuilds.get(name)
            if rebuild is not None and rebuild.thread.is_alive():
                continue
            if name not in self._recoveries:
                self._recoveries[name] = EngineRecovery(model, self._swap, self._outlet.engine_failing)
            self._recoveries[name].tick(self._lanes.get(name, []))

    def check_outputs(self) -> None:
        """Report models with implausible outputs, and those that have had none for a while."""
        for model in self.models.values():
            found = model.implausible
            if found is None:
                continue
            if (now_ns() - found.at_ns) / 1e9 < PLAUSIBLE_AGAIN_S:
                self._outlet.output_implausible(model, found.reason)
            else:
                model.implausible = None
                self._outlet.output_implausible(model, None)

    def _rebuild_missing_engines(self) -> None:
        for name, model in self.models.items():
            if model.missing_reason is None or name in self._rebuilds:
                continue
            if not model.can_build:
                self._outlet.engine_step(model, "failed", 0.0, model.missing_reason)
                continue
            self._rebuilds[name] = EngineRebuild(model, self._swap, self._outlet.engine_step)
            self._rebuilds[name].start()

    def _start_shadows(self) -> None:
        for name, model in self.models.items():
            if self._accuracy.shadow and name not in self._shadows:
                self._shadows[name] = Shadow(model, self._accuracy, self._check_agreement)
                self._shadows[name].start()

    def _check_agreement(self, model: ServedModel, agreement: float) -> None:
        """Report how well a model agrees with its reference, and switch to that one where so configured."""
        is_low = agreement < model.manifest.min_agreement
        self._outlet.agreement(model, agreement, is_low=is_low)
        if is_low and self._accuracy.fallback and not model.predictor.is_reference:
            self._swap(model, model.provider.open_reference())
            model.missing_reason = f"its engine agreed with the reference by only {agreement:.3f}"
            model.can_build = False
            self._outlet.engine_step(model, "failed", 0.0, model.missing_reason)

    def _end_background(self, models: Sequence[ServedModel]) -> None:
        """End the background threads of models: rebuilds, shadows and recoveries."""
        rebuilds = [self._rebuilds.pop(model.name) for model in models if model.name in self._rebuilds]
        shadows = [self._shadows.pop(model.name) for model in models if model.name in self._shadows]
        recoveries = [self._recoveries.pop(model.name) for model in models if model.name in self._recoveries]
        for rebuild in rebuilds:
            rebuild.cancel()
        for shadow in shadows:
            shadow.stop()
        for recovery in recoveries:
            recovery.stop()
        deadline_ns = now_ns() + int(BACKGROUND_STOP_S * 1e9)
        threads = [each.thread for each in rebuilds] + [each.thread for each in shadows]
        for thread in threads + [each.thread for each in recoveries if each.thread is not None]:
            thread.join(max(0.0, (deadline_ns - now_ns()) / 1e9))

    def _swap(self, model: ServedModel, engine: Engine) -> None:
        """Bring a new engine into service; its lanes are warm before the old ones end, so no frame waits for it."""
        predictor = model.predictor.with_engine(engine)
        lanes = warm_lanes(model, predictor)
        with self._changing:
            if self.models.get(model.name) is not model or self._is_stopped:
                end_lanes(model, lanes)
                raise EngineError(f"model {model.name} was removed meanwhile")
            former, former_lanes = model.engine, self._lanes[model.name]
            self._lanes[model.name] = lanes
            model.adopt(predictor, len(lanes))
        if end_lanes(model, former_lanes):
            former.close()
        log.info("model %s: engine %s starts serving in place of %s", model.name, engine.label, former.label)


def used_models(config: Config) -> dict[str, ModelSettings]:
    """Return the models that enabled streams use; only these are opened."""
    names = {stream.model for stream in config.streams.values() if stream.enabled}
    return {name: settings for name, settings in config.models.items() if name in names}


def _stop(streams: list[Stream], models: list[ServedModel], lanes: Mapping[str, list[Lane]]) -> None:
    """End streams and models within `STOP_S`: stop cameras, serve what waits, then drop the rest."""
    cameras_deadline_ns, lanes_deadline_ns = now_ns() + int(CAMERA_STOP_S * 1e9), now_ns() + int(STOP_S * 1e9)
    for stream in streams:
        stream.ask_to_stop()
    for stream in streams:
        stream.join(cameras_deadline_ns)
    while any(stream.meter.in_flight and stream.is_served for stream in streams) and now_ns() < lanes_deadline_ns:
        time.sleep(DRAIN_POLL_S)
    for stream in streams:
        stream.discard()
    for model in models:
        model.batcher.close()
    for model in models:
        if join_lanes(lanes.get(model.name, []), lanes_deadline_ns):
            model.close()
