"""Metrics page of a real daemon."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
from collections.abc import Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pytest

from edge.core.config import HttpSettings
from edge.daemon.prometheus.exporter import address
from tests.support.configuration import Configure, Json, belt
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.metrics_pages import (
    OPENMETRICS,
    Samples,
    everything_measured,
    frames_on_page,
    named,
    of,
    parse_openmetrics,
    parse_text,
    samples_of,
    scrape,
)
from tests.support.process import StartEdge, run_edge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port


def at_s(body: Json) -> float:
    moment = datetime.fromisoformat(body["at"].rstrip("Z")).replace(tzinfo=timezone.utc)
    return moment.timestamp()


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
def board(tmp_path: Path) -> Mapping[str, str]:
    """Give the environment in which a daemon is on an emulated Orin Nano."""
    return board_environment("orin-nano-super", tmp_path)


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


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool: apt-get install prometheus")
def test_promtool_finds_nothing_to_say() -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=everything_measured().text("")[0],
        capture_output=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


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
            for key, quantile in (("p50", "0.5"), ("p90", "0.9"), ("p99", "0.99"), ("max", "1.0")):
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
    assert {name for name, _ in build_labels} == {"version", "device", "board"}, "as before at the next start"
    assert {("device", "bench-01"), ("board", board["name"])} < build_labels


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
    eventually(lambda: (frames_on_page(port) or 0) > 20, "frames on the page")
    before = frames_on_page(port) or 0
    configure(tables | {"streams.belt": belt(fps=30, qos=0)})
    edge.send(signal.SIGHUP)
    edge.await_log("configuration reloaded")
    eventually(lambda: subscriber.telemetry()[-1]["streams"]["belt"]["frames"] < before, "the stream counts anew")
    after = frames_on_page(port) or 0
    assert after >= before, "a total has fallen"
    mosquitto.kill()
    eventually(lambda: of(samples_of(parse_text(scrape(port)[0])), "edge_mqtt_connected") == 0, "the broker is away")
    assert edge.end() == 0


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
    assert "pip install '.[all]'" in found["told"]
