"""Energy of each rail and of all together, period by period."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.host.sensors.energy import Energy, Sample, Segment, segments, sum_of
from edge.host.sensors.rail_sampler import RailSampler
from edge.host.sensors.rail_table import Total


@dataclass(frozen=True, slots=True)
class EnergyPeriod:
    """Measured energy of one period."""

    start_ns: int  # monotonic
    end_ns: int
    rails: Mapping[str, Energy] = field(default_factory=dict)
    total: Energy | None = None  # None if no rails are known
    alternative: Energy | None = None
    unchanged_s: Mapping[str, float] = field(default_factory=dict)  # time for which a rail has read the same

    @property
    def seconds(self) -> float:
        return (self.end_ns - self.start_ns) / 1e9


class _Account:
    """One rail's unsettled samples, and the last change of its reading."""

    def __init__(self, sampler: RailSampler, rail: str) -> None:
        self._sampler = sampler
        self._rail = rail
        self._samples: list[Sample] = []
        self.changed: Sample | None = None  # the first of the newest run of equal samples

    def segments(self, start_ns: int, end_ns: int) -> list[Segment]:
        """Return the known power of a period; forget all samples before its end except the last."""
        self._add(self._sampler.drain(self._rail), start_ns)
        known = segments(self._samples, start_ns, end_ns, self._sampler.bound_ns, self._sampler.hold_ns)
        past = bisect_right(self._samples, end_ns, key=lambda sample: sample[0])
        del self._samples[: max(past - 1, 0)]
        return known

    def _add(self, new: Sequence[Sample], start_ns: int) -> None:
        # The very first reading comes a moment after the start; it stands for that moment too.
        if new and self.changed is None and 0 < new[0][0] - start_ns <= self._sampler.hold_ns:
            self._samples.append((start_ns, new[0][1]))
        self._samples += new
        for sample in new:
            if self.changed is None or sample[1] != self.changed[1]:
                self.changed = sample


class EnergyLedger:
    """Integrates samples into energy; any thread may call it, and none waits for a sensor."""

    def __init__(self, samplers: Sequence[RailSampler], total: Total | None, start_ns: int) -> None:
        self._accounts = {rail: _Account(sampler, rail) for sampler in samplers for rail in sampler.rails}
        self._total = total
        self._lock = threading.Lock()
        self._start_ns = self._settled_ns = start_ns
        self._rails = dict.fromkeys(self._accounts, Energy())
        self._sum, self._sum_without = Energy(), Energy()

    def settle(self, until_ns: int) -> None:
        """Integrate the samples so far, so that few are kept."""
        with self._lock:
            self._settle(until_ns)

    def close_period(self, end_ns: int) -> EnergyPeriod:
        """Return the period since the last call, and begin the next."""
        with self._lock:
            self._settle(end_ns)
            period = EnergyPeriod(
                self._start_ns,
                end_ns,
                self._rails,
                None if self._total is None else self._sum,
                None if self._total is None or self._total.alternative is None else self._sum_without,
                {
                    rail: (end_ns - account.changed[0]) / 1e9
                    for rail, account in self._accounts.items()
                    if account.changed is not None
                },
            )
            self._start_ns = end_ns
            self._rails = dict.fromkeys(self._accounts, Energy())
            self._sum, self._sum_without = Energy(), Energy()
        return period

    def _settle(self, until_ns: int) -> None:
        start_ns, period_ns = self._settled_ns, until_ns - self._settled_ns
        if period_ns <= 0:
            return
        self._settled_ns = until_ns
        known = {rail: account.segments(start_ns, until_ns) for rail, account in self._accounts.items()}
        self._rails = {rail: energy + sum_of([known[rail]], period_ns) for rail, energy in self._rails.items()}
        if self._total is not None:
            self._sum += sum_of([known[rail] for rail in self._total.rails], period_ns)
            without = self._total.alternative or ()
            self._sum_without += sum_of([known[rail] for rail in without], period_ns)
