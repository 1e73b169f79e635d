"""A latency that a share of the queries has to meet, and whether it can only be missed."""

from __future__ import annotations

from edge.perf.bench.load_generator import Query
from edge.perf.bench.row import LEAST_SAMPLES


class Target:
    """Tells from the queries as they end when a p99 can only be missed."""

    def __init__(self, target_p99_ms: float, queries: int) -> None:
        """Take the target, and how many queries there will be at least."""
        self._target_ms = target_p99_ms
        self._allowed = (queries - 1) // LEAST_SAMPLES + 1  # np.percentile looks at the two samples around its place
        self._over = 0

    @property
    def is_missed(self) -> bool:
        """Tell whether the queries beyond the target are too many, whatever comes."""
        return self._over > self._allowed

    def is_missed_by(self, query: Query) -> bool:
        """Take one more query, and tell."""
        self._over += query.latency_ms > self._target_ms
        return self.is_missed
