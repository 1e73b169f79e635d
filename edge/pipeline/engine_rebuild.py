"""Engine rebuild: built while another engine serves, compared with that on real frames, then swapped in."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from edge.core.clock import now_ns
from edge.core.errors import EdgeError, EngineError, GpuLostError
from edge.core.records import Image
from edge.inference.admission import rejection_reason
from edge.inference.backends.engine import Engine
from edge.inference.backends.tensorrt.build_protocol import UnsupportedModelError
from edge.pipeline.served_model import ServedModel
from edge.precision.calibration_frames import read_stored, stored_folder
from edge.precision.comparison import answers, check_numerics
from edge.precision.verification import verify_int8

log = logging.getLogger(__name__)

Step = Literal["building", "verifying", "swapping", "serving", "partly", "failed"]
COMPARED_PICTURES = 4
PICTURE_TIMEOUT_S = 10.0
POLL_S = 0.2
PROGRESS_STEP = 0.1  # of a build, between two reports


class EngineRebuild:
    """Thread that makes the missing engine of one model."""

    def __init__(
        self,
        model: ServedModel,
        swap: Callable[[ServedModel, Engine], None],
        on_step: Callable[[ServedModel, Step, float, str | None], None],
    ) -> None:
        """Take `swap`, which brings an engine into service, and `on_step`: step, fraction of the build, reason."""
        self._model = model
        self._swap = swap
        self._on_step = on_step
        self._reported_progress = 0.0
        self._unserved: Engine | None = None  # the new engine, until it serves
        self._cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"build-{model.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def cancel(self) -> None:
        """Give up, and end the build."""
        self._cancelled.set()

    def _run(self) -> None:
        model = self._model
        try:
            self._make()
        except _CancelledError:
            log.info("model %s: the rebuild of its engine is cancelled", model.name)
        # The top of a thread: whatever went wrong, the serving engine goes on.
        except Exception as error:
            if isinstance(error, GpuLostError):
                model.lost = error
            level = logging.INFO if self._cancelled.is_set() else logging.ERROR
            trace = None if isinstance(error, EdgeError) else error
            log.log(level, "model %s: no new engine: %s", model.name, error, exc_info=trace)
            self._report(model, "failed", 0.0, str(error))
        finally:
            if self._unserved is not None:
                _close(self._unserved)
            model.sampler.recent = None

    def _make(self) -> None:
        """Make the missing engine; where INT8 is refused, one of the next better precision."""
        model = self._model
        try:
            self._make_target()
        except EngineRefusedError as error:
            if not model.provider.lower_target():
                raise
            log.warning("model %s: %s", model.name, error)
            if f"/{model.provider.target}/" not in model.engine.label:
                self._make_target()
            model.missing_reason, model.can_build = str(error), False
            raise

    def _make_target(self) -> None:
        model = self._model
        self._reported_progress = 0.0
        engine, partial_reason = self._build()
        self._unserved = engine
        self._check_cancelled()
        self._report(model, "verifying", 1.0, model.missing_reason)
        self._try(engine)
        self._report(model, "swapping", 1.0, model.missing_reason)
        self._swap(model, engine)
        self._unserved = None
        self._report(model, "partly" if partial_reason else "serving", 1.0, partial_reason)

    def _report(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        if not self._cancelled.is_set():  # the canceller does not wait for reports
            self._on_step(model, step, progress, reason)

    def _build(self) -> tuple[Engine, str | None]:
        """Return the engine, and why TensorRT does not run all of it (None: it does)."""
        model = self._model
        self._report(model, "building", 0.0, model.missing_reason)
        try:
            return model.provider.build(self._report_progress, self._cancelled.is_set), None
        except UnsupportedModelError as error:
            engine = model.provider.open_partial()
            if engine is None:
                raise
            return engine, f"{error}; ONNX Runtime runs the model, with as much of it on the GPU as possible"

    def _report_progress(self, phase: str, progress: float) -> None:
        log.debug("model %s: %s, %.0f %%", self._model.name, phase, 100 * progress)
        if progress >= self._reported_progress + PROGRESS_STEP:
            self._reported_progress = progress
            self._report(self._model, "building", progress, self._model.missing_reason)

    def _try(self, engine: Engine) -> None:
        """Verify the engine and record the outcome, so that one that ends the process is not tried forever."""
        provider = self._model.provider
        pictures = self._pictures()
        first = next(pictures)
        provider.record_trial_start()
        verify = self._measure if provider.target == "int8" else self._verify
        try:
            summary = verify(engine, itertools.chain([first], pictures))
        except GpuLostError:
            raise
        except EngineRefusedError as error:
            provider.record_trial("refused", str(error))
            raise
        except BaseException:
            provider.record_trial("untried")
            raise
        provider.record_trial("verified", summary)
        log.info("model %s: engine %s agrees with the exported model: %s", self._model.name, engine.label, summary)

    def _verify(self, engine: Engine, pictures: Iterable[Image]) -> str:
        """Compare the new engine with the serving one; return how well they agree.

        Raises EngineRefusedError where that is not enough.
        """
        model = self._model
        shown = list(itertools.islice(pictures, COMPARED_PICTURES))
        reference = answers(model.predictor, shown, 1)
        candidate = answers(model.predictor.with_engine(engine), shown, model.max_batch)
        check = check_numerics(reference, candidate)
        summary = f"on {len(shown)} pictures {check}"
        if reason := check.why_not(model.manifest.min_agreement):
            raise EngineRefusedError(
                f"engine {engine.label} is refused: {reason} ({summary}); {model.engine.label} keeps serving"
            )
        return summary

    def _measure(self, engine: Engine, pictures: Iterable[Image]) -> str:
        """Measure how well an INT8 engine agrees with the exported model, and record that.

        Raises EngineRefusedError where it does not agree well enough.
        """
        model = self._model
        entry = verify_int8(model.predictor, model.provider, engine, pictures)
        summary = f"{entry.metric} {entry.agreement:.3f} on {entry.frames} pictures"
        if reason := rejection_reason(entry, model.manifest.min_agreement):
            raise EngineRefusedError(f"engine {engine.label} is refused: {reason}; {model.engine.label} keeps serving")
        return summary

    def _pictures(self) -> Iterator[Image]:
        """Yield the pictures kept from the model's calibration, then those of the cameras.

        Ends when none has come for a while, but not before the first.
        """
        provider = self._model.provider
        last_number, last_ns = 0, 0
        for kept in read_stored(stored_folder(provider.onnx, provider.environment.state_dir)):
            self._check_cancelled()
            yield kept
            last_ns = now_ns()
        while not last_ns or (now_ns() - last_ns) / 1e9 < PICTURE_TIMEOUT_S:
            self._check_cancelled()
            recent = self._model.sampler.recent
            for number, picture in recent.since(last_number) if recent is not None else []:
                last_number, last_ns = number, now_ns()
                self._check_cancelled()
                yield picture
            self._cancelled.wait(POLL_S)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class EngineRefusedError(EngineError):
    """A new engine does not agree with the serving one."""


class _CancelledError(Exception):
    """The daemon stops, or switches to another configuration."""


def _close(engine: Engine) -> None:
    try:
        engine.close()
    # A lost GPU frees nothing, and its loss was reported.
    except Exception:
        log.debug("an engine was not freed", exc_info=True)
