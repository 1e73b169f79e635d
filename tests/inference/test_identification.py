"""Identification of readings: models that follow a reading drawn at random are read so, or it is named among others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge.cli.engines.draft import ENCODINGS
from edge.core.manifest import InputSettings
from edge.inference.backends.ort import OrtEngine
from edge.inference.decode.families import FAMILIES
from edge.inference.decode.reading import Layout, Parts, Reading
from edge.inference.proof.identification import Identification, identify
from edge.inference.proof.pictures import Sample
from edge.inference.proof.runs import run_pictures
from tests.support.long_form import IS_LONG
from tests.support.painted_models import SIDE, write_painted

ARRANGEMENTS: list[tuple[tuple[Parts, ...], Layout]] = [
    ((("box", "scores"),), "rows"),
    ((("box", "scores"),), "columns"),
    ((("box", "objectness", "scores"),), "rows"),
    ((("box", "objectness", "scores"),), "columns"),
    ((("box", "score", "class"),), "rows"),
    ((("box", "class", "score"),), "rows"),
    ((("class", "score", "box"),), "rows"),
    ((("picture", "box", "class", "score"),), "rows"),
    ((("picture", "box", "score", "class"),), "rows"),
    ((("picture", "class", "score", "box"),), "rows"),
    ((("box",), ("scores",)), "rows"),
    ((("box",), ("scores",)), "columns"),
    ((("box", "score"), ("class",)), "rows"),
    ((("box",), ("score",), ("class",)), "rows"),
    ((("box",), ("score",), ("class",), ("count",)), "rows"),
]
SCORES = [("none", "none"), ("sigmoid", "none")]
WITH_BACKGROUND = [(a, b) for a in ("none", "sigmoid", "softmax") for b in ("first", "last")]
MOST_REMAINING = 6
CELLS = 189  # of a picture of 96×96
USUAL_NAMES = {"box": "boxes", "score": "scores", "scores": "scores", "class": "labels", "count": "num"}


@st.composite
def drawn_readings(draw: st.DrawFn) -> Reading:
    """Draw a reading that a model can follow."""
    outputs, layout = draw(st.sampled_from(ARRANGEMENTS))
    parts = {part for output in outputs for part in output}
    form: Any = draw(st.sampled_from(["cxcywh", "xyxy", "xywh", "yxyx"]))
    units: Any = draw(st.sampled_from(["input", "unit"]))
    coding: Any = draw(st.sampled_from(["none", "yolox"])) if "objectness" in parts else "none"
    if coding == "yolox":
        form, units = "cxcywh", "input"
    choices = SCORES + (WITH_BACKGROUND if "objectness" not in parts else []) if "scores" in parts else SCORES[:1]
    activation, background = draw(st.sampled_from(choices))
    if "class" in parts:
        background = draw(st.sampled_from(["none", "first"]))
    return Reading(outputs, layout, form, units, coding, activation, background)  # type: ignore[arg-type]


@st.composite
def drawn_names(draw: st.DrawFn, outputs: tuple[Parts, ...]) -> list[str]:
    """Draw names of the outputs: in half the draws those that exporters give, else numbers in any order."""
    if draw(st.booleans()):
        return [USUAL_NAMES[parts[0]] if len(parts) == 1 else "output0" for parts in outputs]
    return [f"t{number}" for number in draw(st.permutations(range(len(outputs))))]


def identified(path: Path, label_count: int) -> Identification:
    samples: list[Sample] = []
    for usual in ENCODINGS.values():
        encoded = InputSettings.model_validate(usual)
        engine = OrtEngine(path, threads=1, inputs=encoded)
        samples += run_pictures(engine, encoded)
    options = {"input_width": SIDE, "input_height": SIDE, "label_count": label_count}
    return identify(engine.outputs, samples, options, {})


def key(names: Any, reading: Reading) -> tuple[Any, ...]:
    scores = (reading.activation, reading.background)
    return (
        dict(zip(names, reading.outputs, strict=True)),
        reading.layout,
        reading.boxes,
        reading.units,
        reading.coding,
        *scores,
    )


@settings(
    max_examples=300 if IS_LONG else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_a_reading_drawn_at_random_is_found_or_named_among_others(tmp_path: Path, data: st.DataObject) -> None:
    reading = data.draw(drawn_readings())
    names = data.draw(drawn_names(reading.outputs))
    classes, rows = data.draw(st.sampled_from([2, 3, 20])), data.draw(st.sampled_from([40, 60, CELLS, 3 * CELLS]))
    path = write_painted(tmp_path / "net.onnx", reading, names, classes, rows, data.draw(st.integers(0, 99)))
    found = identified(path, classes)
    remaining = [key(each.candidate.names, each.candidate.reading) for each in found.remaining]
    assert key(names, reading) in remaining
    assert len(remaining) <= MOST_REMAINING


@pytest.mark.parametrize(
    "family",
    ["yolox", "yolov8", "yolov10", "yolov5", "yolo-nas", "ssd", "rf-detr", "rtdetr-ultralytics", "rtdetr-top"],
)
def test_a_familys_own_reading_is_the_only_one_that_remains(family: str, tmp_path: Path) -> None:
    reading = FAMILIES[family].reading
    rows = CELLS if reading.nms else 60
    names = [f"t{number}" for number in range(len(reading.outputs))]
    found = identified(write_painted(tmp_path / "net.onnx", reading, names, rows=rows), 3)
    assert [each.family for each in found.remaining] == [family]
    assert found.remaining[0].candidate.reading.nms == reading.nms


def test_rows_for_all_cells_need_suppression(tmp_path: Path) -> None:
    path = write_painted(tmp_path / "net.onnx", FAMILIES["yolov10"].reading, ["output"], rows=CELLS)
    assert [each.family for each in identified(path, 3).remaining] == ["deepstream-yolo"]


def test_without_labels_classes_and_objectness_are_told_apart_by_what_goes_with_what(tmp_path: Path) -> None:
    plain = replace(FAMILIES["yolov8"].reading, layout="rows")
    path = write_painted(tmp_path / "plain.onnx", plain, ["output"], rows=CELLS)
    assert [each.candidate.reading.outputs for each in identified(path, 0).remaining] == [(("box", "scores"),)]
    path = write_painted(tmp_path / "seen.onnx", FAMILIES["yolov5"].reading, ["output"], rows=3 * CELLS)
    found = [each.candidate.reading.outputs for each in identified(path, 0).remaining]
    assert found == [(("box", "objectness", "scores"),)]
