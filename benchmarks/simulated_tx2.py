"""Simulated Jetson TX2: published power and latency by mode and batch, and frames that queue for one engine.

Frames are simulated one by one, at a grid of rates: Poisson arrivals; a batch leaves when the engine is free and the
batch is full or its oldest frame has waited `max_wait_ms`, as in `edge/pipeline/batch.py`; a frame older than the
target when its batch forms is dropped (`max_age_ms`). Since that bound makes the queue forget within a tenth of a
second, a day is assembled from the grid, second by second.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edge.perf.bench.published import published_rows

MODES = {"max-q": "MAXQ", "max-p": "MAXP_CORE_ARM"}  # published name → name in a TX2's nvpmodel
MAX_Q, MAX_P = MODES.values()
BATCHES = (1, 2, 4, 8)
WAITS_MS = (0.0, 5.0, 10.0, 20.0)
TARGET_MS = 50.0
LATE_SHARE = 0.01  # p99
_GRID = 48  # rates
BIN_MS = 0.5
_BINS = 220  # up to 110 ms: a frame waits at most 50 ms, and only ResNet-50's batch of 8 takes more than 49.4 ms

Array = NDArray[np.float64]


class Setting(NamedTuple):
    """Mode, batch and wait under which the board runs."""

    mode: str
    max_batch: int
    max_wait_ms: float


SETTINGS = tuple(
    Setting(mode, max_batch, max_wait_ms)
    for mode in (MAX_Q, MAX_P)
    for max_batch in BATCHES
    for max_wait_ms in (WAITS_MS[:1] if max_batch == 1 else WAITS_MS)
)
PLACES = {setting: place for place, setting in enumerate(SETTINGS)}


@dataclass(frozen=True)
class Published:
    """Published figures of one network in one mode, interpolated between batches; index 0 is batch 1."""

    images_per_s: Array
    latency_s: Array
    power_w: Array


def read_published(network: str, mode: str) -> Published:
    """Read the TX2's rows of a network in a mode, given by its name in nvpmodel."""
    rows = [
        row
        for row in published_rows()
        if (row["device"], row["network"]) == ("Jetson TX2", network)
        and MODES[row["power_mode"]] == mode
        and row["batch"] <= max(BATCHES)
    ]
    batches = [row["batch"] for row in rows]

    def between(column: str) -> Array:
        values: Array = np.interp(range(1, max(BATCHES) + 1), batches, [row[column] for row in rows])
        return values

    return Published(between("images_per_s"), between("latency_ms") / 1e3, between("power_w"))


@dataclass(frozen=True)
class Behaviour:
    """Behaviour of each setting at each rate of a grid, per second; arrays are settings×rates."""

    rates: Array  # images/s offered; one dimension
    busy: Array  # fraction of the time
    busy_j: Array  # power during busy time, including idle power
    late: Array  # frames/s over the target, including dropped ones
    dropped: Array  # frames/s
    latency: Array  # settings×rates×bins: fraction of results at most (bin + 1) · BIN_MS old

    def highest_rate(self, setting: Setting) -> float:
        """Return the highest rate up to which the setting meets the target for all but `LATE_SHARE` of the frames."""
        shares = self.late[PLACES[setting]] / self.rates
        first = int(np.argmax(shares > LATE_SHARE))
        return float(np.interp(LATE_SHARE, shares[first - 1 : first + 1], self.rates[first - 1 : first + 1]))


def simulate(network: str, frames: int, seed: int) -> Behaviour:
    """Simulate every setting at rates up to the board's maximum, with `frames` frames each."""
    published = {mode: read_published(network, mode) for mode in (MAX_Q, MAX_P)}
    highest = float(published[MAX_P].images_per_s.max())
    rates = np.concatenate([[0.25, 0.5, 1.0, 2.0], np.linspace(0, highest, _GRID + 1)[1:]])
    count = len(rates)
    run = _Queues(
        rates=np.tile(rates, len(SETTINGS)),
        latency_s=np.repeat([published[each.mode].latency_s for each in SETTINGS], count, axis=0),
        power_w=np.repeat([published[each.mode].power_w for each in SETTINGS], count, axis=0),
        max_batch=np.repeat([each.max_batch for each in SETTINGS], count),
        max_wait_s=np.repeat([each.max_wait_ms / 1e3 for each in SETTINGS], count),
    )
    run.run(np.random.default_rng(seed), frames)
    return run.behaviour(rates)


class _Queues:
    """Queues simulated in parallel, each with its own rate and setting; each step forms one batch of each."""

    def __init__(
        self, rates: Array, latency_s: Array, power_w: Array, max_batch: NDArray[np.int64], max_wait_s: Array
    ) -> None:
        self._rates, self._latency_s, self._power_w = rates, latency_s, power_w
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        count = len(rates)
        self._place = np.zeros(count, np.int64)  # of the oldest waiting frame
        self._free_s = np.zeros(count)
        self._busy_s, self._busy_j = np.zeros(count), np.zeros(count)
        self._dropped, self._late = np.zeros(count), np.zeros(count)
        self._results = np.zeros(count * _BINS)

    def run(self, rng: np.random.Generator, frames: int) -> None:
        # All queues see the same frames, only faster or slower, so that differences between settings are not by chance.
        self._arrivals = np.cumsum(rng.exponential(1.0, frames + max(BATCHES)))
        self._end_s = self._arrivals[frames - 1] / self._rates
        queues = np.arange(len(self._rates))
        while len(queues):
            self._step(queues)
            queues = queues[self._place[queues] < frames]

    def _step(self, queues: NDArray[np.int64]) -> None:
        columns = np.arange(max(BATCHES))
        window_s = self._arrivals[self._place[queues][:, None] + columns] / self._rates[queues][:, None]
        oldest_s, free_s, max_batch = window_s[:, 0], self._free_s[queues], self._max_batch[queues]
        stale = free_s - oldest_s > TARGET_MS / 1e3
        full_s = np.take_along_axis(window_s, max_batch[:, None] - 1, axis=1)[:, 0]
        leaves_s = np.maximum(free_s, np.minimum(oldest_s + self._max_wait_s[queues], full_s))
        inside = (window_s <= leaves_s[:, None]) & (columns < max_batch[:, None]) & ~stale[:, None]
        batch = inside.sum(axis=1)
        took_s = np.where(stale, 0.0, self._latency_s[queues, batch - 1])
        age_s = (leaves_s + took_s)[:, None] - window_s
        self._late[queues] += (inside & (age_s > TARGET_MS / 1e3)).sum(axis=1) + stale
        self._dropped[queues] += stale
        self._busy_s[queues] += took_s
        self._busy_j[queues] += took_s * self._power_w[queues, batch - 1]
        self._count_results(queues, inside, age_s)
        self._free_s[queues] = np.where(stale, free_s, leaves_s + took_s)
        self._place[queues] += np.where(stale, 1, batch)

    def _count_results(self, queues: NDArray[np.int64], inside: NDArray[np.bool_], age_s: Array) -> None:
        rows, columns = np.nonzero(inside)
        bins = np.minimum((age_s[rows, columns] * 1e3 / BIN_MS).astype(np.int64), _BINS - 1)
        self._results += np.bincount(queues[rows] * _BINS + bins, minlength=len(self._results))

    def behaviour(self, rates: Array) -> Behaviour:
        shape = (len(SETTINGS), len(rates))
        results = np.cumsum(self._results.reshape(*shape, _BINS), axis=2)

        def per_second(total: Array) -> Array:
            return np.asarray((total / self._end_s).reshape(shape))

        return Behaviour(
            rates=rates,
            busy=per_second(self._busy_s),
            busy_j=per_second(self._busy_j),
            late=per_second(self._late),
            dropped=per_second(self._dropped),
            latency=results / np.maximum(results[:, :, -1:], 1),
        )
