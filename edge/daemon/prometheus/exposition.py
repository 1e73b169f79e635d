"""Exposition of metrics in either text format of Prometheus, written by prometheus-client, an optional package."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, Literal

from prometheus_client import ProcessCollector, generate_latest
from prometheus_client import metrics_core as core
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from edge import __version__
from edge.daemon.prometheus.counters import Counters, Labels, Spreads, Values
from edge.daemon.prometheus.metric_table import COUNTERS, GAUGES, PERIODS, STREAM_COUNTERS, SUMMARIES, Json, Metric
from edge.pipeline.meters import BUCKET_BOUNDS_S, ModelMeter, StreamMeter

Format = Literal["text", "openmetrics"]
FORMATS: dict[Format, tuple[Callable[[Collector], bytes], str]] = {
    "text": (generate_latest, "text/plain; version=0.0.4; charset=utf-8"),
    "openmetrics": (openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST),
}
UNITS = ("seconds", "joules", "watts", "celsius", "ratio", "bytes", "hertz")
BOUNDS = (*map(str, BUCKET_BOUNDS_S), "+Inf")
_OF_MODELS = (
    Metric("edge_model_images_total", "Images inferred.", ("model",), lambda _: iter(())),
    Metric("edge_model_busy_seconds_total", "Time that the engine ran, in all lanes.", ("model",), lambda _: iter(())),
)


Alarms = Sequence[Mapping[str, Any]]  # standing, as the status lists them


class Exposition:
    """The figures of the newest period as text, written once per format and period, however often they are read."""

    def __init__(self) -> None:
        self._counters = Counters()
        self._newest = _Period([])

    def update(
        self,
        body: Json,
        streams: Mapping[str, StreamMeter],
        models: Mapping[str, ModelMeter],
        alarms: Alarms,
        dropped_readers: int,
        *,
        is_connected: bool,
    ) -> None:
        """Replace the figures by those of a period: its telemetry message, its meters, and the standing alarms."""
        self._counters.update(body, streams, models)
        families = [*_infos(body), *_standing(alarms), *_gauges(body), *_counters(self._counters.values)]
        families += [
            *_summaries(body, self._counters.spreads),
            _latency(self._counters.spreads["edge_stream_latency_seconds"]),
            core.GaugeMetricFamily("edge_mqtt_connected", "Whether the broker is connected.", float(is_connected)),
            core.CounterMetricFamily(
                "edge_scrape_dropped_connections_total",
                "Readers of this page that were too slow, or displaced by newer ones.",
                dropped_readers,
            ),
        ]
        self._newest = _Period(families)

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the page, and its content type, for an Accept header; called by another thread than `update`."""
        return self._newest.text("openmetrics" if "application/openmetrics-text" in accept else "text")


class _Period(Collector):
    """The figures of one period."""

    def __init__(self, families: list[core.Metric]) -> None:
        self._families = families
        self._process = ProcessCollector(registry=None)
        self._texts: dict[Format, tuple[bytes, str]] = {}

    def collect(self) -> Iterable[core.Metric]:
        return [*self._families, *self._process.collect()]

    def text(self, as_format: Format) -> tuple[bytes, str]:
        if as_format not in self._texts:
            write, content_type = FORMATS[as_format]
            self._texts[as_format] = write(self), content_type
        return self._texts[as_format]


def _infos(body: Json) -> Iterator[core.Metric]:
    board, mode = body["board"], body["board"]["power_mode"]
    # Nothing that changes with each start: it would be a new series each time.
    build = {"version": __version__, "device": body["device"], "board": board["name"]}
    yield _info("edge_build", "Version, device and board of the daemon.", [build])
    engines = [{"model": name, "engine": model["engine"]} for name, model in body["models"].items()]
    yield _info("edge_model", "Engine that serves a model.", engines)
    yield _info("edge_power_mode", "Power mode of the board.", [] if mode is None else [{"mode": mode}])


def _standing(alarms: Alarms) -> Iterator[core.Metric]:
    yield core.GaugeMetricFamily("edge_alarms", "Number of standing alarms.", len(alarms))
    labels = ("alarm", "model", "severity")
    family = core.GaugeMetricFamily("edge_alarm", "1 for each standing alarm.", labels=labels)
    for alarm in alarms:
        family.add_metric((alarm["alarm"], alarm["model"] or "", alarm["severity"]), 1)
    yield family


def _info(name: str, help_text: str, labels: Iterable[dict[str, str]]) -> core.Metric:
    family = core.Metric(name, help_text, "info")
    for each in labels:
        family.add_sample(f"{name}_info", each, 1)
    return family


def _gauges(body: Json) -> Iterator[core.Metric]:
    for row in GAUGES:
        family = core.GaugeMetricFamily(row.name, row.help_text, labels=row.labels, unit=_unit(row.name))
        for labels, value in row.read(body):
            if value is not None:
                family.add_metric(labels, float(value))
        yield family


def _counters(totals: Mapping[str, Values]) -> Iterator[core.Metric]:
    for row in (*STREAM_COUNTERS, *COUNTERS, *PERIODS, *_OF_MODELS):
        unit = _unit(row.name.removesuffix("_total"))
        family = core.CounterMetricFamily(row.name, row.help_text, labels=row.labels, unit=unit)
        for labels, value in totals[row.name].items():
            family.add_metric(labels, value)
        yield family


def _summaries(body: Json, spreads: Mapping[str, Spreads]) -> Iterator[core.Metric]:
    for row in SUMMARIES:
        family = core.SummaryMetricFamily(row.name, row.help_text, labels=row.labels, unit=_unit(row.name))
        quantiles: dict[Labels, dict[str, float]] = {}
        for (*labels, quantile), value in row.read(body):
            quantiles.setdefault(tuple(labels), {})[quantile] = value or 0.0
        for key, ((count,), sum_s) in spreads[row.name].items():
            named = dict(zip(row.labels, key, strict=True))
            for quantile, value in quantiles.get(key, {}).items():
                family.add_sample(row.name, named | {"quantile": quantile}, value)
            if count:
                family.add_metric(key, count, sum_s)
        yield family


def _latency(spreads: Spreads) -> core.Metric:
    family = core.HistogramMetricFamily(
        "edge_stream_latency_seconds",
        "From a frame's capture until its findings were decoded, and until the broker acknowledged its result.",
        labels=("stream", "until"),
        unit="seconds",
    )
    for labels, (counts, sum_s) in spreads.items():
        family.add_metric(labels, list(zip(BOUNDS, accumulate(counts), strict=True)), sum_s)
    return family


def _unit(name: str) -> str:
    return next((unit for unit in UNITS if name.endswith(f"_{unit}")), "")
