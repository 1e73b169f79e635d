"""A state directory moves to another broker and device name: its backlog stays until a person decides."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.support.configuration import Configure, Tables, belt
from tests.support.process import StartEdge, run_edge
from tests.support.subscriber import Subscriber
from tests.support.waiting import eventually, free_port

pytestmark = pytest.mark.broker


def of_the_old_device(subscriber: Subscriber) -> int:
    return sum(message.topic.startswith("edge/old/") for message in subscriber.messages)


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_backlog_reaches_no_other_broker_before_a_person_says_so(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, end: signal.Signals
) -> None:
    away = {"url": f"mqtt://127.0.0.1:{free_port()}"}
    old: Tables = {
        "device": {"name": "old"},
        "mqtt": away,
        "outbox": {"memory_s": 0.0},
        "streams.belt": belt(frames=40),
    }
    state = tmp_path / "state"
    before = start_edge(configure(old, name="old.toml"), name="before", state_dir=state)
    eventually((state / "outbox.db").exists, "a backlog")
    before.end(end)
    config = configure({"streams.belt": belt()})
    now = start_edge(config, state_dir=state)
    alarm = subscriber.wait_for(lambda m: m.schema == "alarm" and m.body["alarm"] == "outbox_foreign", "the alarm")
    assert f"messages for edge/old at {away['url']}" in alarm.body["reason"]
    subscriber.wait_for_results("belt", 20)
    subscriber.wait_for(lambda m: m.schema == "telemetry" and m.body["outbox"]["held"] > 0, "the count of what is held")
    assert of_the_old_device(subscriber) == 0
    sent = run_edge("outbox", "send", config, "--state-dir", state, "--json", folder=tmp_path)
    released = json.loads(sent.stdout)["released"]
    eventually(lambda: of_the_old_device(subscriber) >= released > 0, "what was held")
    assert now.end() == 0
