"""A simulated Jetson TX2: published power and latency per mode and batch, and frames that queue before one engine.

Every frame is simulated once, for a grid of rates: Poisson arrivals; a batch leaves when the engine is free and the batch
is full or its oldest frame has waited `max_wait_ms`, as `edge/batch.py` has it; a frame older than the latency target when
its batch forms is dropped (`max_age_ms`). Because of that bound the queue forgets in well under a second, so that a day
can be put together from the grid, second by second.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PUBLISHED = Path(__file__).with_name("published_results.csv")
MODES = {"max-q": "MAXQ", "max-p": "MAXP_CORE_ARM"}  # as published → as nvpmodel of a TX2 has it
BATCHES = (1, 2, 4, 8)
TARGET_MS = 50.0
FRAMES = 60_000  # simulated for each point of the grid
_GRID = 48  # rates
_BIN_MS = 0.5
_BINS = 220  # up to 110 ms: no latency is longer, as a frame waits 50 ms at most, and a batch takes 44.5

Array = NDArray[np.float64]


class Setting(NamedTuple):
    """How the board runs."""

    mode: str
    max_batch: int
    max_wait_ms: float


SETTINGS = tuple(
    Setting(mode, max_batch, max_wait_ms)
    for mode in MODES.values()
    for max_batch in BATCHES
    for max_wait_ms in ((0.0,) if max_batch == 1 else (0.0, 5.0, 10.0, 20.0, 30.0))
)


@dataclass(frozen=True)
class Published:
    """What was published of one network in one mode; index 0 is batch 1, others are interpolated."""

    images_per_s: Array
    latency_s: Array
    power_w: Array


def read_published(network: str, mode: str) -> Published:
    """Read a network's rows of the TX2 in a mode, named as nvpmodel has it."""
    lines = [line for line in PUBLISHED.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    rows = [
        row
        for row in csv.DictReader(lines)
        if row["network"] == network and MODES[row["power_mode"]] == mode and int(row["batch"]) <= max(BATCHES)
    ]
    batches = [int(row["batch"]) for row in rows]

    def between(column: str) -> Array:
        return np.interp(range(1, max(BATCHES) + 1), batches, [float(row[column]) for row in rows])

    return Published(between("images_per_s"), between("latency_ms") / 1e3, between("power_w"))


@dataclass(frozen=True)
class Behaviour:
    """What one setting does at each rate of a grid: per second of time, but for the last."""

    rates: Array  # images/s offered, R
    busy: Array  # R: share of time
    busy_j: Array  # R: J/s while busy, idle watts included
    late: Array  # R: frames/s over the target, dropped ones included
    dropped: Array  # R: frames/s
    latency: Array  # R×bins: share of the results at most (bin + 1) · 0.5 ms old


def simulate(network: str, highest_rate: float, seed: int) -> dict[Setting, Behaviour]:
    """Simulate every setting at rates up to `highest_rate`."""
    rates = np.concatenate([[0.25, 0.5, 1.0, 2.0], np.linspace(0, highest_rate, _GRID + 1)[1:]])
    published = {mode: read_published(network, mode) for mode in MODES.values()}
    run = _Run(
        rates=np.tile(rates, len(SETTINGS)),
        latency_s=np.repeat([published[each.mode].latency_s for each in SETTINGS], len(rates), axis=0),
        power_w=np.repeat([published[each.mode].power_w for each in SETTINGS], len(rates), axis=0),
        max_batch=np.repeat([each.max_batch for each in SETTINGS], len(rates)),
        max_wait_s=np.repeat([each.max_wait_ms / 1e3 for each in SETTINGS], len(rates)),
    )
    run.go(np.random.default_rng(seed))
    return {
        setting: run.behaviour(slice(index * len(rates), (index + 1) * len(rates)))
        for index, setting in enumerate(SETTINGS)
    }


class _Run:
    """Many queues at once, each with its own rate and setting, one batch of each a step."""

    def __init__(self, rates: Array, latency_s: Array, power_w: Array, max_batch: Array, max_wait_s: Array) -> None:
        self._rates, self._latency_s, self._power_w = rates, latency_s, power_w
        self._max_batch, self._max_wait_s = max_batch, max_wait_s
        count = len(rates)
        self._busy_s, self._busy_j, self._end_s = np.zeros(count), np.zeros(count), np.zeros(count)
        self._dropped, self._late = np.zeros(count), np.zeros(count)
        self._histogram = np.zeros((count, _BINS))

    def go(self, rng: np.random.Generator) -> None:
        count = len(self._rates)
        arrivals_s = np.cumsum(rng.exponential(1 / self._rates[:, None], (count, FRAMES + max(BATCHES))), axis=1)
        self._end_s = arrivals_s[:, FRAMES - 1].copy()
        place = np.zeros(count, np.int64)  # of the oldest frame that waits
        free_s = np.zeros(count)
        live = np.arange(count)
        while len(live):
            self._step(arrivals_s, place, free_s, live)
            live = live[place[live] < FRAMES]

    def _step(self, arrivals_s: Array, place: NDArray[np.int64], free_s: Array, live: NDArray[np.int64]) -> None:
        window_s = arrivals_s[live[:, None], place[live][:, None] + np.arange(max(BATCHES))]
        oldest_s, free = window_s[:, 0], free_s[live]
        stale = free - oldest_s > TARGET_MS / 1e3
        full_s = window_s[np.arange(len(live)), self._max_batch[live] - 1]
        leaves_s = np.maximum(free, np.minimum(oldest_s + self._max_wait_s[live], full_s))
        inside = (window_s <= leaves_s[:, None]) & (np.arange(max(BATCHES)) < self._max_batch[live][:, None])
        inside &= ~stale[:, None]
        batch = inside.sum(axis=1)
        took_s = np.where(stale, 0.0, self._latency_s[live, batch - 1])
        age_s = (leaves_s + took_s)[:, None] - window_s
        rows, columns = np.nonzero(inside)
        ages_ms = age_s[rows, columns] * 1e3
        bins = np.minimum((ages_ms / _BIN_MS).astype(np.int64), _BINS - 1)
        self._histogram += 0  # keeps the type
        np.add.at(self._histogram, (live[rows], bins), 1)
        self._late[live] += (inside & (age_s > TARGET_MS / 1e3)).sum(axis=1) + stale
        self._dropped[live] += stale
        self._busy_s[live] += took_s
        self._busy_j[live] += took_s * self._power_w[live, batch - 1]
        free_s[live] = np.where(stale, free, leaves_s + took_s)
        place[live] += np.where(stale, 1, batch)

    def behaviour(self, part: slice) -> Behaviour:
        end_s = self._end_s[part]
        results = np.cumsum(self._histogram[part], axis=1)
        return Behaviour(
            rates=self._rates[part],
            busy=self._busy_s[part] / end_s,
            busy_j=self._busy_j[part] / end_s,
            late=self._late[part] / end_s,
            dropped=self._dropped[part] / end_s,
            latency=results / np.maximum(results[:, -1:], 1),
        )
