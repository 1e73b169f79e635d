"""Encoding of results: fields, labels, numbers, and the schema."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.clock import now_ns
from edge.core.records import DROP_CAUSES, BoardState, Classes, Detections, DropCause, Findings, Message, Result
from edge.mqtt import encode as encode_module
from edge.mqtt import schemas
from edge.mqtt.encode import MessageHead, ResultEncoder, encode_findings, to_json

NO_DROPS: dict[DropCause, int] = dict.fromkeys(DROP_CAUSES, 0)


def result(findings: Findings, **changes: Any) -> Result:
    made = Result(
        "door", "m", "ort-cpu/fp32/abc", 7, now_ns(), 1_795_242_001_123_456_789, now_ns(), (640, 480), findings,
        ("person", "car"), 1.23456, 0.5, 20.0, 0.25, 2, 3,
    )  # fmt: skip
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def detections(*found: tuple[float, float, float, float], score: float = 0.5, class_id: int = 0) -> Detections:
    count = len(found)
    boxes = np.array(found, np.float32).reshape(-1, 4)
    return Detections(boxes, np.full(count, score, np.float32), np.full(count, class_id, np.int64))


def encode(made: Result, board: BoardState = BoardState(), energy_j: float | None = None) -> Message:  # noqa: B008 -- frozen
    topic = "edge/bench-01/streams/door/results"
    return ResultEncoder(MessageHead("bench-01", "0123456789")).encode(made, topic, 1, NO_DROPS, board, energy_j)


def test_a_result_is_encoded_as_designed() -> None:
    body = json.loads(encode(result(detections((10.04, 20, 30, 60.55), score=0.86))).body)
    assert body["detections"] == [{"label": "person", "class_id": 0, "score": 0.86, "box": [10.0, 20.0, 20.0, 40.5]}]
    assert (body["v"], body["device"], body["boot"], body["stream"]) == (1, "bench-01", "0123456789", "door")
    assert (body["seq"], body["frame"], body["batch"], body["size"]) == (3, 7, 2, [640, 480])
    assert body["captured_at"] == "2026-11-21T06:20:01.123456Z"
    assert body["latency_ms"] == {"wait": 1.235, "preprocess": 0.5, "infer": 20.0, "decode": 0.25}
    assert (body["dropped"], body["engine"]) == (NO_DROPS, "ort-cpu/fp32/abc")
    assert (body["power_mode"], body["throttled"]) == (None, None)
    assert "energy_mj" not in body


def test_a_result_tells_the_state_of_the_board_and_its_energy_where_they_are_known() -> None:
    body = json.loads(encode(result(detections()), BoardState("MAXQ", throttled=True), 0.0412345).body)
    assert (body["power_mode"], body["throttled"], body["energy_mj"]) == ("MAXQ", True, 41.234)


@pytest.mark.parametrize("synchronised", [True, False, None])
def test_the_time_of_a_capture_is_marked_where_the_clock_is_not_synchronised(
    monkeypatch: pytest.MonkeyPatch, *, synchronised: bool | None
) -> None:
    monkeypatch.setattr(encode_module, "clock_synchronised", lambda: synchronised)
    body = json.loads(encode(result(detections())).body)
    assert ("clock_synchronised" in body) is (synchronised is False)
    assert body.get("clock_synchronised", True) is (synchronised is not False)


def test_classes_are_encoded_without_boxes() -> None:
    classes = Classes(np.array([0.75, 0.25], np.float32), np.array([1, 0], np.int64))
    body = json.loads(encode(result(classes)).body)
    assert "detections" not in body
    assert body["classes"] == [
        {"label": "car", "class_id": 1, "score": 0.75}, {"label": "person", "class_id": 0, "score": 0.25}
    ]  # fmt: skip


def test_a_class_without_a_label_is_named_by_its_number() -> None:
    assert encode_findings(detections((0, 0, 1, 1), class_id=5), ("person",))["detections"][0]["label"] == "5"


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_json_lacks_is_refused(number: float) -> None:
    with pytest.raises(ValueError, match="JSON"):
        to_json({"age_ms": number})


def test_text_beyond_ascii_is_sent_as_it_is() -> None:
    assert to_json({"label": "Café"}) == '{"label":"Café"}'.encode()


SIDES = st.floats(0, 8000, width=32)
BOXES = st.tuples(SIDES, SIDES, SIDES, SIDES).map(
    lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
)


@given(st.lists(BOXES, max_size=5), st.floats(0, 1, width=32), st.integers(0, 99))
def test_every_result_is_as_its_schema_says(
    boxes: list[tuple[float, float, float, float]], score: float, class_id: int
) -> None:
    message = encode(result(detections(*boxes, score=score, class_id=class_id)))
    body = json.loads(message.body) | {"age_ms": 1.0}  # which is joined when it is sent
    jsonschema.validate(body, json.loads(schemas.read("result")))
    for (x1, y1, x2, y2), told in zip(boxes, body["detections"], strict=True):
        assert told["box"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=0.051)
