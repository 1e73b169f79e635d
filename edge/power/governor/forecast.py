"""Forecast of latency and power of a setting at a rate, from a profile's points: pure functions.

Frames are assumed to arrive at random (Poisson), the worst case that cameras without a common clock approach.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from edge.core.tuned_profile import OperatingPoint, TunedProfile

_LATE_FRACTION = 0.01  # by the definition of p99
_MOST_BUSY = 0.97  # fraction of time; chosen: closer to 1 the length of the queue has no meaning
# Idle power as a fraction of busy power, if it was not measured. Chosen: the middle of the range that
# benchmarks/governor.md sweeps, as idle watts are not published: 1.5 to 3.5 W, of 5.4 to 9.3 W busy.
_IDLE_FRACTION = 0.4
_BISECTIONS = 24  # chosen: one part in 10⁷


class GovernedSetting(NamedTuple):
    """Power mode, batch and waiting time; None leaves the configured value."""

    mode: str
    max_batch: int | None
    max_wait_ms: float | None


@dataclass(frozen=True)
class MeasuredMode:
    """Measurements of an engine in one power mode, by batch from 1 on; between measured batches interpolated."""

    engine_ms: tuple[float, ...]  # of one batch
    power_w: tuple[float, ...]  # of the board while the engine computes all the time
    idle_w: float
    overhead_ms: float  # added by the pipeline to the engine's time
    lanes: int


def measured(points: Iterable[OperatingPoint]) -> MeasuredMode | None:
    """Join one mode's points, of each batch the fastest; None if no point has both a rate and a power."""
    rates: dict[int, float] = {}
    fastest: dict[int, OperatingPoint] = {}
    for point in points:
        rate = point.images_per_s
        if rate is None or point.power_w is None or point.is_throttled:
            continue
        if rate > rates.get(point.max_batch, 0.0):
            rates[point.max_batch], fastest[point.max_batch] = rate, point
    if not fastest:
        return None
    batches = sorted(fastest)
    kept = [fastest[batch] for batch in batches]
    engine_ms = [1e3 * each.lanes * each.max_batch / rates[each.max_batch] for each in kept]
    powers_w = [each.power_w for each in kept if each.power_w is not None]
    idle_w = [each.idle_w for each in kept if each.idle_w is not None]
    overheads_ms = [
        each.latency_p50_ms - took
        for each, took in zip(kept, engine_ms, strict=True)
        if each.latency_p50_ms is not None
    ]
    return MeasuredMode(
        engine_ms=_between(batches, engine_ms),
        power_w=_between(batches, powers_w),
        idle_w=min(*idle_w, *powers_w) if idle_w else _IDLE_FRACTION * min(powers_w),
        overhead_ms=max(0.0, min(overheads_ms, default=0.0)),
        lanes=kept[0].lanes,
    )


def _between(batches: Sequence[int], values: Sequence[float]) -> tuple[float, ...]:
    """Return a value for each batch from 1 on; a batch below the smallest measured one takes as long as that."""
    return tuple(float(each) for each in np.interp(range(1, batches[-1] + 1), batches, values))


def by_mode(profile: TunedProfile | None) -> dict[str, MeasuredMode]:
    """Return the measurements of each mode of a profile."""
    points: dict[str, list[OperatingPoint]] = {}
    for each in profile.points if profile is not None else ():
        if each.power_mode is not None:
            points.setdefault(each.power_mode, []).append(each)
    known = {mode: measured(of_mode) for mode, of_mode in points.items()}
    return {mode: each for mode, each in known.items() if each is not None}


@dataclass(frozen=True)
class Forecast:
    """Forecast for one batch and waiting time of an engine in one mode."""

    engine: MeasuredMode
    max_batch: int
    max_wait_ms: float

    def mean_batch(self, rate: float) -> float:
        """Return the mean batch at `rate` images/s: the frames that arrive while one waits or computes."""
        highest = min(self.max_batch, len(self.engine.engine_ms))
        batch = 1.0
        for _ in range(3):
            while_busy = rate * self._engine_ms(batch) / 1e3 / self.engine.lanes
            batch = min(float(highest), max(1.0 + rate * self.max_wait_ms / 1e3, while_busy, 1.0))
        return batch

    def busy(self, rate: float) -> float:
        """Return the fraction of time that the engine computes; above 1 if it cannot keep up."""
        batch = self.mean_batch(rate)
        return rate * self._engine_ms(batch) / 1e3 / batch / self.engine.lanes

    def power_w(self, rate: float) -> float:
        """Return the board's mean power at `rate` images/s."""
        busy_w = _at(self.engine.power_w, self.mean_batch(rate))
        return self.engine.idle_w + min(1.0, self.busy(rate)) * max(0.0, busy_w - self.engine.idle_w)

    def p99_ms(self, rate: float) -> float:
        """Return the 99th percentile of latency, capture to acknowledgement; infinite beyond capacity.

        A frame waits for others, or for the engine, and then for its batch. The wait for the engine is that of an
        M/D/1 queue whose service is one frame's part of a batch: its tail falls as exp(-x·t/service), with
        busy = x / (exp(x) - 1) (Asmussen, "Applied Probability and Queues", on the Cramér-Lundberg approximation).
        """
        batch, busy = self.mean_batch(rate), self.busy(rate)
        if busy >= _MOST_BUSY:
            return math.inf
        queue_ms = _tail(busy) * self._engine_ms(batch) / batch / self.engine.lanes
        largest = max(batch, self._largest_waited(rate))
        return self.engine.overhead_ms + max(self.max_wait_ms, queue_ms) + self._engine_ms(largest)

    def _largest_waited(self, rate: float) -> float:
        """Return the 99th percentile, over frames, of the batch size, of batches that waited for others alone."""
        others = rate * self.max_wait_ms / 1e3
        # k - 1 frames arrive while the first of k waits: the fraction of frames in such batches is k·P(k - 1) / mean.
        chance, inside = math.exp(-others), 0.0
        for batch in range(1, self.max_batch):
            inside += batch * chance / (1 + others)
            if inside >= 1 - _LATE_FRACTION:
                return float(batch)
            chance *= others / batch
        return float(self.max_batch)

    def sustained_rate(self, target_p99_ms: float | None) -> float:
        """Return the most images/s within the target, or the capacity without one; 0 if no rate is within it."""
        limit_ms = math.inf if target_p99_ms is None else target_p99_ms
        largest = min(self.max_batch, len(self.engine.engine_ms))
        low, high = 0.0, 1e3 * self.engine.lanes * largest / self._engine_ms(largest)
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            p99_ms = self.p99_ms(middle)
            low, high = (middle, high) if p99_ms <= limit_ms and p99_ms < math.inf else (low, middle)
        return low if self.p99_ms(low) <= limit_ms else 0.0

    def _engine_ms(self, batch: float) -> float:
        return _at(self.engine.engine_ms, batch)


def _at(values: Sequence[float], batch: float) -> float:
    """Return the value for a mean batch, interpolated between whole ones."""
    below = min(int(batch), len(values))
    above = min(below + 1, len(values))
    return values[below - 1] + (values[above - 1] - values[below - 1]) * (min(batch, len(values)) - below)


def _tail(busy: float) -> float:
    """Return the 99th percentile of a frame's wait, in multiples of the service time."""
    if busy <= _LATE_FRACTION:
        return 0.0
    low, high = 0.0, 20.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        low, high = (middle, high) if middle > busy * math.expm1(middle) else (low, middle)
    x = low
    factor = (1 - busy) / (busy * math.exp(x) - 1)
    return max(0.0, math.log(factor / _LATE_FRACTION) / x)
