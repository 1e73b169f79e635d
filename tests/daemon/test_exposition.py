"""What Prometheus reads: the same figures as telemetry, named as its conventions say, parsed by its own parser."""

from __future__ import annotations

import importlib.util
import itertools
import re
import socket
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.config import HttpSettings
from edge.core.records import DROP_CAUSES, EngineTimes
from edge.daemon.prometheus.exporter import Exporter
from edge.daemon.prometheus.exposition import Exposition
from edge.daemon.prometheus.metric_table import COUNTERS, GAUGES, PERIODS, STREAM_COUNTERS, SUMMARIES
from edge.pipeline.meters import BUCKET_BOUNDS_S, ModelMeter, StreamMeter
from tests.support.configuration import Json
from tests.support.metrics_pages import (
    OPENMETRICS,
    Samples,
    body_of,
    named,
    of,
    parse_openmetrics,
    parse_text,
    result,
    samples_of,
)
from tests.support.waiting import free_port

# Prometheus: https://prometheus.io/docs/practices/naming/
BASE_UNITS = ("seconds", "joules", "watts", "celsius", "ratio", "bytes", "hertz")
OTHER_UNITS = re.compile(r"_(ms|ns|s|us|minutes|hours|mb|kb|mhz|ghz|mj|kwh|mw|w|j|c|percent|percentage)(_|$)")


def page_of(page: Exposition, body: Json, streams: Mapping[str, StreamMeter], **models: ModelMeter) -> Samples:
    page.update(body, streams, models, (), 0, is_connected=True)
    return samples_of(parse_openmetrics(page.text(OPENMETRICS)[0].decode()))


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_host_that_can_be_no_name_is_told_in_one_sentence(host: str, caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter()
    exporter.start(HttpSettings(enabled=True, host=host))
    exporter.stop()
    (record,) = caplog.records
    assert f"[http] host {host}, port 9469 cannot be listened on (" in record.getMessage()


@pytest.mark.parametrize(("host", "named"), [("127.0.0.1", "127.0.0.1"), ("0.0.0.0", socket.gethostname())])
def test_the_link_to_the_page_names_this_machine(host: str, named: str, port: int) -> None:
    exporter = Exporter()
    assert exporter.link is None
    exporter.start(HttpSettings(enabled=True, host=host, port=port))
    exporter.stop()
    assert exporter.link == f"http://{named}:{port}/metrics"


def missing(name: str, *_: Any) -> None:
    assert name == "prometheus_client"


def test_a_missing_package_is_told_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, port: int
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", missing)
    exporter = Exporter()
    exporter.start(HttpSettings(enabled=True, port=port))
    exporter.update({}, {}, {}, (), is_connected=False)
    exporter.stop()
    (record,) = caplog.records
    assert "pip install '.[all]'" in record.getMessage()


@pytest.fixture
def page() -> tuple[str, str]:
    """Give both texts of one page with a stream and a model."""
    stream, model = StreamMeter(), ModelMeter(lanes=1)
    stream.captured()
    stream.resulted(result())
    stream.acknowledged(1.0, 30.0)
    model.inferred(1, EngineTimes(3.0))
    shown = Exposition()
    alarms = [{"alarm": "throttled", "model": None, "severity": "warning"}]
    shown.update(body_of({"door": stream}, {"m": model}), {"door": stream}, {"m": model}, alarms, 0, is_connected=True)
    return shown.text("")[0].decode(), shown.text(OPENMETRICS)[0].decode()


def test_names_units_and_helps_follow_the_conventions(page: tuple[str, str]) -> None:
    for family in parse_openmetrics(page[1]):
        assert re.fullmatch(r"(edge|process)(_[a-z]+)+", family.name)
        assert family.documentation.endswith("."), family.name
        assert not OTHER_UNITS.search(family.name), family.name
        assert not family.name.endswith("_total"), "OpenMetrics adds it to each counter's samples"
        assert (family.unit or "-") in (*BASE_UNITS, "-")
        if any(family.name.endswith(f"_{unit}") for unit in BASE_UNITS) and family.name.startswith("edge"):
            assert family.name.endswith(f"_{family.unit}")
        if family.type == "counter":
            assert all(sample.name == f"{family.name}_total" for sample in family.samples)
        else:
            assert not any(sample.name.endswith("_total") for sample in family.samples)
        assert not any(label.startswith("_") or label == "job" for s in family.samples for label in s.labels)
    assert page[1].endswith("# EOF\n")


def test_every_counter_is_one_in_the_older_format_too(page: tuple[str, str]) -> None:
    types = re.findall(r"^# TYPE (\S+) (\S+)$", page[0], re.MULTILINE)
    assert {name for name, kind in types if kind == "counter" and name.startswith("edge")} == {
        name for name, _ in types if name.startswith("edge") and name.endswith("_total")
    }
    helps = re.findall(r"^# HELP (\S+) (.+)$", page[0], re.MULTILINE)
    assert {name for name, _ in helps} == {name for name, _ in types}


def test_rows_have_names_of_their_own_and_one_help_each() -> None:
    rows = [*GAUGES, *SUMMARIES, *STREAM_COUNTERS, *COUNTERS, *PERIODS]
    assert len({row.name for row in rows}) == len({row.help_text for row in rows}) == len(rows)
    assert all(row.name.endswith("_total") for row in (*STREAM_COUNTERS, *COUNTERS, *PERIODS))
    assert not any(row.name.endswith("_total") for row in GAUGES)


def test_what_is_not_measured_has_no_sample(page: tuple[str, str]) -> None:
    samples = samples_of(parse_openmetrics(page[1]))
    names = {name for name, _ in samples}
    assert "edge_stream_frames_total" in names
    for absent in (
        "edge_board_power_watts", "edge_board_energy_joules_total", "edge_throttled", "edge_gpu_clock_hertz",
        "edge_cpu_load_ratio", "edge_outbox_oldest_seconds", "edge_over_current_events_total",
        "edge_model_image_energy_joules", "edge_power_mode_info", "edge_model_agreement_ratio",
    ):  # fmt: skip
        assert absent not in names


def test_the_histogram_counts_every_frame_once_and_adds_up(page: tuple[str, str]) -> None:
    samples = samples_of(parse_openmetrics(page[1]))
    for until, seconds in (("found", 0.02), ("acknowledged", 0.03)):
        labels = {"stream": "door", "until": until}
        assert of(samples, "edge_stream_latency_seconds_count", **labels) == 1
        assert of(samples, "edge_stream_latency_seconds_sum", **labels) == pytest.approx(seconds)
        for bound_s in BUCKET_BOUNDS_S:
            counted = of(samples, "edge_stream_latency_seconds_bucket", **labels, le=str(bound_s))
            assert counted == (seconds <= bound_s), bound_s
        assert of(samples, "edge_stream_latency_seconds_bucket", **labels, le="+Inf") == 1


def test_the_summaries_have_the_quantiles_of_telemetry_and_add_up_over_a_change() -> None:
    shown, streams, models = Exposition(), {"door": StreamMeter()}, {"m": ModelMeter(lanes=1)}
    for turn in (1, 2):
        streams["door"].captured()
        streams["door"].resulted(result())
        models["m"].inferred(1, EngineTimes(3.0))
        samples = page_of(shown, body_of(streams, models), streams, **models)
        labels = {"stream": "door", "stage": "infer"}
        assert of(samples, "edge_stream_stage_seconds", **labels, quantile="1.0") == pytest.approx(0.003)
        assert of(samples, "edge_stream_stage_seconds_count", **labels) == turn
        assert of(samples, "edge_stream_stage_seconds_sum", **labels) == pytest.approx(0.003 * turn)
        assert of(samples, "edge_model_part_seconds_count", model="m", part="compute") == turn
        streams, models = {"door": StreamMeter()}, {"m": ModelMeter(lanes=1)}  # as a reload that changes both
    assert of(samples, "edge_stream_stage_seconds_count", stream="door", stage="total") is None, "not measured"


def test_an_alarm_that_stands_is_told_with_its_severity(page: tuple[str, str]) -> None:
    samples = samples_of(parse_text(page[0]))
    assert of(samples, "edge_alarm", alarm="throttled", model="", severity="warning") == 1
    assert of(samples, "edge_alarms") == 1


# One step in the life of a stream: frames that become a result, are gated, are dropped; or a change of it.
steps = st.lists(st.sampled_from(["result", "gated", "overrun", "in flight", "changed", "told"]), max_size=60)


@given(steps)
def test_totals_never_fall_and_lose_nothing_over_changes_of_a_stream(steps_: list[str]) -> None:
    shown, meter, counted = Exposition(), StreamMeter(), dict.fromkeys(("frames", "results", "gated", "overrun"), 0)
    before = dict(counted)
    actions: dict[str, Callable[[], None]] = {
        "result": lambda: meter.resulted(result()),
        "gated": lambda: meter.gated(result()),
        "overrun": lambda: meter.dropped("overrun"),
    }
    for step in itertools.chain(steps_, ["told"]):
        if step == "changed":
            for _ in range(meter.in_flight):
                meter.dropped("overrun")
                counted["overrun"] += 1
            meter = StreamMeter()
        elif step != "told":
            meter.captured()
            counted["frames"] += 1
            if step in actions:
                actions[step]()
                counted["results" if step == "result" else step] += 1
        else:
            samples = page_of(shown, body_of({"door": meter}), {"door": meter})
            told = {
                "frames": of(samples, "edge_stream_frames_total", stream="door"),
                "results": of(samples, "edge_stream_results_total", stream="door"),
                **{
                    cause: of(samples, "edge_stream_dropped_frames_total", stream="door", cause=cause)
                    for cause in ("gated", "overrun")
                },
            }
            # Of a stream that was changed twice within one period, the life between goes untold.
            assert all(before[name] <= (told[name] or 0) for name in told)
            before = {name: int(value or 0) for name, value in told.items()}
            if changed_at_most_once_a_period(steps_):
                assert told == counted
                found = of(samples, "edge_stream_latency_seconds_count", stream="door", until="found")
                assert found == counted["results"] + counted["gated"]


def changed_at_most_once_a_period(steps_: list[str]) -> bool:
    """Tell whether no two changes lie between two tellings, nor one before the first."""
    periods = "".join("t" if step == "told" else "c" if step == "changed" else "" for step in steps_).split("t")
    return all(len(period) <= 1 for period in periods) and not periods[0]


def test_a_stream_that_is_taken_out_goes_with_its_series() -> None:
    shown, door, yard = Exposition(), StreamMeter(), StreamMeter()
    door.captured()
    assert of(page_of(shown, body_of({"door": door}), {"door": door}), "edge_stream_frames_total", stream="door") == 1
    samples = page_of(shown, body_of({"yard": yard}), {"yard": yard})
    assert not any(("stream", "door") in labels for _, labels in samples)
    assert of(samples, "edge_stream_dropped_frames_total", stream="yard", cause="gated") == 0
    assert len(named(samples, "edge_stream_dropped_frames_total")) == len(DROP_CAUSES)


def test_labels_that_need_escaping_come_back_as_they_were() -> None:
    body = body_of({}, {"m": ModelMeter(lanes=1)})
    body["models"]["m"]["engine"] = odd = 'trt"fp16\\x\n{}é'
    assert of(page_of(Exposition(), body, {}), "edge_model_info", model="m", engine=odd) == 1
