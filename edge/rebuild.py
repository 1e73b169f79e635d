"""An engine made while another serves: built in the background, held against that on real frames, then swapped in."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.agreement import OutputError, agreement, output_error
from edge.backends.build_records import UnsupportedModelError
from edge.backends.engine import Engine
from edge.clock import now_ns
from edge.errors import EdgeError, EngineError, GpuLostError
from edge.infer import Inference
from edge.model import Model, Served
from edge.records import Findings

log = logging.getLogger(__name__)

Step = Literal["building", "verifying", "swapping", "serving", "partly", "failed"]
Picture = NDArray[np.uint8]
# The mean error of raw outputs, in parts of their spread. FP16 keeps 11 bits, so a sound engine is far below it.
MAX_MEAN_ERROR = 0.05
ENOUGH_PICTURES = 4
PATIENCE_S = 10.0  # for so many; after it, one is enough
POLL_S = 0.2
PROGRESS_STEP = 0.1  # of a build, before it is told again


class Rebuild:
    """The thread that makes the wanted engine of one model."""

    def __init__(
        self,
        model: Model,
        swap: Callable[[Model, Engine], None],
        tell: Callable[[Model, Step, float, str | None], None],
    ) -> None:
        """Take `swap`, which brings an engine into service, and `tell`: step, share of the building done, reason."""
        self._model = model
        self._swap = swap
        self._outlet = tell
        self._told_progress = 0.0
        self._cancelled = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"build-{model.name}", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def cancel(self) -> None:
        """Give up; what is being built is ended."""
        self._cancelled.set()

    def _run(self) -> None:
        model = self._model
        engine: Engine | None = None
        try:
            engine, partly = self._build()
            self._check_cancelled()
            self._tell(model, "verifying", 1.0, model.lacking)
            self._try(engine)
            self._tell(model, "swapping", 1.0, model.lacking)
            self._swap(model, engine)
            self._tell(model, "partly" if partly else "serving", 1.0, partly)
        except _CancelledError:
            log.info("model %s: the making of its engine is given up", model.name)
            if engine is not None:
                _close(engine)
        # The top of a thread: whatever went wrong, the engine that serves goes on.
        except Exception as error:
            if isinstance(error, GpuLostError):
                model.lost = error
            if engine is not None:
                _close(engine)
            told = logging.INFO if self._cancelled.is_set() else logging.ERROR
            trace = None if isinstance(error, EdgeError) else error
            log.log(told, "model %s: no new engine: %s", model.name, error, exc_info=trace)
            self._tell(model, "failed", 0.0, str(error))
        finally:
            model.samples = None

    def _tell(self, model: Model, step: Step, progress: float, reason: str | None) -> None:
        if not self._cancelled.is_set():  # who cancelled does not wait for news
            self._outlet(model, step, progress, reason)

    def _build(self) -> tuple[Engine, str | None]:
        """Return the engine, and why it is not TensorRT's alone (None: it is)."""
        model = self._model
        self._tell(model, "building", 0.0, model.lacking)
        try:
            return model.supply.build(self._progressed, self._cancelled.is_set), None
        except UnsupportedModelError as error:
            engine = model.supply.open_partly()
            if engine is None:
                raise
            return engine, f"{error}; ONNX Runtime runs it, and hands to the GPU what it can"

    def _progressed(self, phase: str, progress: float) -> None:
        log.debug("model %s: %s, %.0f %%", self._model.name, phase, 100 * progress)
        if progress >= self._told_progress + PROGRESS_STEP:
            self._told_progress = progress
            self._tell(self._model, "building", progress, self._model.lacking)

    def _try(self, engine: Engine) -> None:
        """Verify the engine and note what came of it, so that one that ends the process is not tried for ever."""
        supply = self._model.supply
        pictures = self._await_pictures()
        supply.note_trying()
        try:
            told = self._verify(engine, pictures)
        except GpuLostError:
            raise
        except RefusedError as error:
            supply.note_trial("refused", str(error))
            raise
        except Exception:
            supply.note_trial("untried")
            raise
        supply.note_trial("verified", told)

    def _verify(self, engine: Engine, pictures: Sequence[Picture]) -> str:
        """Hold the new engine against the one that serves; return how well they agree.

        Raises RefusedError where that is not enough.
        """
        model = self._model
        wanted = answers(model.served, pictures, 1)
        got = answers(Served(engine, model), pictures, model.max_batch)
        verdict = compare(wanted, got)
        told = f"on {len(pictures)} pictures {verdict}"
        if reason := verdict.why_not(model.min_agreement):
            raise RefusedError(
                f"engine {engine.label} is refused, as {reason} ({told}); {model.engine.label} serves on"
            )
        log.info("model %s: engine %s agrees with %s: %s", model.name, engine.label, model.engine.label, told)
        return told

    def _await_pictures(self) -> list[Picture]:
        start_ns = now_ns()
        while True:
            self._check_cancelled()
            pictures = self._model.samples.take() if self._model.samples is not None else []
            waited_s = (now_ns() - start_ns) / 1e9
            if len(pictures) >= ENOUGH_PICTURES or (pictures and waited_s > PATIENCE_S):
                return pictures
            self._cancelled.wait(POLL_S)

    def _check_cancelled(self) -> None:
        if self._cancelled.is_set():
            raise _CancelledError


class RefusedError(EngineError):
    """A new engine does not agree with the one that serves."""


class _CancelledError(Exception):
    """The daemon stops, or goes over to another configuration."""


@dataclass(frozen=True)
class Answer:
    """What an engine makes of one picture."""

    outputs: dict[str, NDArray[Any]]  # copies, without the batch axis
    findings: Findings


def answers(served: Served, pictures: Sequence[Picture], max_batch: int) -> list[Answer]:
    """Run pictures through an engine, in batches of up to `max_batch`."""
    found = []
    with served.make_context(max_batch) as context:
        inference = Inference(context, served.engine, max_batch)
        fill = served.make_fill(context)
        for start in range(0, len(pictures), max_batch):
            batch = pictures[start : start + max_batch]
            geometries = [fill(picture, row) for row, picture in enumerate(batch)]
            inference.run(len(batch))
            for row, geometry in enumerate(geometries):
                outputs = {name: array.copy() for name, array in inference.outputs_of(row).items()}
                found.append(Answer(outputs, served.decoder.decode(outputs, geometry)))
    return found


@dataclass(frozen=True)
class Verdict:
    """How far two engines agree over some pictures."""

    error: OutputError  # of the worst picture
    agreement: float | None  # None: neither found anything

    def why_not(self, min_agreement: float) -> str | None:
        """Return why that is not enough; None where it is."""
        if not np.isfinite(self.error.max):
            return "its outputs are not finite, or of another shape"
        if self.error.mean > MAX_MEAN_ERROR:
            return f"its outputs are off by more than {MAX_MEAN_ERROR:g} of their spread in the mean"
        if self.agreement is not None and self.agreement < min_agreement:
            return f"it agrees by {self.agreement:.3f} in what is found, wanted {min_agreement:g}"
        return None

    def __str__(self) -> str:
        found = "nothing was found" if self.agreement is None else f"agreement {self.agreement:.3f}"
        return f"{found}, output error mean {self.error.mean:.2g}, max {self.error.max:.2g} of the spread"


def compare(wanted: Sequence[Answer], got: Sequence[Answer]) -> Verdict:
    """Judge the answers of a new engine by those of another."""
    errors = [output_error(one.outputs, other.outputs) for one, other in zip(wanted, got, strict=True)]
    worst = OutputError(max(error.max for error in errors), max(error.mean for error in errors))
    return Verdict(worst, agreement([one.findings for one in wanted], [other.findings for other in got]))


def _close(engine: Engine) -> None:
    try:
        engine.close()
    # A lost GPU frees nothing, and what matters was told.
    except Exception:
        log.debug("an engine was not freed", exc_info=True)
