"""Monotonic counters, from counts that restart when a stream changes, and from figures of a period."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, TypeVar

from edge.daemon.prometheus.metric_table import COUNTERS, PERIODS, STREAM_COUNTERS, Json, Sample
from edge.pipeline.meters import ModelMeter, Spread, StreamMeter

Labels = tuple[str, ...]
Values = dict[Labels, float]
Spreads = dict[Labels, Spread]
_Meter = TypeVar("_Meter")


class Counters:
    """Counters over the life of the daemon; those of a stream go when it is removed."""

    def __init__(self) -> None:
        self._meters: dict[str, StreamMeter] = {}
        self._former: dict[str, Values] = {row.name: {} for row in STREAM_COUNTERS}  # of meters that were replaced
        self._sums: dict[str, Values] = {row.name: {} for row in PERIODS}
        self._images: Values = {}
        self._busy_s: Values = {}
        self._latency = SpreadTotals(StreamMeter.buckets)
        self._stages = SpreadTotals(StreamMeter.stages)
        self._parts = SpreadTotals(ModelMeter.parts)
        self.spreads: dict[str, Spreads] = {}  # by metric
        self.values: dict[str, Values] = {}  # by metric

    def update(self, body: Json, streams: Mapping[str, StreamMeter], models: Mapping[str, ModelMeter]) -> None:
        """Add the telemetry message of a period, and the meters behind it."""
        self._follow(streams)
        for row in PERIODS:
            _add(self._sums[row.name], row.read(body))
        _add(self._images, (((name,), meter.work.images) for name, meter in models.items()))
        _add(self._busy_s, (((name,), meter.work.busy_ms / 1000) for name, meter in models.items()))
        self.spreads = {
            "edge_stream_latency_seconds": self._latency.update(streams),
            "edge_stream_stage_seconds": self._stages.update(streams),
            "edge_model_part_seconds": self._parts.update(models),
        }
        self.values = {
            **{row.name: _sum(self._former[row.name], row.read(body)) for row in STREAM_COUNTERS},
            **{row.name: _sum({}, row.read(body)) for row in COUNTERS},
            **{name: dict(values) for name, values in self._sums.items()},
            "edge_model_images_total": dict(self._images),
            "edge_model_busy_seconds_total": dict(self._busy_s),
        }

    def _follow(self, streams: Mapping[str, StreamMeter]) -> None:
        """Keep the final counts of replaced meters; forget the streams that are gone."""
        for name, meter in self._meters.items():
            if name not in streams:
                self._forget(name)
            elif streams[name] is not meter:
                ended = {"streams": {name: meter.counts()}}
                for row in STREAM_COUNTERS:
                    _add(self._former[row.name], row.read(ended))
        self._meters = dict(streams)

    def _forget(self, name: str) -> None:
        for metric, values in self._former.items():
            self._former[metric] = {labels: value for labels, value in values.items() if labels[0] != name}


class SpreadTotals(Generic[_Meter]):
    """Durations over the life of the daemon, of meters that a reload replaces; those of a meter that is gone go."""

    def __init__(self, read: Callable[[_Meter], Mapping[str, Spread]]) -> None:
        self._read = read
        self._meters: dict[str, _Meter] = {}
        self._former: Spreads = {}

    def update(self, meters: Mapping[str, _Meter]) -> Spreads:
        """Return the totals of each meter and part."""
        for name, meter in self._meters.items():
            if name not in meters:
                self._former = {labels: spread for labels, spread in self._former.items() if labels[0] != name}
            elif meters[name] is not meter:
                self._former |= self._totals(name, meter)
        self._meters = dict(meters)
        return {
            labels: spread for name, meter in meters.items() for labels, spread in self._totals(name, meter).items()
        }

    def _totals(self, name: str, meter: _Meter) -> Spreads:
        read = {(name, part): spread for part, spread in self._read(meter).items()}
        return {labels: _joined(self._former.get(labels), spread) for labels, spread in read.items()}


def _add(values: Values, samples: Iterable[Sample]) -> None:
    for labels, value in samples:
        if value is not None:
            values[labels] = values.get(labels, 0.0) + value


def _sum(former: Values, samples: Iterable[Sample]) -> Values:
    return {labels: former.get(labels, 0.0) + value for labels, value in samples if value is not None}


def _joined(former: Spread | None, now: Spread) -> Spread:
    if former is None:
        return now
    return tuple(a + b for a, b in zip(former[0], now[0], strict=True)), former[1] + now[1]
