"""The Grafana dashboard: of the documented form, and every metric and label in it is one that the page has."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from prometheus_client.openmetrics import parser

from tests.support.metrics_pages import OPENMETRICS, everything_measured

DASHBOARD = json.loads((Path(__file__).parents[2] / "docs" / "grafana.json").read_text(encoding="utf-8"))
GRID_COLUMNS = 24
KINDS = {"row", "stat", "timeseries", "state-timeline"}
# What an operator looks for first, by words of the panels' titles.
ASKED_FOR = (
    "throughput", "latency", "without a result", "power by rail", "energy an image", "images/s/w", "temperature",
    "throttled", "messages that wait", "power mode",
)  # fmt: skip
VARIABLE = re.compile(r"\$(\w+)|\$\{(\w+)[^}]*\}")
SET_BY_GRAFANA = {"__rate_interval"}


def panels() -> list[Any]:
    return list(DASHBOARD["panels"])


def targets() -> Iterator[Any]:
    for panel in panels():
        yield from panel.get("targets", ())


def expressions() -> list[str]:
    """Return all queries, with what Grafana puts in for its variables."""
    return [
        target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".+").replace("$stream", ".+")
        for target in targets()
    ]


@pytest.fixture(scope="module")
def page() -> dict[str, set[str]]:
    """Give the labels of each metric of a page on which everything is measured."""
    labels: dict[str, set[str]] = {}
    parse: Any = parser.text_string_to_metric_families
    for family in parse(everything_measured().text(OPENMETRICS)[0].decode()):
        assert family.samples, f"{family.name} has no sample on this page, though all is measured"
        for sample in family.samples:
            labels.setdefault(sample.name, {"instance", "job"}).update(sample.labels)
    return labels


def selectors(node: Any) -> Iterator[Any]:
    """Yield each selection of a series in a parsed query."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs"):
        if (inner := getattr(node, name, None)) is not None and not callable(inner):
            yield from selectors(inner)
    if isinstance(node, promql_parser.Call):
        for argument in node.args:
            yield from selectors(argument)


def test_each_query_is_promql_and_asks_for_what_the_page_has(page: dict[str, set[str]]) -> None:
    seen = 0
    for expression in expressions():
        chosen = list(selectors(promql_parser.parse(expression)))
        assert len(chosen) == len(re.findall(r"\b(?:edge|process)_\w+", expression)), expression
        for selector in chosen:
            assert selector.name in page, f"{selector.name} is not on the page"
            for matcher in selector.matchers.matchers:
                assert matcher.name in page[selector.name], f"{selector.name} has no label {matcher.name}"
            seen += 1
    assert seen > 40


def test_legends_and_groups_name_labels_that_the_metrics_have(page: dict[str, set[str]]) -> None:
    for target in targets():
        metrics = re.findall(r"\b(?:edge|process)_\w+", target["expr"])
        known = set.intersection(*(page[metric] for metric in metrics))
        wanted = set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"]))
        for group in re.findall(r"by \(([^)]+)\)", target["expr"]):
            wanted |= set(re.split(r",\s*", group))
        assert wanted <= known, target


def test_counters_are_asked_for_as_rates_and_gauges_as_they_are() -> None:
    for expression in expressions():
        for metric in re.findall(r"\b((?:edge|process)_\w+)\{", expression):
            counts = metric.endswith(("_total", "_bucket", "_sum", "_count"))
            assert counts == bool(re.search(rf"(rate|increase)\({metric}\{{", expression)), expression


def test_the_variables_ask_for_what_the_page_has(page: dict[str, set[str]]) -> None:
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", variable["query"]["query"])
            assert found is not None
            assert found[2] in page[found[1]]


def test_every_variable_that_is_used_is_declared() -> None:
    declared = {variable["name"] for variable in DASHBOARD["templating"]["list"]}
    text = json.dumps(DASHBOARD, ensure_ascii=False)
    used = {first or second for first, second in VARIABLE.findall(text)}
    assert used - SET_BY_GRAFANA == declared


def test_the_data_source_is_a_variable_everywhere() -> None:
    source = {"type": "prometheus", "uid": "${datasource}"}
    assert all(target["datasource"] == source for target in targets())
    assert all(panel["datasource"] == source for panel in panels() if panel["type"] != "row")
    (variable,) = (each for each in DASHBOARD["templating"]["list"] if each["type"] == "datasource")
    assert (variable["name"], variable["query"]) == ("datasource", "prometheus")


def test_it_has_the_fields_of_the_documented_model() -> None:
    """See https://grafana.com/docs/grafana/latest/dashboards/build-dashboards/view-dashboard-json-model/."""
    kinds: dict[str, type] = {
        "title": str, "uid": str, "tags": list, "timezone": str, "editable": bool, "graphTooltip": int, "panels": list,
        "time": dict, "timepicker": dict, "templating": dict, "annotations": dict, "refresh": str,
        "schemaVersion": int, "version": int, "links": list,
    }  # fmt: skip
    assert {key: type(DASHBOARD[key]) for key in kinds} == kinds
    assert DASHBOARD["id"] is None, "Grafana gives it"
    assert len(DASHBOARD["uid"]) <= 40
    for panel in panels():
        assert panel["type"] in KINDS
        assert set(panel["gridPos"]) == {"x", "y", "w", "h"}
        references = [target["refId"] for target in panel.get("targets", ())]
        assert len(set(references)) == len(references)
        assert panel["type"] == "row" or (references and panel["description"] and panel["fieldConfig"]["defaults"])
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_panels_lie_in_the_grid_and_none_on_another() -> None:
    places = [panel["gridPos"] for panel in panels()]
    assert all(place["x"] >= 0 and place["x"] + place["w"] <= GRID_COLUMNS for place in places)
    for one, other in combinations(places, 2):
        apart_x = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        apart_y = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert apart_x or apart_y, (one, other)


def test_what_an_operator_looks_for_has_a_panel() -> None:
    titles = " | ".join(panel["title"].lower() for panel in panels())
    assert [each for each in ASKED_FOR if each not in titles] == []
