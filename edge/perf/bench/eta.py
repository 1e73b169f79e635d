"""How long rows that are to come will take: by what they have to compute, and by how fast that went until now."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from statistics import median

from edge.perf.bench.interleaved import Group, PlannedRow
from edge.perf.bench.measure import MOST_PROBES, Effort
from edge.perf.bench.networks import NAMES, find
from edge.perf.bench.row import BenchRow

# Before anything is measured: what a core or two of a board multiply in a second.
_GUESSED_PER_S = 2e10
_OPENING_S = 0.5
_WARM_UP_QUERIES = 1


class EtaEstimator:
    """Learns from the rows as they come."""

    def __init__(self, effort: Effort, measured: Sequence[BenchRow]) -> None:
        """Take the rows that are measured, to which more are added meanwhile."""
        self._effort = effort
        self._measured = measured

    def planned_s(self, group: Group) -> float:
        """Return how long a group will take."""
        return sum(self._row_s(row) for row in group.rows)

    def _row_s(self, row: PlannedRow) -> float:
        effort, length = self._effort, self._effort.length
        batch_s = row.setting.batch * self._image_s(row.subject.name)
        images_s = 0.0 if length.images is None else length.images * batch_s / row.setting.batch
        measured_s = max(images_s or length.seconds, length.least_queries * batch_s)
        runs = MOST_PROBES if row.setting.scenario == "server" else 1
        return _OPENING_S + max(effort.warm_up_s, _WARM_UP_QUERIES * batch_s) + runs * measured_s

    def _image_s(self, network: str) -> float:
        """Return the time of an image: of this network as it was measured, else by what it computes."""
        own = [1 / row.images_per_s for row in self._measured if row.network == network and row.images_per_s]
        if own:
            return median(own)
        paces = [
            1 / (row.images_per_s * work)
            for row in self._measured
            if row.images_per_s and (work := _multiplications(row.network))
        ]
        return _multiplications(network) * (median(paces) if paces else 1 / _GUESSED_PER_S)


@functools.cache
def _multiplications(network: str) -> int:
    """Return what an image of a network needs; 0 where that is not known."""
    return find(network).multiplications if network in NAMES else 0
