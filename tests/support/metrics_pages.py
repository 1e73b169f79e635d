"""Pages of metrics: fetched, and parsed by two parsers."""

from __future__ import annotations

import urllib.request
from collections.abc import Callable, Iterable

from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Parse = Callable[[str], Iterable[Metric]]
parse_text: Parse = parser.text_string_to_metric_families
parse_openmetrics: Parse = openmetrics.text_string_to_metric_families


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
