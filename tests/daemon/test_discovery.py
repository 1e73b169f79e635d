"""Home Assistant is told of the device as it documents, and reads our messages right; with a real daemon and broker."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.config import CommandsSettings, Config, TelemetrySettings
from edge.core.records import Classes, Detections, Message, Result
from edge.daemon.commands.handlers import DaemonControl
from edge.daemon.homeassistant.discovery import (
    MOST_LABELS,
    DeviceIdentity,
    DiscoveredDevice,
    DiscoveredStream,
    Discovery,
    counts_of,
    object_id,
    switch_command,
)
from edge.daemon.homeassistant.publisher import HomeAssistantPublisher
from edge.daemon.retained_record import RetainedRecord
from edge.mqtt.encode import MessageHead
from edge.mqtt.topics import Topics
from tests.support.configuration import Json
from tests.support.home_assistant import TOPIC, commanded, rendered, violations_of_discovery

TOPICS = Topics("edge", "bench-01")
HEAD = MessageHead("bench-01", "0123456789")
CONFIG_TOPIC = "homeassistant/device/edge_bench-01/config"
DISCOVERY = Discovery("homeassistant", TOPICS, "0.1.0", DeviceIdentity("Jetson", "NVIDIA"))
DOOR = DiscoveredStream("door.1", ("person", "it's {{ 'a' }} \\ \"car\"\n%}"), classifies=False)
ALL: tuple[Any, ...] = ("stream_on", "stream_off", "power_mode")
BOARD: Json = {
    "power_w": 7.5,
    "images_per_s_per_w": 3.9,
    "temperature_c": {"gpu": 51.0, "cpu": 49.5},
    "throttled": False,
}
TELEMETRY: Json = {
    "streams": {"door.1": {"results_per_s": 29.6, "latency_ms": {"total": {"p50": 30, "p99": 41.5}}}},
    "models": {"detector": {"energy_j_per_image": 0.041}},
    "board": BOARD,
}


def record(folder: Path) -> RetainedRecord:
    return RetainedRecord(folder, "a machine", "mqtt://broker:1883")


def shown(
    *streams: DiscoveredStream, power_modes: tuple[str, ...] = ("15W", "MAXN"), allow: tuple[Any, ...] = ALL
) -> DiscoveredDevice:
    return DiscoveredDevice(streams, ("detector",), power_modes, allow, period_s=5.0)


def read(component: Json, body: Json) -> str:
    return rendered(component["value_template"], json.dumps(body).encode())


def test_the_message_is_as_documented() -> None:
    body = DISCOVERY.body(shown(DOOR, DiscoveredStream("hall", ("cat", "dog"), classifies=True)))
    assert violations_of_discovery(body) == []
    assert DISCOVERY.topic == CONFIG_TOPIC
    assert TOPIC.fullmatch(DISCOVERY.topic)
    assert {each["platform"] for each in body["components"].values()} == {"sensor", "binary_sensor", "switch", "select"}


def test_the_device_tells_its_maker_and_its_page() -> None:
    told = DISCOVERY.body(shown())["device"]
    assert (told["model"], told["manufacturer"]) == ("Jetson", "NVIDIA")
    assert "configuration_url" not in told, "there is no page"
    identity = DeviceIdentity("a board", page="http://cam-7:9469/metrics")
    body = Discovery("homeassistant", TOPICS, "0.1.0", identity).body(shown())
    assert (body["device"]["manufacturer"], body["device"]["configuration_url"]) == ("edge", identity.page)
    assert violations_of_discovery(body) == []


@pytest.mark.parametrize(("period_s", "expires_s"), [(0.2, 30), (5.0, 30), (12.5, 38), (3600.0, 10_800)])
def test_what_telemetry_no_longer_tells_is_unknown(period_s: float, expires_s: int) -> None:
    device = replace(shown(DOOR, DiscoveredStream("hall", ("cat",), classifies=True)), period_s=period_s)
    body = DISCOVERY.body(device)
    periodic = {key for key, each in body["components"].items() if "state_topic" not in each}
    assert periodic >= {"power", "throttled", "stream_door.1_rate", "model_detector_energy"}
    expiring = {key: each["expire_after"] for key, each in body["components"].items() if "expire_after" in each}
    assert expiring == dict.fromkeys(periodic, expires_s)


names = st.text(min_size=1, max_size=40)


@given(name=names, labels=st.lists(names, max_size=30, unique=True), mode=names)
def test_the_message_is_as_documented_whatever_the_names(name: str, labels: list[str], mode: str) -> None:
    topics = Topics("a b", name.replace("/", "").replace("+", "").replace("#", "").replace("\0", "") or "x")
    discovery = Discovery("home", topics, "0.1.0", DeviceIdentity("board"))
    stream = DiscoveredStream("s", tuple(labels), classifies=False)
    body = discovery.body(DiscoveredDevice((stream,), (name,), (mode,), ALL, period_s=5.0))
    assert violations_of_discovery(body) == []
    assert TOPIC.fullmatch(discovery.topic)
    labelled = [each for key, each in body["components"].items() if "_label_" in key]
    assert len(labelled) == min(len(labels), MOST_LABELS)
    for label, component in zip(labels, labelled, strict=False):
        assert read(component, {"counts": {label: 3}}) == "3"
        assert read(component, {"counts": {}}) == "0"
    energy = body["components"][f"model_{name}_energy"]
    assert read(energy, {"models": {name: {"energy_j_per_image": 0.5}}}) == "0.5"
    select = body["components"]["power_mode"]
    assert json.loads(commanded(select, mode)) == {"args": {"mode": mode}}


def test_figures_are_read_from_telemetry() -> None:
    components = DISCOVERY.body(shown(DOOR))["components"]
    told = {key: read(each, TELEMETRY) for key, each in components.items() if "state_topic" not in each}
    assert told == {
        "power": "7.5",
        "efficiency": "3.9",
        "temperature": "51.0",
        "throttled": "OFF",
        "model_detector_energy": "0.041",
        "stream_door.1_rate": "29.6",
        "stream_door.1_latency": "41.5",
    }


@pytest.mark.parametrize(
    "telemetry",
    [
        {},
        {"streams": {}, "models": {}, "board": {}},
        {"board": dict.fromkeys(BOARD)},
        {"board": {"temperature_c": {}}, "streams": {"door.1": {"latency_ms": {"total": None}}}},
        {"board": {"temperature_c": {"gpu": None}}, "streams": {"door.1": {"latency_ms": None}}},
    ],
)
def test_what_is_null_or_not_there_is_unknown(telemetry: Json) -> None:
    for key, component in DISCOVERY.body(shown(DOOR))["components"].items():
        if "state_topic" not in component:
            assert read(component, telemetry) == "None", key


def test_a_sensor_that_is_silent_among_others_is_left_out_of_the_temperature() -> None:
    temperature = DISCOVERY.body(shown())["components"]["temperature"]
    assert read(temperature, {"board": {"temperature_c": {"gpu": None, "cpu": 48.0}}}) == "48.0"


def test_the_board_slowing_itself_down_is_a_problem() -> None:
    throttled = DISCOVERY.body(shown())["components"]["throttled"]
    assert read(throttled, {"board": {"throttled": True}}) == "ON"


def test_all_is_unavailable_unless_the_daemon_says_online_and_a_stream_unless_it_runs() -> None:
    body = DISCOVERY.body(shown(DOOR))
    (device,) = body["availability"]
    states = {"online": "online", "offline": "offline", "stopped": "offline"}
    assert {state: read(device, {"state": state}) for state in states} == states
    rate = body["components"]["stream_door.1_rate"]
    assert rate["availability_mode"] == "all"
    assert [each["topic"] for each in rate["availability"]] == [TOPICS.status, TOPICS.stream_status("door.1")]
    running = rate["availability"][1]["value_template"]
    assert [rendered(running, raw) for raw in (b'{"state":"running"}', b'{"state":"off"}', b"")] == [
        "online",
        "offline",
        "offline",
    ]


def test_what_is_not_allowed_is_not_offered() -> None:
    for allow in ((), ("stream_on",), ("stream_off", "reload")):
        components = DISCOVERY.body(shown(DOOR, allow=allow))["components"]
        assert not {each["platform"] for each in components.values()} & {"switch", "select"}
    assert "power_mode" not in DISCOVERY.body(shown(power_modes=()))["components"]


def test_what_is_gone_is_named_once_without_its_keys() -> None:
    before = DISCOVERY.body(shown(DOOR))["components"]
    body = DISCOVERY.body(shown(), before)
    assert violations_of_discovery(body) == []
    assert body["components"]["stream_door.1_rate"] == {"platform": "sensor"}
    assert body["components"]["stream_door.1_switch"] == {"platform": "switch"}
    assert "unique_id" in body["components"]["power"]


def test_what_a_stream_finds_is_counted_by_label() -> None:
    boxes = np.zeros((3, 4), np.float32)
    scores, ids = np.array([0.9, 0.8, 0.7], np.float32), np.array([1, 0, 1])
    assert counts_of(Detections(boxes, scores, ids), ("a", "b")) == {"counts": {"b": 2, "a": 1}, "top": None}
    assert counts_of(Classes(scores, ids), ("a",)) == {"counts": {"1": 2, "a": 1}, "top": "1"}


def test_object_ids_are_of_the_signs_that_are_allowed_and_differ_where_names_do() -> None:
    assert object_id("edge_bench-01") == "edge_bench-01"
    assert object_id("a.b") != object_id("a_b") != object_id("a b")
    assert object_id("a.b").replace("_", "").isalnum()


def test_a_switch_says_on_or_off_and_nothing_else() -> None:
    assert (switch_command(b"ON"), switch_command(b"OFF"), switch_command(b"on"), switch_command(b"")) == (
        "stream_on",
        "stream_off",
        None,
        None,
    )


def test_a_stream_that_goes_and_comes_again_is_counted_anew(tmp_path: Path) -> None:
    sent: list[Message] = []
    daemon = SimpleNamespace(config=SimpleNamespace(streams={"door": None}))
    home = HomeAssistantPublisher(DISCOVERY, cast(DaemonControl, daemon), TOPICS, HEAD, sent.append, record(tmp_path))
    found = Classes(np.array([0.9], np.float32), np.array([0]))
    result = cast(Result, SimpleNamespace(findings=found, labels=("cat",), seq=7))
    for _ in range(2):
        home.newest["door"] = result
        home._publish_counts()
    home.forget("door")
    home.newest["door"] = result
    home._publish_counts()
    assert [(each.topic, bool(each.body), each.retain) for each in sent] == [
        (TOPICS.counts("door"), True, True),
        (TOPICS.counts("door"), False, True),
        (TOPICS.counts("door"), True, True),
    ]


def test_a_home_that_asks_again_and_again_gets_one_message(tmp_path: Path) -> None:
    sent: list[Message] = []
    pipeline = SimpleNamespace(models={})
    board_monitor = SimpleNamespace(power_modes=())
    daemon = SimpleNamespace(config=Config(), pipeline=pipeline, board_monitor=board_monitor)
    home = HomeAssistantPublisher(DISCOVERY, cast(DaemonControl, daemon), TOPICS, HEAD, sent.append, record(tmp_path))
    home.tick()
    home._counts_due_ns = 2**63  # a second that does not end
    for _ in range(100):
        home.ask()
        home.tick()
    assert len(sent) == 1
    home._counts_due_ns = 0
    home.tick()
    home.tick()
    assert len(sent) == 2


def test_what_an_earlier_start_has_shown_and_this_one_has_not_is_taken_away(tmp_path: Path) -> None:
    former = {"stream_old_rate": "sensor", "stream_door_label_cat": "sensor", "power_mode": "select", "power": "sensor"}
    record(tmp_path).note_components(CONFIG_TOPIC, former)
    sent: list[Message] = []
    streams = {"door": SimpleNamespace(labels=(), model="m")}
    config = SimpleNamespace(
        streams=streams, telemetry=TelemetrySettings(), commands=CommandsSettings(allow=("power_mode",))
    )
    daemon = SimpleNamespace(
        config=config, pipeline=SimpleNamespace(models={}), board_monitor=SimpleNamespace(power_modes=())
    )
    home = HomeAssistantPublisher(DISCOVERY, cast(DaemonControl, daemon), TOPICS, HEAD, sent.append, record(tmp_path))
    home.renew()
    components = json.loads(sent[-1].body)["components"]
    assert components["stream_old_rate"] == {"platform": "sensor"}
    assert "unique_id" in components["power"]
    assert not {"stream_door_label_cat", "power_mode"} & components.keys(), "modes and labels may be read later"
    daemon.board_monitor.power_modes = ("15W",)
    home.renew()
    components = json.loads(sent[-1].body)["components"]
    assert "stream_old_rate" not in components
    assert components["power_mode"]["options"] == ["15W"]
    assert set(record(tmp_path).components(CONFIG_TOPIC)) == {*components, "stream_door_label_cat"}
