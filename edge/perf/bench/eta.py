"""Estimate of the remaining time, from the work of the rows to come and the speed so far."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import median

from edge.perf.bench.interleaved import Group, PlannedRow
from edge.perf.bench.measure import MOST_PROBES, Effort
from edge.perf.bench.networks import NAMES, find
from edge.perf.bench.row import BenchRow

# Before the first measurement: multiplications/s of a core or two.
_GUESSED_PER_S = 2e10
_OPENING_S = 0.5
_WARM_UP_QUERIES = 1


class EtaEstimator:
    """Estimator that learns from the rows as they are measured."""

    def __init__(self, effort: Effort, measured: Sequence[BenchRow]) -> None:
        """Keep the list of measured rows, which grows meanwhile."""
        self._effort = effort
        self._measured = measured

    def planned_s(self, group: Group) -> float:
        """Return the estimated duration of a group."""
        return sum(self._row_s(row) for row in group.rows)

    def _row_s(self, row: PlannedRow) -> float:
        effort, length = self._effort, self._effort.length
        batch_s = row.setting.batch * self._image_s(row.subject.name)
        images_s = 0.0 if length.images is None else length.images * batch_s / row.setting.batch
        measured_s = max(images_s or length.seconds, length.least_queries * batch_s)
        runs = MOST_PROBES if row.setting.scenario == "server" else 1
        return _OPENING_S + max(effort.warm_up_s, _WARM_UP_QUERIES * batch_s) + runs * measured_s

    def _image_s(self, network: str) -> float:
        """Return the time per image: measured for this network, else derived from its multiplications."""
        own = [1 / row.images_per_s for row in self._measured if row.network == network and row.images_per_s]
        if own:
            return median(own)
        times_s = [
            1 / (row.images_per_s * work)
            for row in self._measured
            if row.images_per_s and (work := _multiplications(row.network))
        ]
        return _multiplications(network) * (median(times_s) if times_s else 1 / _GUESSED_PER_S)


@functools.cache
def _multiplications(network: str) -> int:
    """Return the multiplications for one image of a network; 0 if unknown."""
    return find(network).multiplications if network in NAMES else 0
