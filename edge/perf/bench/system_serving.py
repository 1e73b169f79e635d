"""Serving path as the system under test: the batcher, lanes, preprocessing, engine and decoder of the daemon.

Pictures enter where a camera's frames do, and a query has ended when the last of its results is handed over for
publishing. Not included are the camera, which the load generator replaces, and the sending.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType

import cv2
import numpy as np

from edge.core.clock import now_ns, wall_ns
from edge.core.config import ModelSettings
from edge.core.errors import ConfigError, EdgeError, EngineError, ModelError
from edge.core.records import DropCause, Frame, Image, Result
from edge.inference.admission import rejection_reason
from edge.inference.backends.engine import Engine
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.model_variants import Precision
from edge.pipeline.lane_pool import join_lanes, open_lanes, warm_lanes
from edge.pipeline.served_model import ServedModel
from edge.precision.calibration_frames import read_stored, stored_folder
from edge.precision.verification import verify_int8

log = logging.getLogger(__name__)

PICTURES = 32  # different ones, used in turn
STOP_S = 60.0
# An idle camera keeps a batch waiting for the rest of its query, until it is full.
_COMPANY_MS = 10_000.0


class _ServingQuery:
    """Owner of the frames of one query."""

    name = "bench"
    score_threshold: float | None = None

    def __init__(self, images: int, finish: Callable[[], None], lose: Callable[[DropCause], None]) -> None:
        self._left = images
        self._finish = finish
        self._lose = lose
        self._lock = threading.Lock()

    def drop(self, frame: Frame, cause: DropCause) -> None:
        frame.settled = True
        if cause != "stopped":
            self._lose(cause)

    def finish(self, frame: Frame, _result: Result) -> None:
        frame.settled = True
        with self._lock:
            self._left -= 1
            has_ended = not self._left
        if has_ended:
            self._finish()


class ServingPath:
    """Context manager around a model served by its lanes."""

    def __init__(self, model: ServedModel, pictures: Sequence[Image], *, whole_batches: bool) -> None:
        """Own an opened model, closed at the end; with `whole_batches`, only full batches leave."""
        cv2.setNumThreads(1)  # as in the pipeline
        self.batch = model.max_batch
        self.lanes = model.lane_count
        self._lost: EdgeError | None = None
        self._model = model
        self._pictures = pictures
        self._number = 0
        self._queue = model.batcher.add_stream(every=True, max_age_ms=0)
        # The load generator must not block: images wait here until a lane takes them.
        self._queue.capacity = 1_000_000
        if whole_batches:
            model.batcher.add_stream(every=True, max_age_ms=0)
            model.batcher.limit(self.batch, _COMPANY_MS)

    @property
    def failure(self) -> EdgeError | None:
        return self._lost or self._model.lost

    def __enter__(self) -> ServingPath:
        model = self._model
        is_reopened = model.missing_reason is not None and model.predictor.is_reference and model.can_build
        self._lanes = warm_lanes(model, model.predictor) if is_reopened else open_lanes(model)
        self.lanes = len(self._lanes)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._queue.discard()
        self._model.batcher.close()
        if join_lanes(self._lanes, now_ns() + int(STOP_S * 1e9)):
            self._model.close()

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        query = _ServingQuery(images, finish, self._lose)
        for _ in range(images):
            picture = self._pictures[self._number % len(self._pictures)]
            self._queue.put(Frame(query, self._number, picture, now_ns(), wall_ns()))
            self._number += 1

    def _lose(self, cause: DropCause) -> None:
        self._lost = EngineError(f"a picture gave no result ({cause}); --log-level error shows the failure")


def open_model(
    name: str,
    settings: ModelSettings,
    environment: EngineEnvironment,
    precision: Precision,
    scenes: Callable[[], Sequence[Image]] = list,
) -> ServedModel:
    """Open a model with an engine of this precision, building it if needed.

    INT8 that was not measured here is verified first, on kept calibration frames and on pictures of `scenes`. Raises
    ModelError if this precision is not served here.
    """
    model = ServedModel(name, settings.model_copy(update={"precision": precision}), environment)
    try:
        if f"/{precision}/" not in model.engine.label:
            needs_proof = precision == "int8" and not environment.force
            if not model.can_build or (needs_proof and model.provider.target != "int8"):
                reason = model.missing_reason or f"{model.engine.label} serves"
                raise ModelError(f"{name} is not served in {precision} here: {reason}")
            former, engine = model.engine, model.provider.open_or_build(precision)
            predictor = model.predictor.with_engine(engine)
            if needs_proof and (refusal := _verify(model, engine, scenes)):
                engine.close()
                raise ModelError(f"{name} is not served in {precision} here: {refusal}")
            model.adopt(predictor, model.lanes_on(predictor))
            former.close()
    except EdgeError:
        model.close()
        raise
    return model


def _verify(model: ServedModel, engine: Engine, scenes: Callable[[], Sequence[Image]]) -> str | None:
    """Measure an INT8 engine, as the daemon does before it serves; return why it may not."""
    stored = list(read_stored(stored_folder(model.provider.onnx, model.provider.environment.state_dir)))
    try:
        pictures = [*stored, *scenes()]
        if not pictures:
            return model.missing_reason
        entry = verify_int8(model.predictor, model.provider, engine, pictures)
    except ConfigError as error:
        return f"it cannot be verified: {error}"
    log.info(
        "model %s: INT8 was verified: %s %.3f on %d pictures", model.name, entry.metric, entry.agreement, entry.frames
    )
    return rejection_reason(entry, model.manifest.min_agreement)


def check_batches(batches: Sequence[int], fixed_batch: int | None, network: str) -> None:
    """Raise ConfigError for a batch that the engine does not accept."""
    if fixed_batch is not None and max(batches) > fixed_batch:
        raise ConfigError(
            f"--batch: found {max(batches)}, but {network} was exported for batches of {fixed_batch}; use at most "
            "that, or export it with a dynamic batch axis"
        )


def random_pictures(model: ServedModel, seed: int) -> list[Image]:
    """Draw random pictures of the model's input size."""
    height, width = model.predictor.input_px[::-1]
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (height, width, 3), np.uint8) for _ in range(PICTURES)]
