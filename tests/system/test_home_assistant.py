"""Home Assistant beside a real daemon."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.broker import Mosquitto
from tests.support.commander import ROOT_TOPIC, Commander, commanding
from tests.support.configuration import Configure, Json, belt
from tests.support.emulated_boards.emulated_power import board_environment
from tests.support.home_assistant import commanded, rendered, violations_of_discovery
from tests.support.process import StartEdge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

CONFIG_TOPIC = "homeassistant/device/edge_bench-01/config"


@pytest.fixture
def commander(broker: Mosquitto, subscriber: Subscriber) -> Iterator[Commander]:
    with commanding(broker, subscriber) as each:
        yield each


def discovered(subscriber: Subscriber, wanted: Callable[[Json], bool], what: str, after: int = 0) -> Json:
    """Wait for a discovery message; each must be as documented."""

    def is_it(message: Any) -> bool:
        return message.topic == CONFIG_TOPIC and wanted(message.body["components"])

    body = subscriber.wait_for(is_it, what, after=after).body
    assert violations_of_discovery(body) == []
    return body


def newest(subscriber: Subscriber, component: Json, body: Json) -> str:
    """Return what Home Assistant shows of a component by the newest message on its topic."""
    topic = component.get("state_topic", body["state_topic"])
    raw = [m.raw for m in subscriber.messages if m.topic == topic]
    return rendered(component["value_template"], raw[-1]) if raw else "None"


@pytest.mark.broker
def test_a_real_daemon_is_shown_with_the_values_that_it_publishes(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    port = free_port()
    tables: dict[str, Json] = {
        "homeassistant": {"enabled": True},
        "http": {"enabled": True, "port": port},
        "streams.belt": belt(fps=20),
    }
    daemon = start_edge(configure(tables))
    body = discovered(subscriber, lambda each: "stream_belt_rate" in each, "the discovery message")
    subscriber.wait_for(
        lambda m: m.schema == "telemetry" and m.body["streams"]["belt"]["latency_ms"]["total"] is not None, "telemetry"
    )
    counts = subscriber.wait_for(lambda m: m.schema == "counts" and len(m.body["counts"]) > 1, "counts").body
    before = len(subscriber.messages)
    commander.publish("homeassistant/status", b"online")
    discovered(subscriber, lambda _: True, "the message again, for a home that was away", after=before)
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    (result,) = [each for each in subscriber.results("belt") if each["seq"] == counts["seq"]]
    found = [each["label"] for each in result["detections"]]
    components = body["components"]
    assert body["device"]["manufacturer"]
    assert body["device"]["configuration_url"] == f"http://127.0.0.1:{port}/metrics"
    assert components["power"]["expire_after"] > 0
    for label in ("bolt", "nut", "washer", "gear", "ring"):
        raw = json.dumps(counts).encode()
        assert rendered(components[f"stream_belt_label_{label}"]["value_template"], raw) == str(found.count(label))
    assert rendered(components["stream_belt_objects"]["value_template"], raw) == str(len(found))
    told = [each["streams"]["belt"] for each in subscriber.telemetry()]
    assert newest(subscriber, components["stream_belt_rate"], body) == str(told[-1]["results_per_s"])
    assert newest(subscriber, components["power"], body) == str(subscriber.telemetry()[-1]["board"]["power_w"])
    status = [m.raw for m in subscriber.messages if m.topic == body["availability"][0]["topic"]]
    assert rendered(body["availability"][0]["value_template"], status[0]) == "online"
    assert rendered(body["availability"][0]["value_template"], status[-1]) == "offline"
    assert "switch" not in {each["platform"] for each in components.values()}


@pytest.mark.broker
def test_a_switch_and_a_stream_that_comes_and_goes(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    allow = ["stream_on", "stream_off", "stream_add", "stream_remove"]
    tables: dict[str, Json] = {
        "homeassistant": {"enabled": True},
        "commands": {"allow": allow},
        "streams.belt": belt(fps=20),
    }
    daemon = start_edge(configure(tables))
    body = discovered(subscriber, lambda each: "stream_belt_switch" in each, "the discovery message")
    switch = body["components"]["stream_belt_switch"]
    subscriber.wait_for_state("running", "belt")
    assert newest(subscriber, switch, body) == "ON"
    commander.publish(switch["command_topic"], commanded(switch, switch["payload_off"]))
    subscriber.wait_for_state("off", "belt")
    eventually(lambda: newest(subscriber, switch, body) == "OFF", "the switch is off")
    before = len(subscriber.messages)
    commander.publish(switch["command_topic"], commanded(switch, switch["payload_on"]))
    subscriber.wait_for_state("running", "belt", after=before)
    assert commander.ask("stream_add", {"stream": "more", "settings": belt(fps=5)})["ok"]
    discovered(subscriber, lambda each: "unique_id" in each.get("stream_more_rate", {}), "the new stream")
    subscriber.wait_for(lambda m: m.topic.endswith("more/counts") and bool(m.raw), "its counts")
    assert commander.ask("stream_remove", {"stream": "more"})["ok"]
    discovered(subscriber, lambda each: each.get("stream_more_rate") == {"platform": "sensor"}, "it has gone")
    topic = f"{ROOT_TOPIC}/streams/more/counts"
    eventually(lambda: [m.raw for m in subscriber.messages if m.topic == topic][-1] == b"", "its counts are taken away")
    assert daemon.end() == 0


@pytest.mark.broker
def test_a_stream_that_was_renamed_while_the_daemon_was_down_leaves_nothing(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    home: dict[str, Json] = {"homeassistant": {"enabled": True}}
    daemon = start_edge(configure(home | {"streams.old": belt(fps=20)}))
    subscriber.wait_for(lambda m: m.topic.endswith("streams/old/counts"), "counts")
    discovered(subscriber, lambda each: "stream_old_rate" in each, "the discovery message")
    daemon.kill()
    before = len(subscriber.messages)
    daemon = start_edge(configure(home | {"streams.new": belt(fps=20)}))
    discovered(subscriber, lambda each: each.get("stream_old_rate") == {"platform": "sensor"}, "it has gone", before)
    gone = {f"{ROOT_TOPIC}/streams/old/{each}" for each in ("status", "counts")}
    eventually(lambda: gone <= {m.topic for m in subscriber.messages[before:] if not m.raw}, "both are cleared")
    assert daemon.end() == 0
    before = len(subscriber.messages)
    daemon = start_edge(configure({"streams.new": belt(fps=20)}))
    eventually(lambda: CONFIG_TOPIC in {m.topic for m in subscriber.messages[before:] if not m.raw}, "switched off")
    assert daemon.end() == 0
    assert not gone & {m.topic for m in subscriber.messages[before:]}, "cleared once"


@pytest.mark.broker
def test_a_home_that_is_not_enabled_is_told_nothing(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    daemon = start_edge(configure({"commands": {"allow": ["stream_on", "stream_off"]}, "streams.belt": belt(fps=20)}))
    subscriber.wait_for_results("belt", 1)
    commander.publish("homeassistant/status", b"online")
    commander.publish(f"{ROOT_TOPIC}/streams/belt/set", b"OFF")
    subscriber.wait_for_results("belt", 30)
    assert daemon.end() == 0
    assert [m.topic for m in subscriber.messages if m.topic.startswith("homeassistant/")] == ["homeassistant/status"]
    assert not [m for m in subscriber.messages if m.topic.endswith("/counts")]


@pytest.mark.broker
@pytest.mark.skipif(os.geteuid() != 0, reason="only root changes power modes")
def test_the_modes_of_a_board_can_be_chosen_and_its_figures_are_shown(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, commander: Commander
) -> None:
    tables: dict[str, Json] = {
        "homeassistant": {"enabled": True},
        "commands": {"allow": ["power_mode"]},
        "streams.belt": belt(fps=20),
    }
    daemon = start_edge(configure(tables), environment=board_environment("orin-nano-super", tmp_path))
    body = discovered(subscriber, lambda each: "power_mode" in each, "a choice of modes")
    select = body["components"]["power_mode"]
    assert {"15W", "25W"} <= set(select["options"])
    for mode in ("15W", "25W"):
        commander.publish(select["command_topic"], commanded(select, mode))
        eventually(lambda mode=mode: newest(subscriber, select, body) == mode, f"{mode} is shown")  # type: ignore[misc]
    subscriber.wait_for(
        lambda m: m.schema == "telemetry" and m.body["models"]["conveyor"]["energy_j_per_image"] is not None, "energy"
    )
    assert float(newest(subscriber, body["components"]["power"], body)) > 1
    assert float(newest(subscriber, body["components"]["temperature"], body)) > 20
    assert newest(subscriber, body["components"]["throttled"], body) == "OFF"
    assert daemon.end() == 0
