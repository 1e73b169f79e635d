"""What Prometheus reads: the same figures as telemetry, named as its conventions say, parsed by its own parser."""

from __future__ import annotations

import importlib.util
import itertools
import json
import re
import signal
import socket
import urllib.request
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import parser
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics import parser as openmetrics

from edge.core.config import HttpSettings
from edge.core.records import DROP_CAUSES, Classes, EngineTimes, OutboxState, Result
from edge.daemon.prometheus.exporter import Exporter, address
from edge.daemon.prometheus.exposition import Exposition
from edge.daemon.prometheus.metric_table import COUNTERS, GAUGES, PERIODS, STREAM_COUNTERS
from edge.daemon.telemetry import Telemetry
from edge.host.sensors.sensors import SensorReading
from edge.mqtt.encode import MessageHead
from edge.pipeline.meters import BUCKET_BOUNDS_S, ModelMeter, StreamMeter
from tests.support.configuration import Configure, Json, belt
from tests.support.emulated_boards.boards import build
from tests.support.emulated_boards.power_modes import install_tools, write_power_modes
from tests.support.process import StartEdge, run_edge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]
Parse = Callable[[str], Iterable[Metric]]
parse_text: Parse = parser.text_string_to_metric_families
parse_openmetrics: Parse = openmetrics.text_string_to_metric_families
OPENMETRICS = "application/openmetrics-text; version=1.0.0"
NOTHING_FOUND = Classes(np.empty(0, np.float32), np.empty(0, np.int64))
# Prometheus: https://prometheus.io/docs/practices/naming/
BASE_UNITS = ("seconds", "joules", "watts", "celsius", "ratio", "bytes", "hertz")
OTHER_UNITS = re.compile(r"_(ms|ns|s|us|minutes|hours|mb|kb|mhz|ghz|mj|kwh|mw|w|j|c|percent|percentage)(_|$)")


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


def at_s(body: Json) -> float:
    moment = datetime.fromisoformat(body["at"].rstrip("Z")).replace(tzinfo=timezone.utc)
    return moment.timestamp()


def body_of(
    streams: Mapping[str, StreamMeter],
    models: Mapping[str, ModelMeter] | None = None,
    board: SensorReading | None = None,
) -> Json:
    reading = board or SensorReading("a board", None, 1.0)
    labelled = {name: ("engine/1", meter) for name, meter in (models or {}).items()}
    telemetry = Telemetry(MessageHead("bench-01", "0123456789"))
    return telemetry.report(streams, labelled, lambda _: reading, OutboxState())


def page_of(page: Exposition, body: Json, streams: Mapping[str, StreamMeter], **models: ModelMeter) -> Samples:
    page.update(body, streams, models, (), 0, is_connected=True)
    return samples_of(parse_openmetrics(page.text(OPENMETRICS)[0].decode()))


def result(until_found_ms: float = 20.0) -> Result:
    found_ns = int(until_found_ms * 1e6)
    return Result("door", "m", "e", 0, 0, 0, found_ns, (1, 1), NOTHING_FOUND, (), 1.0, 2.0, 3.0, 4.0, 1)


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def board(tmp_path: Path) -> Mapping[str, str]:
    """Give the environment in which a daemon is on an emulated Orin Nano."""
    root = build("orin-nano-super", tmp_path / "board")
    write_power_modes(root, "orin-nano-super")
    return {"EDGE_ROOT": str(root), "PATH": install_tools(tmp_path / "bin")}


def test_the_page_says_what_telemetry_says(
    board: Mapping[str, str], configure: Configure, start_edge: StartEdge, subscriber: Subscriber, port: int
) -> None:
    streams: dict[str, Json] = {
        "streams.belt": belt(fps=20),
        "streams.seldom": belt(fps=20, seed=2, max_results_per_s=2),
        "streams.asked": belt(fps=300, size="160x120", seed=3),
    }
    config = configure({"http": {"enabled": True, "port": port}, "telemetry": {"period_s": 1.0}, **streams})
    edge = start_edge(config, environment=board)
    subscriber.wait_for(lambda m: m.schema == "telemetry" and is_whole(m.body), "telemetry of everything")
    pages = []
    for accept, parse in (("", parse_text), (OPENMETRICS, parse_openmetrics)):
        eventually(lambda: subscriber.telemetry() != [], "telemetry")
        text, content_type = scrape(port, accept)
        assert content_type.startswith("application/openmetrics-text" if accept else "text/plain; version=0.0.4")
        pages.append(samples_of(parse(text)))
    assert edge.end() == 0
    subscriber.wait_for_state("stopped")
    for samples in pages:
        made_s = of(samples, "edge_telemetry_timestamp_seconds")
        (body,) = (each for each in subscriber.telemetry() if at_s(each) == pytest.approx(made_s, abs=1e-6))
        assert is_whole(body)
        assert_same(samples, body)
    assert_known_totals(pages[-1], subscriber.telemetry())


def is_whole(body: Json) -> bool:
    """Tell whether a period has something of everything."""
    streams, model = body["streams"], body["models"]["conveyor"]
    return (
        all(streams[name]["latency_ms"]["total"] is not None for name in streams)
        and streams["seldom"]["dropped"]["gated"] > 0
        and model["energy_j_per_image"] is not None
        and body["board"]["power_mode"] is not None
        and len(streams) == 3
    )


def assert_same(samples: Samples, body: Json) -> None:
    """Hold a page against the telemetry message of its period, figure by figure."""
    for name, stream in body["streams"].items():
        assert of(samples, "edge_stream_frames_total", stream=name) == stream["frames"]
        assert of(samples, "edge_stream_results_total", stream=name) == stream["results"]
        assert of(samples, "edge_stream_in_flight_frames", stream=name) == stream["in_flight"]
        for cause, frames in stream["dropped"].items():
            assert of(samples, "edge_stream_dropped_frames_total", stream=name, cause=cause) == frames
        for stage, told in stream["latency_ms"].items():
            for key, quantile in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"), ("max", "1")):
                seconds = of(samples, "edge_stream_stage_seconds", stream=name, stage=stage, quantile=quantile)
                assert seconds == (None if told is None else pytest.approx(told[key] / 1000))
    (name, model), board, outbox = next(iter(body["models"].items())), body["board"], body["outbox"]
    assert of(samples, "edge_model_busy_ratio", model=name) == model["busy"]
    assert of(samples, "edge_model_batch_images", model=name) == model["batch_mean"]
    assert of(samples, "edge_model_image_energy_joules", model=name) == model["energy_j_per_image"]
    assert (
        of(samples, "edge_model_image_energy_above_idle_joules", model=name) == model["energy_j_per_image_above_idle"]
    )
    assert of(samples, "edge_model_info", model=name, engine=model["engine"]) == 1
    assert of(samples, "edge_power_mode_info", mode=board["power_mode"]) == 1
    assert of(samples, "edge_board_power_watts") == board["power_w"]
    assert of(samples, "edge_board_images_per_joule") == board["images_per_s_per_w"]
    assert of(samples, "edge_throttled") == float(board["throttled"])
    assert of(samples, "edge_gpu_clock_hertz") == board["gpu_mhz"] * 1e6
    assert of(samples, "edge_cpu_load_ratio") == board["cpu_load"]
    assert of(samples, "edge_over_current_events_total") == board["over_current_events"]
    for rail, power_w in board["rails_w"].items():
        assert of(samples, "edge_rail_power_watts", rail=rail) == power_w
    assert named(samples, "edge_temperature_celsius") == {
        frozenset({("zone", zone)}): each_c for zone, each_c in board["temperature_c"].items() if each_c is not None
    }
    assert of(samples, "edge_outbox_messages") == outbox["messages"]
    assert of(samples, "edge_outbox_bytes") == outbox["bytes"]
    assert of(samples, "edge_outbox_oldest_seconds") == outbox["oldest_s"]
    assert of(samples, "edge_outbox_disk_messages") == outbox["on_disk"]["messages"]
    assert of(samples, "edge_outbox_disk_bytes") == outbox["on_disk"]["bytes"]
    given_up = named(samples, "edge_outbox_dropped_messages_total")
    assert given_up == {frozenset({("cause", cause)}): count for cause, count in outbox["dropped_by_cause"].items()}
    assert sum(given_up.values()) == outbox["dropped"]
    assert of(samples, "edge_mqtt_connected") == 1
    assert of(samples, "edge_alarms") == len(named(samples, "edge_alarm"))
    (build_labels,) = named(samples, "edge_build_info")
    assert {("device", "bench-01"), ("boot", body["boot"]), ("board", board["name"])} < build_labels


def assert_known_totals(samples: Samples, telemetry: list[Json]) -> None:
    """Hold the totals of energy and images against the periods that they are made of."""
    made_s = of(samples, "edge_telemetry_timestamp_seconds") or 0.0
    periods = [body for body in telemetry if at_s(body) <= made_s + 1e-6]
    energy_j = sum(body["board"]["energy_j"] or 0.0 for body in periods)
    assert of(samples, "edge_board_energy_joules_total") == pytest.approx(energy_j)
    for rail in periods[-1]["board"]["rails_j"]:
        total_j = sum(body["board"]["rails_j"].get(rail) or 0.0 for body in periods)
        assert of(samples, "edge_rail_energy_joules_total", rail=rail) == pytest.approx(total_j)
    images = sum(body["models"]["conveyor"]["images_per_s"] * body["period_s"] for body in periods)
    assert of(samples, "edge_model_images_total", model="conveyor") == pytest.approx(images, rel=0.01)


def test_totals_go_on_over_a_changed_stream_and_the_broker_s_loss_is_seen(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, port: int, mosquitto: Any
) -> None:
    tables = {"http": {"enabled": True, "port": port}, "streams.belt": belt(fps=30)}
    edge = start_edge(configure(tables))
    subscriber.wait_for_results("belt", 30)
    eventually(lambda: (frames(port) or 0) > 20, "frames on the page")
    before = frames(port) or 0
    configure(tables | {"streams.belt": belt(fps=30, qos=0)})
    edge.send(signal.SIGHUP)
    edge.await_log("configuration reloaded")
    eventually(lambda: subscriber.telemetry()[-1]["streams"]["belt"]["frames"] < before, "the stream counts anew")
    after = frames(port) or 0
    assert after >= before, "a total has fallen"
    mosquitto.kill()
    eventually(lambda: of(samples_of(parse_text(scrape(port)[0])), "edge_mqtt_connected") == 0, "the broker is away")
    assert edge.end() == 0


def frames(port: int) -> float | None:
    return of(samples_of(parse_text(scrape(port)[0])), "edge_stream_frames_total", stream="belt")


def test_no_page_unless_it_is_asked_for(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, port: int
) -> None:
    edge = start_edge(configure({"http": {"port": port}, "streams.belt": belt()}))
    subscriber.wait_for_results("belt", 1)
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", port), 1)
    assert edge.end() == 0
    assert "Prometheus" not in edge.log


def test_a_port_in_use_is_told_in_one_sentence_and_all_else_runs_on(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, port: int
) -> None:
    with socket.create_server(("127.0.0.1", port)):
        edge = start_edge(configure({"http": {"enabled": True, "port": port}, "streams.belt": belt()}))
        subscriber.wait_for_results("belt", 5)
        eventually(lambda: len(subscriber.telemetry()) > 1, "telemetry goes on")
        assert edge.end() == 0
    (line,) = (line for line in edge.log.splitlines() if str(port) in line)
    assert "cannot be listened on (Address already in use" in line
    assert "Traceback" not in edge.log


@pytest.mark.parametrize("host", ["a" * 64, "a..b"])
def test_a_host_that_can_be_no_name_is_told_in_one_sentence(host: str, caplog: pytest.LogCaptureFixture) -> None:
    exporter = Exporter()
    exporter.start(HttpSettings(enabled=True, host=host))
    exporter.stop()
    (record,) = caplog.records
    assert f"[http] host {host}, port 9469 cannot be listened on (" in record.getMessage()


def test_readers_that_hang_keep_no_daemon_from_ending(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, port: int
) -> None:
    edge = start_edge(configure({"http": {"enabled": True, "port": port}, "streams.belt": belt()}))
    subscriber.wait_for_results("belt", 1)
    silent = [socket.create_connection(("127.0.0.1", port), 5) for _ in range(50)]
    assert "process_open_fds" in scrape(port)[0]
    assert edge.end() == 0
    subscriber.wait_for_state("stopped")
    for each in silent:
        each.close()


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
    assert "pip install 'edge-runtime[metrics]'" in record.getMessage()


def test_check_says_where_the_page_is(tmp_path: Path, configure: Configure) -> None:
    config = configure({"http": {"enabled": True, "port": 9469}, "streams.belt": belt()})
    done = run_edge("check", config, "--json", "--state-dir", tmp_path / "state", folder=tmp_path)
    (found,) = (each for each in json.loads(done.stdout) if each["thing"] == "Prometheus")
    assert (found["works"], found["told"]) == (True, "http://127.0.0.1:9469/metrics")
    assert address(HttpSettings(host="::1")) == "http://[::1]:9469/metrics"


def test_check_says_how_to_get_the_package(tmp_path: Path, configure: Configure) -> None:
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.util as u\nf = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'prometheus_client' else f(name, *rest)\n",
        encoding="utf-8",
    )
    config = configure({"http": {"enabled": True}, "streams.belt": belt()})
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path))
        done = run_edge("check", config, "--json", "--state-dir", tmp_path / "state", folder=tmp_path)
    (found,) = (each for each in json.loads(done.stdout) if each["thing"] == "Prometheus")
    assert found["works"] is False
    assert "pip install 'edge-runtime[metrics]'" in found["told"]


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
    rows = [*GAUGES, *STREAM_COUNTERS, *COUNTERS, *PERIODS]
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
