"""Pipeline outlet that records results in slices of time instead of publishing them."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from edge.core.clock import now_ns
from edge.core.errors import EdgeError
from edge.core.records import Result
from edge.pipeline.engine_rebuild import Step
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream

log = logging.getLogger(__name__)

SETTLED_SLICES = 4
# Settled: rates within this fraction of their mean, the hottest sensor within this many degrees.
SETTLED_FRACTION = 0.1
SETTLED_C = 1.0


@dataclass
class Slice:
    """Results of one slice of time, and the sensors' readings over it."""

    seconds: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)
    services_ms: list[float] = field(default_factory=list)  # of each image's batch
    busy_ms: float = 0.0  # of all lanes
    batches: Counter[int] = field(default_factory=Counter)  # images by the size of their batch
    dropped: int = 0
    energy_j: float | None = None
    throttled: bool | None = None
    hottest_c: float | None = None

    @property
    def images(self) -> int:
        return len(self.latencies_ms)

    @property
    def images_per_s(self) -> float:
        return self.images / self.seconds if self.seconds else 0.0


class RecordingOutlet:
    """Outlet that measures results and publishes nothing."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._now = Slice()
        self._start_ns = now_ns()
        self.failure: EdgeError | None = None
        self.engine: tuple[Step, str | None] | None = None

    def result(self, stream: Stream, result: Result) -> None:
        latency_ms = (now_ns() - result.captured_ns) / 1e6
        if stream.settings.delivery == "every":
            latency_ms -= result.wait_ms  # such a source runs ahead as far as it can, so this wait is its own
        with self._lock:
            self._now.latencies_ms.append(latency_ms)
            service_ms = result.preprocess_ms + result.infer_ms
            self._now.services_ms.append(service_ms + result.decode_ms)
            self._now.busy_ms += service_ms / result.batch + result.decode_ms
            self._now.batches[result.batch] += 1

    def stream_state(self, stream: Stream, reason: str | None) -> None:
        if stream.state in ("failed", "ended"):
            event = f"stream {stream.name} {stream.state}: {reason}" if reason else f"stream {stream.name} has ended"
            self.failure = EdgeError(f"{event}; use a source that lasts as long as the measurement")

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:
        log.info("model %s: %s, %.0f %%", model.name, step, 100 * progress)
        self.engine = step, reason

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None: ...

    def output_implausible(self, model: ServedModel, reason: str | None) -> None: ...

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None: ...

    def drain(self) -> Slice:
        """Return the slice since the last call, and start the next one."""
        with self._lock:
            drained, self._now = self._now, Slice()
            end_ns = now_ns()
            drained.seconds, self._start_ns = (end_ns - self._start_ns) / 1e9, end_ns
        return drained


def is_settled(slices: Sequence[Slice]) -> bool:
    """Return whether the load is steady: the rate, and the temperature if it is measured."""
    if len(slices) < SETTLED_SLICES:
        return False
    rates = [each.images_per_s for each in slices]
    mean = sum(rates) / len(rates)
    # One image more or less in a slice does not change the load.
    tolerance = max(SETTLED_FRACTION * mean, 1 / min(each.seconds for each in slices))
    hottest_c = [each.hottest_c for each in slices if each.hottest_c is not None]
    is_warm = not hottest_c or max(hottest_c) - min(hottest_c) <= SETTLED_C
    return is_warm and max(rates) - mean <= tolerance and mean - min(rates) <= tolerance


def total(values: Sequence[float | None]) -> float | None:
    """Return the sum; None if a value is unknown."""
    known = [each for each in values if each is not None]
    return sum(known) if len(known) == len(values) else None


def percentile(values: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(values, percent)), 4) if values else None
