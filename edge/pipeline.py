"""The path on one screen: capture → batch → preprocess → infer → decode → publish.

A camera's thread captures, and puts frames into its model's batcher. A lane's thread takes a batch out of it and
brings it all the way (`Lane._serve`): preprocess, infer, decode, hand over to the stream, which publishes in capture
order.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import cv2

from edge.backends.engine import Engine
from edge.backends.supply import Place
from edge.clock import elapsed_ms, now_ns
from edge.config import Config, ModelSettings
from edge.errors import EdgeError, EngineError, GpuLostError, GpuMemoryError, ModelError
from edge.infer import Inference
from edge.model import Model, Served
from edge.rebuild import Rebuild, Step
from edge.records import Batch, EngineTimes, Frame, Geometry, Result
from edge.stream import Stream, StreamOutlet

log = logging.getLogger(__name__)

# A camera comes back within the time-outs of the calls it may hang in (3 s); the lanes then finish what waits.
CAMERA_STOP_S = 3.2
STOP_S = 4.0
BUILD_STOP_S = 0.5
DRAIN_POLL_S = 0.005
TOLD_AGAIN_AT = frozenset(10**power for power in range(1, 10))


class Outlet(StreamOutlet, Protocol):
    """Where results and all changes go; called from the pipeline's threads."""

    def engine_step(self, model: Model, step: Step, progress: float, reason: str | None) -> None:
        """Take how far the making of a model's engine is: step, share of the building done, what is the matter."""


class Lane:
    """One thread that takes batches the whole way, with an engine context of its own."""

    def __init__(self, model: Model, served: Served, number: int) -> None:
        self._model = model
        self._served_by = served
        self._started = threading.Event()
        self._failure: EdgeError | None = None
        self._served = 0
        self._served_at_check = -1
        self._idle = False
        self._failures: Counter[tuple[str, str]] = Counter()
        self.thread = threading.Thread(target=self._run, name=f"lane-{model.name}-{number}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def join(self, deadline_ns: int) -> None:
        """Wait for the thread's end; name it where it does not come back."""
        self.thread.join(max(0.0, (deadline_ns - now_ns()) / 1e9))
        if self.thread.is_alive():
            log.error("%s hangs in the engine and is abandoned", self.thread.name)

    def await_started(self) -> None:
        """Wait until the context is warm; raise what kept it from that."""
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def has_progressed(self) -> bool:
        """Tell whether the lane waits for frames or has finished a batch since the last call."""
        served, self._served_at_check = self._served_at_check, self._served
        return self._idle or served != self._served

    def _run(self) -> None:
        model, served = self._model, self._served_by
        try:
            with served.make_context(model.max_batch) as context:
                self._inference = Inference(context, served.engine, model.max_batch)
                self._fill = served.make_fill(context)
                self._inference.warm_up()
                self._started.set()
                self._loop()
        except (GpuMemoryError, GpuLostError) as error:
            self._failure = error
        # What keeps a context from coming up is the engine's; it must reach the one who waits for the lane.
        except Exception as error:  # noqa: BLE001
            self._failure = ModelError(f"model {model.name!r}: {error}")
        finally:
            self._started.set()

    def _loop(self) -> None:
        while True:
            self._idle = True
            batch = self._model.batcher.take(self)
            self._idle = False
            if batch is None:
                return
            try:
                self._serve(batch)
            # The top of a thread: whatever failed, these frames are lost and counted, and the lane serves on.
            except Exception as error:  # noqa: BLE001
                self._complain(f"model {self._model.name}", "a batch failed", error)
                for frame in batch.frames:
                    frame.owner.drop(frame, "error")
                if isinstance(error, GpuLostError):
                    self._model.lost = error
                    return
            self._served += 1

    def _complain(self, place: str, text: str, error: Exception) -> None:
        """Log a failure with its traceback the first time, later only its count, ever more rarely."""
        count = self._failures[place, text] = self._failures[place, text] + 1
        if count == 1:
            log.error("%s: %s; its frames are dropped and counted", place, text, exc_info=error)
        elif count in TOLD_AGAIN_AT:
            log.error("%s: %s, for the %dth time", place, text, count)

    def _serve(self, batch: Batch) -> None:
        """Take one batch the whole way."""
        prepared = self._preprocess(batch)
        prepared_ns = now_ns()
        if not prepared:
            return
        times = self._inference.run(len(prepared))
        self._model.meter.inferred(len(prepared), times)
        preprocess_ms = elapsed_ms(batch.formed_ns, prepared_ns)
        for row, (frame, geometry) in enumerate(prepared):
            try:
                self._finish(row, frame, geometry, batch, preprocess_ms, times)
            # A decoder of the user's own may raise anything, and the next frame may be good.
            except Exception as error:  # noqa: BLE001
                self._complain(f"stream {frame.owner.name}", "a frame cannot be decoded", error)
                frame.owner.drop(frame, "error")

    def _preprocess(self, batch: Batch) -> list[tuple[Frame, Geometry]]:
        """Fill one row of the engine's input a frame; a picture that fails leaves its row to the next."""
        prepared: list[tuple[Frame, Geometry]] = []
        for frame in batch.frames:
            try:
                geometry = self._fill(frame.image, len(prepared))
            # One bad picture, whatever is wrong with it, must not cost the others of its batch.
            except Exception as error:  # noqa: BLE001
                self._complain(f"stream {frame.owner.name}", "a frame cannot be preprocessed", error)
                frame.owner.drop(frame, "error")
                continue
            if (samples := self._model.samples) is not None:
                samples.offer(frame.image)
            frame.release()
            prepared.append((frame, geometry))
        return prepared

    def _finish(
        self, row: int, frame: Frame, geometry: Geometry, batch: Batch, preprocess_ms: float, times: EngineTimes
    ) -> None:
        """Read one frame's outputs and hand its result over."""
        start_ns = now_ns()
        model = self._model
        findings = self._served_by.decoder.decode(
            self._inference.outputs_of(row), geometry, frame.owner.score_threshold
        )
        decoded_ns = now_ns()
        result = Result(
            stream=frame.owner.name,
            model=model.name,
            engine=self._served_by.engine.label,
            frame=frame.number,
            captured_ns=frame.captured_ns,
            captured_at_ns=frame.captured_at_ns,
            decoded_ns=decoded_ns,
            size_px=geometry.source_px,
            findings=findings,
            labels=model.labels,
            wait_ms=elapsed_ms(frame.captured_ns, batch.formed_ns),
            preprocess_ms=preprocess_ms,
            infer_ms=times.infer_ms,
            decode_ms=elapsed_ms(start_ns, decoded_ns),
            batch=len(batch.frames),
        )
        frame.owner.finish(frame, result)


class Pipeline:
    """The models and streams of a configuration at work."""

    def __init__(self, config: Config, outlet: Outlet, place: Place) -> None:
        """Open the models and warm their lanes; raise ModelError or ConfigError where something does not fit."""
        cv2.setNumThreads(1)  # the cores belong to the lanes; a picture is too small to share
        self._outlet = outlet
        self._place = place
        self._next_seq: dict[str, int] = {}  # of streams that were changed or taken out
        self._changing = threading.Lock()  # of models and lanes, by a new configuration or a new engine
        self._lanes: dict[str, list[Lane]] = {}
        self._rebuilds: dict[str, Rebuild] = {}
        self._is_stopped = False
        self.models: dict[str, Model] = {}
        self.streams: dict[str, Stream] = {}
        self.change(config, start=False)

    def start(self) -> None:
        """Start the cameras, and the making of engines that are lacking."""
        for stream in self.streams.values():
            stream.start()
        self._make_lacking_engines()

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
                models[name] = Model(name, wanted[name], self._place)
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
        self._give_up_building(gone)
        _stop(ended, gone, gone_lanes)
        self._next_seq |= {stream.name: stream.next_seq for stream in ended}
        self.streams = streams | {stream.name: stream for stream in added}
        if start:
            for stream in added:
                stream.start(self._next_seq.get(stream.name, 0))
            self._make_lacking_engines()

    def stop(self) -> None:
        """Stop the cameras, let the lanes finish what waits, and drop the rest; takes at most `STOP_S`."""
        self._give_up_building(list(self.models.values()))
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

    def _make_lacking_engines(self) -> None:
        for name, model in self.models.items():
            if model.lacking is None or name in self._rebuilds:
                continue
            if not model.may_build:
                self._outlet.engine_step(model, "failed", 0.0, model.lacking)
                continue
            self._rebuilds[name] = Rebuild(model, self._swap, self._outlet.engine_step)
            self._rebuilds[name].start()

    def _give_up_building(self, models: Iterable[Model]) -> None:
        """End the making of engines for models that go."""
        rebuilds = [self._rebuilds.pop(model.name) for model in models if model.name in self._rebuilds]
        for rebuild in rebuilds:
            rebuild.cancel()
        for rebuild in rebuilds:
            rebuild.join(BUILD_STOP_S)

    def _swap(self, model: Model, engine: Engine) -> None:
        """Bring a new engine into service: its lanes are warm before the others go, so no frame waits for it."""
        served = Served(engine, model)
        lanes = warm_lanes(model, served)
        with self._changing:
            if self.models.get(model.name) is not model or self._is_stopped:
                end_lanes(model, lanes)
                raise EngineError(f"model {model.name} has gone meanwhile")
            former, former_lanes = model.served, self._lanes[model.name]
            self._lanes[model.name] = lanes
            model.adopt(served)
        if end_lanes(model, former_lanes):
            former.engine.close()
        log.info("model %s: engine %s serves, in place of %s", model.name, engine.label, former.engine.label)


def used_models(config: Config) -> dict[str, ModelSettings]:
    """Return the models that an enabled stream uses; only these are opened."""
    names = {stream.model for stream in config.streams.values() if stream.enabled}
    return {name: settings for name, settings in config.models.items() if name in names}


def open_lanes(model: Model) -> list[Lane]:
    """Warm a model's lanes; a plan that loads but cannot be run gives way to the engine that always can."""
    try:
        return warm_lanes(model, model.served)
    except GpuLostError:
        raise
    except EdgeError as error:
        if not model.fall_back(str(error)):
            raise
        log.warning("model %s: %s serves, as %s", model.name, model.engine.label, error)
        return warm_lanes(model, model.served)


def warm_lanes(model: Model, served: Served) -> list[Lane]:
    """Start lanes and wait until each is ready for its first batch; where memory is short, one lane instead of many."""
    try:
        return _start_lanes(model, served)
    except GpuMemoryError as error:
        if served.lane_count == 1:
            raise
        log.warning("model %s: one lane instead of %d: %s", model.name, served.lane_count, error)
        served.lane_count = 1
        return _start_lanes(model, served)


def _start_lanes(model: Model, served: Served) -> list[Lane]:
    lanes = [Lane(model, served, number) for number in range(served.lane_count)]
    for lane in lanes:
        lane.start()
    try:
        for lane in lanes:
            lane.await_started()
    except EdgeError:
        end_lanes(model, lanes)
        raise
    return lanes


def end_lanes(model: Model, lanes: Sequence[Lane]) -> bool:
    """Let lanes go once they have finished their batch; the model's others serve on. Tell whether all have gone."""
    model.batcher.dismiss(lanes)
    return join_lanes(lanes, now_ns() + int(STOP_S * 1e9))


def join_lanes(lanes: Sequence[Lane], by_ns: int) -> bool:
    """Wait for lanes; tell whether all have ended, as an engine must not be freed under one that hangs in it."""
    for lane in lanes:
        lane.join(by_ns)
    return not any(lane.thread.is_alive() for lane in lanes)


def _stop(streams: list[Stream], models: list[Model], lanes: Mapping[str, list[Lane]]) -> None:
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
