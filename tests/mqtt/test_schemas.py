"""The schemas of all messages: valid themselves, and strict where it matters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from edge.core.errors import ConfigError
from edge.mqtt import schemas

STATUS: dict[str, Any] = {
    "v": 1, "device": "bench-01", "boot": "0123456789", "state": "online", "at": "2026-11-21T06:20:01.123456Z",
    "version": "0.1.0", "board": "x86_64", "power_mode": None, "clock_synchronised": None, "engines": {"m": "e"},
}  # fmt: skip
RESULT: dict[str, Any] = {
    "v": 1, "device": "bench-01", "boot": "0123456789", "stream": "door", "model": "detector", "seq": 412, "frame": 418,
    "captured_at": "2026-11-21T06:20:01.123456Z", "age_ms": 31.2, "size": [768, 432],
    "detections": [{"label": "person", "class_id": 0, "score": 0.86, "box": [1, 2, 3.5, 4]}],
    "latency_ms": {"wait": 3.1, "preprocess": 0.4, "infer": 19.8, "decode": 0.3}, "batch": 2,
    "dropped": {"overrun": 5, "stale": 1, "gated": 0, "error": 0}, "engine": "ort-cpu/int8/3f9c", "power_mode": "MAXQ",
    "throttled": False,
}  # fmt: skip


def validate(name: str, message: dict[str, Any]) -> None:
    Draft202012Validator(json.loads(schemas.read(name))).validate(message)


@pytest.mark.parametrize("name", schemas.NAMES)
def test_each_schema_is_valid_and_named_as_it_is_asked_for(name: str) -> None:
    schema = json.loads(schemas.read(name))
    Draft202012Validator.check_schema(schema)
    assert schema["title"] == name


@pytest.mark.parametrize(
    ("name", "suggestion"),
    [
        ("alarms", "; did you mean 'alarm'?"),
        ("", ""),
        ("../config", ""),
        ("result.json", "; did you mean 'result'?"),
    ],
)
def test_an_unknown_name_is_told_with_the_known_ones(name: str, suggestion: str) -> None:
    with pytest.raises(ConfigError) as raised:
        schemas.read(name)
    known = ", ".join(schemas.NAMES)
    assert str(raised.value) == f"schema {name!r} does not exist; wanted one of {known}{suggestion}"


def test_the_designed_result_and_status_are_valid() -> None:
    validate("result", RESULT)
    validate("status", STATUS)


@pytest.mark.parametrize(("name", "message"), [("result", RESULT), ("status", STATUS)])
def test_fields_may_be_added_later(name: str, message: dict[str, Any]) -> None:
    validate(name, message | {"energy_mj": 3})


@pytest.mark.parametrize("key", RESULT)
def test_a_result_without_any_of_its_fields_is_refused(key: str) -> None:
    with pytest.raises(ValidationError):
        validate("result", {name: value for name, value in RESULT.items() if name != key})


@pytest.mark.parametrize(
    "wrong",
    [
        {"v": 2},
        {"seq": -1},
        {"captured_at": "2026-11-21 06:20:01"},
        {"age_ms": -1},
        {"clock_synchronised": True},
        {"size": [768]},
        {"detections": [{"label": "person", "class_id": 0, "score": 0.86, "box": [1, 2, 3]}]},
        {"detections": [{"label": "person", "class_id": 0, "score": 1.1, "box": [1, 2, 3, 4]}]},
        {"classes": []},
        {"dropped": {"overrun": 5}},
    ],
)
def test_a_wrong_result_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate("result", RESULT | wrong)


def test_a_result_of_unknown_age_and_an_uncertain_time_is_valid() -> None:
    validate("result", RESULT | {"age_ms": None, "clock_synchronised": False})


@pytest.mark.parametrize("wrong", [{"state": "gone"}, {"at": "now"}, {"boot": ""}, {"engines": None}])
def test_a_wrong_status_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        validate("status", STATUS | wrong)
