"""Energy from samples of power: trapezoids between time stamps; gaps are left out and reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import NamedTuple

# Monotonic nanoseconds, and watts. Two samples at one moment are a step; a missing reading is not a sample.
Sample = tuple[int, float]
Interval = tuple[int, int]  # monotonic nanoseconds


class Segment(NamedTuple):
    """Power that changes linearly from one moment to another."""

    start_ns: int
    start_w: float
    end_ns: int
    end_w: float

    def within(self, start_ns: int, end_ns: int) -> Segment:
        """Return the part from `start_ns` to `end_ns`, both inside the segment."""
        slope = (self.end_w - self.start_w) / (self.end_ns - self.start_ns)
        return Segment(
            start_ns,
            self.start_w + slope * (start_ns - self.start_ns),
            end_ns,
            self.start_w + slope * (end_ns - self.start_ns),
        )

    @property
    def energy_j(self) -> float:
        return (self.start_w + self.end_w) / 2 * (self.end_ns - self.start_ns) / 1e9


@dataclass(frozen=True, slots=True)
class Energy:
    """Measured energy of a period."""

    joules: float = 0.0
    covered_ns: int = 0
    period_ns: int = 0

    @property
    def energy_j(self) -> float | None:
        """Joules of the covered time; None if nothing was covered."""
        return self.joules if self.covered_ns else None

    @property
    def power_w(self) -> float | None:
        """Mean power of the covered time."""
        return self.joules / (self.covered_ns / 1e9) if self.covered_ns else None

    @property
    def gap_s(self) -> float:
        return (self.period_ns - self.covered_ns) / 1e9

    def __add__(self, other: Energy) -> Energy:
        return Energy(self.joules + other.joules, self.covered_ns + other.covered_ns, self.period_ns + other.period_ns)


def segments(samples: Sequence[Sample], start_ns: int, end_ns: int, bound_ns: int, hold_ns: int) -> list[Segment]:
    """Return the known power from `start_ns` to `end_ns`, from samples in order of time.

    Readings further apart than `bound_ns` are not joined: between them is a gap. The newest reading holds for at most
    `hold_ns`, to the end of the period, as the next one has not arrived yet.
    """
    known = []
    for (first_ns, first_w), (last_ns, last_w) in pairwise(_held(samples, end_ns, hold_ns)):
        if last_ns - first_ns > bound_ns:
            continue
        clipped = max(first_ns, start_ns), min(last_ns, end_ns)
        if clipped[0] < clipped[1]:
            known.append(Segment(first_ns, first_w, last_ns, last_w).within(*clipped))
    return known


def _held(samples: Sequence[Sample], end_ns: int, hold_ns: int) -> Iterator[Sample]:
    yield from samples
    if samples and 0 < end_ns - samples[-1][0] <= hold_ns:
        yield end_ns, samples[-1][1]


def coverage(known: Iterable[Segment]) -> list[Interval]:
    """Return the intervals that segments cover, adjacent ones joined."""
    joined: list[Interval] = []
    for segment in known:
        if joined and joined[-1][1] == segment.start_ns:
            joined[-1] = joined[-1][0], segment.end_ns
        else:
            joined.append((segment.start_ns, segment.end_ns))
    return joined


def intersection(first: Sequence[Interval], second: Sequence[Interval]) -> list[Interval]:
    """Return the time in both; each is in order and without overlap."""
    both: list[Interval] = []
    i = j = 0
    while i < len(first) and j < len(second):
        start_ns, end_ns = max(first[i][0], second[j][0]), min(first[i][1], second[j][1])
        if start_ns < end_ns:
            both.append((start_ns, end_ns))
        if first[i][1] < second[j][1]:
            i += 1
        else:
            j += 1
    return both


def energy(known: Sequence[Segment], moments: Sequence[Interval]) -> float:
    """Return the joules of segments within intervals, both in order."""
    joules, position = 0.0, 0
    for start_ns, end_ns in moments:
        while position < len(known) and known[position].end_ns <= start_ns:
            position += 1
        for segment in islice(known, position, None):
            if segment.start_ns >= end_ns:
                break
            joules += segment.within(max(segment.start_ns, start_ns), min(segment.end_ns, end_ns)).energy_j
    return joules


def sum_of(rails: Sequence[Sequence[Segment]], period_ns: int) -> Energy:
    """Return the energy of rails together, over the time in which all of them were measured."""
    if not rails:
        return Energy(period_ns=period_ns)
    moments = coverage(rails[0])
    for known in rails[1:]:
        moments = intersection(moments, coverage(known))
    covered_ns = sum(end_ns - start_ns for start_ns, end_ns in moments)
    return Energy(sum(energy(known, moments) for known in rails), covered_ns, period_ns)
