"""One lane: take a batch → preprocess → infer → decode → hand over.

A camera's thread puts frames into its model's batcher. A lane's thread takes batches out of it and carries each
through the pipeline (`Lane._serve`); the stream then publishes its results in capture order.
"""

from __future__ import annotations

import logging
import threading

from edge.core.clock import elapsed_ms, now_ns
from edge.core.errors import (
    EdgeError,
    EngineError,
    GpuLostError,
    GpuMemoryError,
    ImplausibleOutputError,
    ModelError,
)
from edge.core.records import Batch, Frame, Result
from edge.inference.predictor import Predictor
from edge.pipeline.failure_log import FailureLog
from edge.pipeline.served_model import ImplausibleOutput, ServedModel

log = logging.getLogger(__name__)

MAX_CONSECUTIVE_FAULTS = 10  # of the engine, before it is reopened


class Lane:
    """One thread that carries batches through the pipeline, with an engine context of its own."""

    def __init__(self, model: ServedModel, predictor: Predictor, number: int) -> None:
        self._model = model
        self._predictor = predictor
        self._started = threading.Event()
        self._failure: EdgeError | None = None
        self._served = 0  # batches
        self._served_at_check = -1
        self._idle = False
        self._failures = FailureLog({"model": model.name, "engine": predictor.engine.label})
        self.faults = 0  # of the engine, in a row
        self.fault: str | None = None  # why the engine fails repeatedly
        self.is_well = False  # whether the engine's last run succeeded
        self.thread = threading.Thread(target=self._run, name=f"lane-{model.name}-{number}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def join(self, deadline_ns: int) -> None:
        """Wait for the thread's end; log its name if it does not exit."""
        self.thread.join(max(0.0, (deadline_ns - now_ns()) / 1e9))
        if self.thread.is_alive():
            log.error("%s hangs in the engine and is abandoned", self.thread.name)

    def await_started(self) -> None:
        """Wait until the context is warm; raise the error that prevented it."""
        self._started.wait()
        if self._failure is not None:
            raise self._failure

    def has_progressed(self) -> bool:
        """Return whether the lane waits for frames or has finished a batch since the last call."""
        served, self._served_at_check = self._served_at_check, self._served
        return self._idle or served != self._served

    def _run(self) -> None:
        """Open and warm the engine's context, then serve until dismissed."""
        model = self._model
        try:
            with self._predictor.session(model.max_batch, is_guarded=True) as self._session:
                self._session.warm_up()
                self._started.set()
                self._loop()
        except (GpuMemoryError, GpuLostError) as error:
            self._failure = error
        # Whatever prevents a context is the engine's fault, and must reach the caller that waits for the lane.
        except BaseException as error:  # noqa: BLE001
            self._failure = ModelError(f"model {model.name!r}: {error}")
        finally:
            self._started.set()

    def _loop(self) -> None:
        while (batch := self._take_batch()) is not None:
            try:
                self._serve(batch)
            # The top of a thread: whatever failed, these frames are lost and counted, and the lane serves on. Python
            # ends a thread without a word on SystemExit, and no signal raises on this one.
            except BaseException as error:  # noqa: BLE001
                self._fail_batch(batch, error)
                if isinstance(error, GpuLostError):
                    return
            self._served += 1

    def _serve(self, batch: Batch) -> None:
        """Process one batch end to end."""
        frames = self._preprocess(batch)
        if not frames:
            return
        self._infer(batch, frames)
        for row, frame in enumerate(frames):
            try:
                result = self._decode(batch, frame, row)
                self._hand_over(frame, result)
            except ImplausibleOutputError as error:
                self._model.implausible = ImplausibleOutput(str(error), now_ns())
                frame.owner.drop(frame, "error")
            # A custom decoder may raise anything, and the next frame may be good.
            except BaseException as error:  # noqa: BLE001
                self._failures.add(f"stream {frame.owner.name}", "a frame cannot be decoded", error)
                frame.owner.drop(frame, "error")

    def _take_batch(self) -> Batch | None:
        """Wait for the next batch; None when the lane should stop."""
        self._idle = True
        batch = self._model.batcher.pop(self)
        self._idle = False
        return batch

    def _preprocess(self, batch: Batch) -> list[Frame]:
        """Fill one row of the engine's input per frame; a failed picture's row is reused."""
        frames: list[Frame] = []
        for frame in batch.frames:
            try:
                self._session.fill(frame.image, len(frames))
            # One bad picture, whatever is wrong with it, must not cost the others of its batch.
            except BaseException as error:  # noqa: BLE001
                self._failures.add(f"stream {frame.owner.name}", "a frame cannot be preprocessed", error)
                frame.owner.drop(frame, "error")
                continue
            self._model.sampler.observe(frame, self._predictor)
            frame.release()
            frames.append(frame)
        batch.preprocess_ms = elapsed_ms(batch.formed_ns, now_ns())
        return frames

    def _infer(self, batch: Batch, frames: list[Frame]) -> None:
        """Run the engine on the filled rows."""
        times = self._session.run(len(frames))
        batch.infer_ms = times.infer_ms
        self.faults, self.fault, self.is_well = 0, None, True
        self._model.meter.inferred(len(frames), times)

    def _decode(self, batch: Batch, frame: Frame, row: int) -> Result:
        """Read one frame's outputs; raise what a custom decoder raises."""
        start_ns = now_ns()
        findings = self._session.decode(row, frame.owner.score_threshold)
        decoded_ns = now_ns()
        return Result(
            stream=frame.owner.name,
            model=self._model.name,
            engine=self._predictor.engine.label,
            frame=frame.number,
            captured_ns=frame.captured_ns,
            captured_at_ns=frame.captured_at_ns,
            decoded_ns=decoded_ns,
            size_px=self._session.source_px(row),
            findings=findings,
            labels=self._model.labels,
            wait_ms=elapsed_ms(frame.captured_ns, batch.formed_ns),
            preprocess_ms=batch.preprocess_ms,
            infer_ms=batch.infer_ms,
            decode_ms=elapsed_ms(start_ns, decoded_ns),
            batch=len(batch.frames),
        )

    def _hand_over(self, frame: Frame, result: Result) -> None:
        """Give the result to the frame's stream, which publishes it when its turn comes."""
        frame.owner.finish(frame, result)

    def _fail_batch(self, batch: Batch, error: BaseException) -> None:
        """Count the frames of a batch that failed, and the faults of the engine."""
        self._failures.add(f"model {self._model.name}", "a batch failed", error)
        self.is_well = False
        self.faults += isinstance(error, EngineError)
        if self.faults >= MAX_CONSECUTIVE_FAULTS:
            self.fault = str(error)
        for frame in batch.frames:
            frame.owner.drop(frame, "error")
        if isinstance(error, GpuLostError):
            self._model.lost = error
