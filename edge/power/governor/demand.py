"""What is asked, and how well it is met: the sum of the last snapshots."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from edge.power.governor.contract import GovernorInput, StreamSeen
from edge.power.governor.observations import Observation

_SMOOTHING_S = 20.0  # of the asked rate
_CHANCE = 1.5  # standard deviations by which what is asked in a period may lie above the mean
_ANOTHER = 3.0  # from which on it is another mean
_LATE_MEMORY_S = 10.0
_FRAMES_IN_MIND = 200.0  # so that one late frame of a quiet hour is no alarm
_LATE_BY_P99 = 0.03  # taken to be late where only p99 tells
_MOST_MISSED = 0.03  # share of the asked images without a result that is taken for the period's edges
_LONGEST_S = 300.0  # that needs are kept for


@dataclass
class _Lately:
    """A stream's frames of the last seconds, the older the less."""

    late: float = 0.0
    frames: float = 0.0

    def add(self, late: float, frames: float, left: float) -> None:
        self.late = self.late * left + late * frames
        self.frames = self.frames * left + frames


class Demand:
    """Sums up snapshots in the order of time."""

    def __init__(self) -> None:
        self.rate = 0.0  # images/s asked, smoothed
        self.need = 0.0  # images/s that must be held: the same, or what was asked last where that is more
        self.target_ms: float | None = None  # the tightest
        self.p99_ms: float | None = None  # the highest
        self.since_s: float | None = None  # the first snapshot
        self._time_s: float | None = None
        self._needs: deque[tuple[float, float]] = deque()
        self._lately: dict[str, _Lately] = {}

    def add(self, snapshot: GovernorInput, settled_s: float) -> Observation | None:
        """Take in a snapshot; return what its period showed.

        None for the first, for one that is out of order, and for one whose period began before `settled_s`: what was
        late then tells of the switch.
        """
        streams = snapshot.streams
        self.target_ms = min(_known(each.target_p99_ms for each in streams), default=None)
        self.p99_ms = max(_known(each.p99_ms for each in streams), default=None)
        last_s, self._time_s = self._time_s, snapshot.time_s
        asked = sum(_asked(each) for each in streams)
        if last_s is None or snapshot.time_s <= last_s:
            self.since_s, self.rate = snapshot.time_s, asked
            self._keep_need(snapshot.time_s, asked)
            return None
        period_s = snapshot.time_s - last_s
        self._follow(asked, period_s)
        self._keep_need(snapshot.time_s, max(self.rate, asked - _CHANCE * math.sqrt(asked / period_s)))
        if last_s < settled_s:
            return None
        self._add_late(streams, period_s)
        late = sum(_late(each) * _asked(each) for each in streams)
        return Observation(asked, late / asked if asked else 0.0, asked * period_s, _finite(snapshot.power_w))

    def _follow(self, asked: float, period_s: float) -> None:
        """Smooth what is asked, but for what is too far off to be chance: a count's spread is its root."""
        is_another = abs(asked - self.rate) > _ANOTHER * math.sqrt(max(self.rate, asked) / period_s)
        self.rate += (asked - self.rate) * (1.0 if is_another else 1 - math.exp(-period_s / _SMOOTHING_S))

    def _keep_need(self, time_s: float, need: float) -> None:
        self.need = need
        self._needs.append((time_s, need))
        while self._needs[0][0] < time_s - _LONGEST_S:
            self._needs.popleft()

    def _add_late(self, streams: Iterable[StreamSeen], period_s: float) -> None:
        left = math.exp(-period_s / _LATE_MEMORY_S)
        self._lately = {each.name: self._lately.get(each.name) or _Lately() for each in streams}
        for each in streams:
            self._lately[each.name].add(_late(each), _asked(each) * period_s, left)

    def forget_late(self) -> None:
        """Start anew, as the mode is another."""
        self._lately.clear()

    @property
    def late(self) -> float:
        """The share of frames that were late in the last seconds, of the worst stream."""
        return max((each.late / (each.frames + _FRAMES_IN_MIND) for each in self._lately.values()), default=0.0)

    def highest_need(self, over_s: float) -> float:
        """Return the highest need of the last seconds."""
        from_s = self._needs[-1][0] - over_s if self._needs else 0.0
        return max((need for time_s, need in self._needs if time_s >= from_s), default=0.0)


def _asked(stream: StreamSeen) -> float:
    asked = _finite(stream.asked_per_s)
    if asked is None:
        asked = _finite(stream.results_per_s)
    return max(0.0, asked or 0.0)


def _late(stream: StreamSeen) -> float:
    """Return the share of the period's frames that were late or had no result."""
    told = _finite(stream.late)
    if told is not None:
        return min(1.0, max(0.0, told))
    p99_ms, target_ms, results = _finite(stream.p99_ms), _finite(stream.target_p99_ms), _finite(stream.results_per_s)
    late = _LATE_BY_P99 if p99_ms is not None and target_ms is not None and p99_ms > target_ms else 0.0
    asked = _asked(stream)
    missed = 1 - results / asked if results is not None and asked else 0.0
    return min(1.0, late + (missed if missed > _MOST_MISSED else 0.0))


def _known(values: Iterable[float | None]) -> list[float]:
    return [each for each in map(_finite, values) if each is not None]


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None
