"""Lanes of one model: warmed before they serve, and ended once they have finished their batch."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from edge.core.clock import now_ns
from edge.core.errors import EdgeError, GpuLostError, GpuMemoryError
from edge.inference.predictor import Predictor
from edge.pipeline.lane import Lane
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

END_S = 4.0  # for a lane to finish its batch


def open_lanes(model: ServedModel) -> list[Lane]:
    """Warm a model's lanes; a plan that loads but cannot be run gives way to the engine that always can."""
    try:
        lanes = warm_lanes(model, model.predictor)
    except GpuLostError:
        raise
    except EdgeError as error:
        if not model.fall_back(str(error)):
            raise
        log.warning("model %s: falling back to %s: %s", model.name, model.engine.label, error)
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
    """Dismiss lanes once they have finished their batch; return whether all have ended."""
    model.batcher.dismiss(lanes)
    return join_lanes(lanes, now_ns() + int(END_S * 1e9))


def join_lanes(lanes: Sequence[Lane], deadline_ns: int) -> bool:
    """Wait for lanes; return whether all have ended: an engine must not be freed under a lane that hangs in it."""
    for lane in lanes:
        lane.join(deadline_ns)
    return not any(lane.thread.is_alive() for lane in lanes)
