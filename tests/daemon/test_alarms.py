"""Which alarms stand, and what is told of each change."""

from __future__ import annotations

import json

from jsonschema import Draft202012Validator

from edge.daemon.alarms import Alarms
from edge.mqtt import schemas
from edge.mqtt.encode import MessageHead


def make() -> Alarms:
    return Alarms(MessageHead("bench-01", "0123456789abcdef"))


def test_an_alarm_is_told_when_it_is_raised_and_when_it_is_cleared() -> None:
    alarms = make()
    raised = alarms.set("engine_fallback", "no plan", "one is being built", model="m")
    cleared = alarms.clear("engine_fallback", "trt serves", model="m")
    assert raised is not None
    assert cleared is not None
    for body, state in ((raised, "raised"), (cleared, "cleared")):
        Draft202012Validator(json.loads(schemas.read("alarm"))).validate(body)
        assert (body["state"], body["alarm"], body["model"]) == (state, "engine_fallback", "m")
    assert (raised["reason"], raised["next"]) == ("no plan", "one is being built")


def test_what_stands_already_is_told_again_only_when_something_changed() -> None:
    alarms = make()
    assert alarms.set("engine_fallback", "no plan", "building", model="m") is not None
    assert alarms.set("engine_fallback", "no plan", "building", model="m") is None
    assert alarms.set("engine_fallback", "no plan", "verifying", model="m") is not None
    assert alarms.set("engine_fallback", "no plan", "verifying", model="other") is not None


def test_what_does_not_stand_is_not_cleared() -> None:
    alarms = make()
    assert alarms.clear("engine_fallback", "all is well", model="m") is None
    alarms.set("engine_fallback", "no plan", "building", model="m")
    assert alarms.clear("engine_fallback", "all is well", model="other") is None
    assert alarms.clear("engine_fallback", "all is well", model="m") is not None
    assert alarms.clear("engine_fallback", "all is well", model="m") is None


def test_the_status_lists_what_stands() -> None:
    alarms = make()
    alarms.set("engine_fallback", "no plan", "building", model="a")
    alarms.set("engine_fallback", "no plan", "building", model="b", severity="critical")
    alarms.clear("engine_fallback", "trt serves", model="a")
    (standing,) = alarms.standing()
    item = json.loads(schemas.read("status"))["properties"]["alarms"]["items"]
    Draft202012Validator(item | {"additionalProperties": False}).validate(standing)
    assert (standing["model"], standing["severity"]) == ("b", "critical")
