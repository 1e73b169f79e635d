"""Monotonic counters, from counts that restart when a stream changes, and from figures of a period."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.daemon.prometheus.metric_table import COUNTERS, PERIODS, STREAM_COUNTERS, Json, Sample
from edge.pipeline.meters import ModelMeter, StreamMeter

Labels = tuple[str, ...]
Values = dict[Labels, float]
Spreads = dict[Labels, tuple[tuple[int, ...], float]]  # counts by bound and sum in s, of each stream and its two ends


class Counters:
    """Counters over the life of the daemon; those of a stream go when it is removed."""

    def __init__(self) -> None:
        self._meters: dict[str, StreamMeter] = {}
        self._former: dict[str, Values] = {row.name: {} for row in STREAM_COUNTERS}  # of meters that were replaced
        self._former_spreads: Spreads = {}
        self._sums: dict[str, Values] = {row.name: {} for row in PERIODS}
        self._images: Values = {}
        self._busy_s: Values = {}
        self.spreads: Spreads = {}
        self.values: dict[str, Values] = {}  # by metric

    def update(self, body: Json, streams: Mapping[str, StreamMeter], models: Mapping[str, ModelMeter]) -> None:
        """Add the telemetry message of a period, and the meters behind it."""
        self._follow(streams)
        for row in PERIODS:
            _add(self._sums[row.name], row.read(body))
        _add(self._images, (((name,), meter.work.images) for name, meter in models.items()))
        _add(self._busy_s, (((name,), meter.work.busy_ms / 1000) for name, meter in models.items()))
        self.spreads = {
            labels: _joined(self._former_spreads.get(labels), spread)
            for name, meter in streams.items()
            for labels, spread in _spreads_of(name, meter)
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
                for labels, spread in _spreads_of(name, meter):
                    self._former_spreads[labels] = _joined(self._former_spreads.get(labels), spread)
        self._meters = dict(streams)

    def _forget(self, name: str) -> None:
        for metric, values in self._former.items():
            self._former[metric] = {labels: value for labels, value in values.items() if labels[0] != name}
        self._former_spreads = {labels: spread for labels, spread in self._former_spreads.items() if labels[0] != name}


def _add(values: Values, samples: Iterable[Sample]) -> None:
    for labels, value in samples:
        if value is not None:
            values[labels] = values.get(labels, 0.0) + value


def _sum(former: Values, samples: Iterable[Sample]) -> Values:
    return {labels: former.get(labels, 0.0) + value for labels, value in samples if value is not None}


def _spreads_of(name: str, meter: StreamMeter) -> Iterable[tuple[Labels, tuple[tuple[int, ...], float]]]:
    return (((name, until), spread) for until, spread in meter.buckets().items())


def _joined(
    former: tuple[tuple[int, ...], float] | None, now: tuple[tuple[int, ...], float]
) -> tuple[tuple[int, ...], float]:
    if former is None:
        return now
    return tuple(a + b for a, b in zip(former[0], now[0], strict=True)), former[1] + now[1]
