"""Demand of all streams, and how well it is met, over the last periods."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from edge.power.governor.contract import GovernorInput, StreamLoad
from edge.power.governor.learned_rates import Observation

# Tuned on simulated days of seeds 1 to 6 (benchmarks/governor.md).
_SMOOTHING_S = 20.0  # time constant of the demand
_NOISE_SIGMAS = 1.5  # standard deviations by which a period's demand may exceed the mean
_CHANGE_SIGMAS = 3.0  # from here on the mean has changed
_LATE_MEMORY_S = 10.0  # time constant of the fraction of late frames
_PRIOR_FRAMES = 200.0  # counted as in time, so that one late frame in a quiet hour is no alarm
_LATE_BY_P99 = 0.03  # fraction assumed late if only p99 is known
_EDGE_LOSS = 0.03  # fraction of images without a result that is attributed to the edges of the period
_MEMORY_S = 300.0  # for which past demand is kept


@dataclass
class _RecentFrames:
    """A stream's frames of the last seconds, exponentially weighted."""

    late: float = 0.0
    frames: float = 0.0

    def add(self, late: float, frames: float, left: float) -> None:
        self.late = self.late * left + late * frames
        self.frames = self.frames * left + frames


class Demand:
    """Accumulates inputs in order of time."""

    def __init__(self) -> None:
        self.rate = 0.0  # images/s, smoothed
        self.need = 0.0  # images/s to sustain: the same, or the newest demand if that is higher
        self.target_ms: float | None = None  # the tightest
        self.p99_ms: float | None = None  # the highest
        self.since_s: float | None = None  # the first input
        self._time_s: float | None = None
        self._needs: deque[tuple[float, float]] = deque()
        self._recent: dict[str, _RecentFrames] = {}

    def add(self, state: GovernorInput, settled_s: float) -> Observation | None:
        """Add an input; return the observation of its period.

        None for the first, for one out of order, and for one whose period began before `settled_s`: late frames were
        then due to the switch.
        """
        streams = state.streams
        self.target_ms = min(_known(each.target_p99_ms for each in streams), default=None)
        self.p99_ms = max(_known(each.p99_ms for each in streams), default=None)
        last_s, self._time_s = self._time_s, state.time_s
        offered = sum(_offered(each) for each in streams)
        if last_s is None or state.time_s <= last_s:
            self.since_s, self.rate = state.time_s, offered
            self._keep_need(state.time_s, offered)
            return None
        period_s = state.time_s - last_s
        self._follow(offered, period_s)
        self._keep_need(state.time_s, max(self.rate, offered - _NOISE_SIGMAS * math.sqrt(offered / period_s)))
        if last_s < settled_s:
            return None
        self._add_late(streams, period_s)
        late = sum(_late(each) * _offered(each) for each in streams)
        return Observation(offered, late / offered if offered else 0.0, offered * period_s, _finite(state.power_w))

    def _follow(self, offered: float, period_s: float) -> None:
        """Smooth the demand, but follow at once a change beyond the spread of a count, its square root."""
        has_changed = abs(offered - self.rate) > _CHANGE_SIGMAS * math.sqrt(max(self.rate, offered) / period_s)
        self.rate += (offered - self.rate) * (1.0 if has_changed else 1 - math.exp(-period_s / _SMOOTHING_S))

    def _keep_need(self, time_s: float, need: float) -> None:
        self.need = need
        self._needs.append((time_s, need))
        while self._needs[0][0] < time_s - _MEMORY_S:
            self._needs.popleft()

    def _add_late(self, streams: Iterable[StreamLoad], period_s: float) -> None:
        left = math.exp(-period_s / _LATE_MEMORY_S)
        self._recent = {each.name: self._recent.get(each.name) or _RecentFrames() for each in streams}
        for each in streams:
            self._recent[each.name].add(_late(each), _offered(each) * period_s, left)

    def forget_late(self) -> None:
        """Start again, as the mode has changed."""
        self._recent.clear()

    @property
    def late(self) -> float:
        """The fraction of late frames in the last seconds, of the worst stream."""
        return max((each.late / (each.frames + _PRIOR_FRAMES) for each in self._recent.values()), default=0.0)

    def highest_need(self, over_s: float) -> float:
        """Return the highest need of the last seconds."""
        from_s = self._needs[-1][0] - over_s if self._needs else 0.0
        return max((need for time_s, need in self._needs if time_s >= from_s), default=0.0)


def _offered(stream: StreamLoad) -> float:
    offered = _finite(stream.offered_per_s)
    if offered is None:
        offered = _finite(stream.results_per_s)
    return max(0.0, offered or 0.0)


def _late(stream: StreamLoad) -> float:
    """Return the fraction of the period's frames that were late or had no result."""
    measured = _finite(stream.late)
    if measured is not None:
        return min(1.0, max(0.0, measured))
    p99_ms, target_ms, results = _finite(stream.p99_ms), _finite(stream.target_p99_ms), _finite(stream.results_per_s)
    late = _LATE_BY_P99 if p99_ms is not None and target_ms is not None and p99_ms > target_ms else 0.0
    offered = _offered(stream)
    missed = 1 - results / offered if results is not None and offered else 0.0
    return min(1.0, late + (missed if missed > _EDGE_LOSS else 0.0))


def _known(values: Iterable[float | None]) -> list[float]:
    return [each for each in map(_finite, values) if each is not None]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
