"""The path on one screen: batch → preprocess → infer → decode → hand over.

A camera's thread captures, and puts frames into its model's batcher. A lane's thread takes a batch out of it and
brings it all the way (`Lane._serve`); the stream then publishes its results in capture order.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence

from edge.core.clock import elapsed_ms, now_ns
from edge.core.errors import EdgeError, EngineError, GpuLostError, GpuMemoryError, ModelError
from edge.core.records import Batch, EngineTimes, Frame, Geometry, Result
from edge.inference.predictor import Predictor
from edge.pipeline.frame_samples import ShadowSample
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

END_S = 4.0  # what a lane may still take for the batch that it has
FAULTS_IN_A_ROW = 10  # of the engine, after which it shall be opened again
TOLD_AGAIN_AT = frozenset(10**power for power in range(1, 10))


class Lane:
    """One thread that takes batches the whole way, with an engine context of its own."""

    def __init__(self, model: ServedModel, predictor: Predictor, number: int) -> None:
        self._model = model
        self._predictor = predictor
        self._started = threading.Event()
        self._failure: EdgeError | None = None
        self._served = 0
        self._served_at_check = -1
        self._idle = False
        self._failures: Counter[tuple[str, str]] = Counter()
        self.faults = 0  # of the engine, one after the other
        self.fault: str | None = None  # why the engine fails again and again
        self.is_well = False  # whether the engine did what was asked of it last
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
        model = self._model
        try:
            with self._predictor.session(model.max_batch) as self._session:
                self._session.warm_up()
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
                self._note_fault(error)
                for frame in batch.frames:
                    frame.owner.drop(frame, "error")
                if isinstance(error, GpuLostError):
                    self._model.lost = error
                    return
            self._served += 1

    def _note_fault(self, error: Exception) -> None:
        self.is_well = False
        self.faults += isinstance(error, EngineError)
        if self.faults >= FAULTS_IN_A_ROW:
            self.fault = str(error)

    def _complain(self, place: str, text: str, error: Exception) -> None:
        """Log a failure with its traceback the first time, later only its count, ever more rarely."""
        count = self._failures[place, text] = self._failures[place, text] + 1
        about = {"model": self._model.name, "engine": self._predictor.engine.label}
        if count == 1:
            log.error("%s: %s; its frames are dropped and counted", place, text, exc_info=error, extra=about)
        elif count in TOLD_AGAIN_AT:
            log.error("%s: %s, for the %dth time", place, text, count, extra=about)

    def _serve(self, batch: Batch) -> None:
        """Take one batch the whole way."""
        prepared = self._preprocess(batch)
        prepared_ns = now_ns()
        if not prepared:
            return
        times = self._session.run(len(prepared))
        self.faults, self.fault, self.is_well = 0, None, True
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
                geometry = self._session.fill(frame.image, len(prepared))
            # One bad picture, whatever is wrong with it, must not cost the others of its batch.
            except Exception as error:  # noqa: BLE001
                self._complain(f"stream {frame.owner.name}", "a frame cannot be preprocessed", error)
                frame.owner.drop(frame, "error")
                continue
            if (samples := self._model.samples) is not None:
                samples.offer(frame.image)
            sampling = None if self._predictor.is_reference else self._model.sampling
            if sampling is not None and sampling.wants():
                frame.sample = frame.image.copy()
            frame.release()
            prepared.append((frame, geometry))
        return prepared

    def _finish(
        self, row: int, frame: Frame, geometry: Geometry, batch: Batch, preprocess_ms: float, times: EngineTimes
    ) -> None:
        """Read one frame's outputs and hand its result over."""
        start_ns = now_ns()
        model = self._model
        findings = self._session.decode(row, frame.owner.score_threshold)
        decoded_ns = now_ns()
        result = Result(
            stream=frame.owner.name,
            model=model.name,
            engine=self._predictor.engine.label,
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
        if (sampling := model.sampling) is not None and frame.sample is not None:
            sampling.offer(ShadowSample(frame.sample, findings, frame.owner.score_threshold, result.engine))
        frame.owner.finish(frame, result)


def open_lanes(model: ServedModel) -> list[Lane]:
    """Warm a model's lanes; a plan that loads but cannot be run gives way to the engine that always can."""
    try:
        lanes = warm_lanes(model, model.predictor)
    except GpuLostError:
        raise
    except EdgeError as error:
        if not model.fall_back(str(error)):
            raise
        log.warning("model %s: %s serves, as %s", model.name, model.engine.label, error)
        lanes = warm_lanes(model, model.predictor)
    model.meter.lanes = len(lanes)
    return lanes


def warm_lanes(model: ServedModel, predictor: Predictor) -> list[Lane]:
    """Start lanes and wait until each is ready for its first batch; where memory is short, one lane instead of many."""
    count = model.lanes_on(predictor)
    try:
        return _start_lanes(model, predictor, count)
    except GpuMemoryError as error:
        if count == 1:
            raise
        log.warning("model %s: one lane instead of %d: %s", model.name, count, error)
        return _start_lanes(model, predictor, 1)


def _start_lanes(model: ServedModel, predictor: Predictor, count: int) -> list[Lane]:
    lanes = [Lane(model, predictor, number) for number in range(count)]
    for lane in lanes:
        lane.start()
    try:
        for lane in lanes:
            lane.await_started()
    except EdgeError:
        end_lanes(model, lanes)
        raise
    return lanes


def end_lanes(model: ServedModel, lanes: Sequence[Lane]) -> bool:
    """Let lanes go once they have finished their batch; the model's others serve on. Tell whether all have gone."""
    model.batcher.dismiss(lanes)
    return join_lanes(lanes, now_ns() + int(END_S * 1e9))


def join_lanes(lanes: Sequence[Lane], by_ns: int) -> bool:
    """Wait for lanes; tell whether all have ended, as an engine must not be freed under one that hangs in it."""
    for lane in lanes:
        lane.join(by_ns)
    return not any(lane.thread.is_alive() for lane in lanes)
