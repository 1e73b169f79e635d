"""An engine made while another serves: built in the background, held against that on real frames, then swapped in."""

from __future__ import annotations

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from edge.core.clock import now_ns
from edge.core.errors import EdgeError, EngineError, GpuLostError
from edge.core.records import Image
from edge.inference.admission import MIN_FRAMES, record, why_not
from edge.inference.backends.engine import Engine
from edge.inference.backends.tensorrt.build_protocol import UnsupportedModelError
from edge.pipeline.served_model import ServedModel
from edge.precision.calibration_frames import read_stored, stored_folder
from edge.precision.comparison import Comparison, answers, compare, entry_of

log = logging.getLogger(__name__)

Step = Literal["building", "verifying", "swapping", "serving", "partly", "failed"]
ENOUGH_PICTURES = 4
ENOUGH_FOR_INT8 = 32  # whose errors are larger, so that they have to be counted
PATIENCE_S = 10.0  # for the next picture
POLL_S = 0.2
PROGRESS_STEP = 0.1  # of a build, before it is told again


class Rebuild:
    """The thread that makes the wanted engine of one model."""

    def __init__(
        self,
        model: ServedModel,
        swap: Callable[[ServedModel, Engine], None],
        tell: Callable[[ServedModel, Step, float, str | None], None],
    ) -> None:
        """Take `swap`, which brings an engine into service, and `tell`: step, share of the building done, reason."""
        self._model = model
        self._swap = swap
        self._outlet = tell
        self._told_progress = 0.0
        self._unserved: Engine | None = None  # the new engine, until it serves
        self._cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"build-{model.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def cancel(self) -> None:
        """Give up; what is being built is ended."""
        self._cancelled.set()

    def _run(self) -> None:
        model = self._model
        try:
            self._make()
        except _CancelledError:
            log.info("model %s: the making of its engine is given up", model.name)
        # The top of a thread: whatever went wrong, the engine that serves goes on.
        except Exception as error:
            if isinstance(error, GpuLostError):
                model.lost = error
            told = logging.INFO if self._cancelled.is_set() else logging.ERROR
            trace = None if isinstance(error, EdgeError) else error
            log.log(told, "model %s: no new engine: %s", model.name, error, exc_info=trace)
            self._tell(model, "failed", 0.0, str(error))
        finally:
            if self._unserved is not None:
                _close(self._unserved)
            model.sampler.recent = None

    def _make(self) -> None:
        """Make the wanted engine; where that is INT8 and it is refused, the next better one."""
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
        self._told_progress = 0.0
        engine, partly = self._build()
        self._unserved = engine
        self._check_cancelled()
        self._tell(model, "verifying", 1.0, model.missing_reason)
        self._try(engine)
        self._tell(model, "swapping", 1.0, model.missing_reason)
        self._swap(model, engine)
        self._unserved = None
        self._tell(model, "partly" if partly else "serving", 1.0, partly)

    def _tell(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        if not self._cancelled.is_set():  # who cancelled does not wait for news
            self._outlet(model, step, progress, reason)

    def _build(self) -> tuple[Engine, str | None]:
        """Return the engine, and why it is not TensorRT's alone (None: it is)."""
        model = self._model
        self._tell(model, "building", 0.0, model.missing_reason)
        try:
            return model.provider.build(self._progressed, self._cancelled.is_set), None
        except UnsupportedModelError as error:
            engine = model.provider.open_partial()
            if engine is None:
                raise
            return engine, f"{error}; ONNX Runtime runs it, and hands to the GPU what it can"

    def _progressed(self, phase: str, progress: float) -> None:
        log.debug("model %s: %s, %.0f %%", self._model.name, phase, 100 * progress)
        if progress >= self._told_progress + PROGRESS_STEP:
            self._told_progress = progress
            self._tell(self._model, "building", progress, self._model.missing_reason)

    def _try(self, engine: Engine) -> None:
        """Verify the engine and note what came of it, so that one that ends the process is not tried for ever."""
        provider = self._model.provider
        pictures = self._pictures()
        first = next(pictures)
        provider.record_trial_start()
        verify = self._measure if provider.target == "int8" else self._verify
        try:
            told = verify(engine, itertools.chain([first], pictures))
        except GpuLostError:
            raise
        except EngineRefusedError as error:
            provider.record_trial("refused", str(error))
            raise
        except BaseException:
            provider.record_trial("untried")
            raise
        provider.record_trial("verified", told)
        log.info("model %s: engine %s agrees with the exported model: %s", self._model.name, engine.label, told)

    def _verify(self, engine: Engine, pictures: Iterable[Image]) -> str:
        """Hold the new engine against the one that serves; return how well they agree.

        Raises RefusedError where that is not enough.
        """
        model = self._model
        shown = list(itertools.islice(pictures, ENOUGH_PICTURES))
        wanted = answers(model.predictor, shown, 1)
        got = answers(model.predictor.with_engine(engine), shown, model.max_batch)
        verdict = compare(wanted, got)
        told = f"on {len(shown)} pictures {verdict}"
        if reason := verdict.why_not(model.manifest.min_agreement):
            raise EngineRefusedError(
                f"engine {engine.label} is refused, as {reason} ({told}); {model.engine.label} serves on"
            )
        return told

    def _measure(self, engine: Engine, pictures: Iterable[Image]) -> str:
        """Measure how well an INT8 engine agrees with the exported model, and record it, whatever came of it.

        Raises RefusedError where it does not agree well enough.
        """
        model = self._model
        reference = model.predictor.with_engine(model.provider.open_reference())
        with Comparison(reference, model.predictor.with_engine(engine)) as comparison:
            for picture in itertools.islice(pictures, ENOUGH_FOR_INT8):
                self._check_cancelled()
                comparison.look(picture)
            measured = comparison.finish()
        provider, bound = model.provider, model.manifest.min_agreement
        entry = entry_of(provider.onnx, *provider.variant("int8"), provider.runtime, "fp32", measured)
        if entry.frames < MIN_FRAMES:
            raise EngineError(f"INT8 is not proven: {entry.frames} pictures came, wanted {MIN_FRAMES} and more")
        record(entry, provider.onnx, provider.environment.state_dir)
        told = f"{entry.metric} {entry.agreement:.3f} on {entry.frames} pictures"
        if reason := why_not(entry, bound):
            raise EngineRefusedError(f"engine {engine.label} is refused: {reason}; {model.engine.label} serves on")
        return told

    def _pictures(self) -> Iterator[Image]:
        """Yield the pictures that are kept of the model's calibration, then those that the cameras give.

        It ends when none has come for a while, but not before the first.
        """
        provider = self._model.provider
        seen, last_ns = 0, 0
        for kept in read_stored(stored_folder(provider.onnx, provider.environment.state_dir)):
            yield kept
            last_ns = now_ns()
        while not last_ns or (now_ns() - last_ns) / 1e9 < PATIENCE_S:
            self._check_cancelled()
            recent = self._model.sampler.recent
            for number, picture in recent.since(seen) if recent is not None else []:
                seen, last_ns = number, now_ns()
                yield picture
            self._cancelled.wait(POLL_S)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class EngineRefusedError(EngineError):
    """A new engine does not agree with the one that serves."""


class _CancelledError(Exception):
    """The daemon stops, or goes over to another configuration."""


def _close(engine: Engine) -> None:
    try:
        engine.close()
    # A lost GPU frees nothing, and what matters was told.
    except Exception:
        log.debug("an engine was not freed", exc_info=True)
