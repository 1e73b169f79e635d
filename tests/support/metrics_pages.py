"""Pages of metrics: fetched, and parsed by two parsers."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

from edge.core.records import Classes, EngineTimes, OutboxState, Result
from edge.daemon.prometheus.exposition import Exposition
from edge.daemon.telemetry import Telemetry
from edge.host.sensors.sensors import SensorReading
from edge.mqtt.encode import MessageHead
from edge.pipeline.meters import ModelMeter, StreamMeter
from tests.support.configuration import Json

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Parse = Callable[[str], Iterable[Metric]]
parse_text: Parse = parser.text_string_to_metric_families
parse_openmetrics: Parse = openmetrics.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NOTHING_FOUND = Classes(np.empty(0, np.float32), np.empty(0, np.int64))


def samples_of(families: Iterable[Metric]) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float | None:
    return samples.get((name, frozenset(labels.items())))


def named(samples: Samples, name: str) -> dict[frozenset[tuple[str, str]], float]:
    return {labels: value for (each, labels), value in samples.items() if each == name}


def scrape(port: int, accept: str = "") -> tuple[str, str]:
    """Return the page and its content type."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as response:
        return response.read().decode(), response.headers["Content-Type"]


def frames_on_page(port: int) -> float | None:
    return of(samples_of(parse_text(scrape(port)[0])), "edge_stream_frames_total", stream="belt")


def body_of(
    streams: Mapping[str, StreamMeter],
    models: Mapping[str, ModelMeter] | None = None,
    board: SensorReading | None = None,
) -> Json:
    reading = board or SensorReading("a board", None, 1.0)
    labelled = {name: ("engine/1", meter) for name, meter in (models or {}).items()}
    telemetry = Telemetry(MessageHead("bench-01", "0123456789"))
    return telemetry.report(streams, labelled, lambda _: reading, OutboxState())


def result(until_found_ms: float = 20.0) -> Result:
    found_ns = int(until_found_ms * 1e6)
    return Result("door", "m", "e", 0, 0, 0, found_ns, (1, 1), NOTHING_FOUND, (), 1.0, 2.0, 3.0, 4.0, 1)


def everything_measured() -> Exposition:
    """Return a page on which everything is measured."""
    stream, model = StreamMeter(), ModelMeter(lanes=1)
    stream.captured()
    stream.resulted(result())
    model.inferred(1, EngineTimes(3.0))
    body: Any = body_of({"door": stream}, {"m": model}, SensorReading("a board", 0.5, 1.0))
    numbers = (
        "power_w", "power_w_alt", "idle_w", "energy_j", "gap_s", "images_per_s_per_w", "gpu_load", "gpu_mhz",
        "emc_load", "emc_mhz", "fan_duty", "fan_rpm", "over_current_events",
    )  # fmt: skip
    by_name = {"rails_w", "rails_j", "temperature_c", "rails_unchanged_s"}
    told = dict.fromkeys(numbers, 1.0) | {key: {"one": 1.0} for key in by_name}
    body["board"] |= told | {"throttled": True, "throttled_by": ["heat"], "dla_active": {"dla0": True}}
    body["board"]["power_mode"], body["outbox"]["oldest_s"] = "15W", 1.0
    body["commands"] = {"taken": 3, "refused": 1, "lost": 0}
    body["models"]["m"] |= {"energy_j_per_image": 1.0, "energy_j_per_image_above_idle": 1.0}
    body["models"]["m"]["shadow"] = {"frames": 20, "agreement": 1.0}
    shown = Exposition()
    alarms = [{"alarm": "throttled", "model": None, "severity": "warning"}]
    shown.update(body, {"door": stream}, {"m": model}, alarms, 0, is_connected=True)
    return shown
