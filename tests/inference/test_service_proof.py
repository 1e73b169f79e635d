"""Proofs at warm-up and in service: a manifest that is wrong in one part is refused, or no frame of it is published."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.core.errors import ImplausibleOutputError, ModelError
from edge.core.manifest import Manifest, read_manifest
from edge.core.records import Detections, Geometry
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.ort import OrtEngine
from edge.inference.decode import Decoder
from edge.inference.decode.families import FAMILIES
from edge.inference.decode.guard import OutputGuard
from edge.inference.decode.reader import Reader
from edge.inference.decode.reading import Parts, Reading
from edge.inference.predictor import CHECKED_RUNS, Predictor
from edge.inference.proof.pictures import built_in_picture
from edge.inference.proof.service_proof import implausibility
from tests.support.long_form import IS_LONG
from tests.support.painted_models import SIDE, write_painted

LABELS = ["red", "green", "blue"]


def predictor(path: Path, reading: Reading, names: list[str], **keys: Any) -> Predictor:
    """Open a model with a manifest that writes a reading out; `keys` change it."""
    parts = {name: list(parts) for name, parts in zip(names, reading.outputs, strict=True)}
    written = {key: getattr(reading, key) for key in ("layout", "boxes", "units", "coding", "activation", "background")}
    output = {"decoder": "yolov5", "outputs": parts, **written, **keys}
    settings = {"color": "rgb", "scale": 1 / 255, "resize": "stretch"}
    manifest = Manifest.model_validate({"task": "detect", "onnx": path.name, "input": settings, "output": output})
    engine = OrtEngine(path, threads=1, inputs=manifest.input)
    return Predictor(engine, manifest, LABELS, path.parent)


def warm_up(opened: Predictor) -> None:
    with opened.session(is_guarded=True) as session:
        session.warm_up()


READINGS: list[tuple[Parts, ...]] = [
    (("box", "scores"),),
    (("box", "objectness", "scores"),),
    (("box", "score", "class"),),
    (("box",), ("scores",)),
    (("box",), ("score",), ("class",)),
]
SCORE_READINGS = [("none", "none"), ("sigmoid", "none"), ("softmax", "last"), ("softmax", "first"), ("none", "first")]


def wrong_by_one(reading: Reading) -> Iterator[dict[str, str]]:
    """Yield the keys of readings that differ in one part and fit the same shapes."""
    yield from ({"boxes": form} for form in ("cxcywh", "xyxy", "xywh", "yxyx") if form != reading.boxes)
    yield from ({"units": units} for units in ("input", "unit") if units != reading.units)
    has_scores = any("scores" in parts for parts in reading.outputs)
    activations = ("none", "sigmoid", "softmax") if has_scores and reading.background != "none" else ("none", "sigmoid")
    yield from ({"activation": each} for each in activations if each != reading.activation)
    if has_scores and reading.background != "none":
        yield {"background": "last" if reading.background == "first" else "first"}


def test_a_reading_that_is_wrong_by_one_part_is_refused_at_warm_up(tmp_path: Path) -> None:
    draws = random.Random(1)
    refused, served = 0, []
    for number in range(60 if IS_LONG else 12):
        outputs = draws.choice(READINGS)
        parts = {part for output in outputs for part in output}
        fitting = [each for each in SCORE_READINGS if "scores" in parts or each == ("none", "none")]
        fitting = [each for each in fitting if "objectness" not in parts or each[1] == "none"]
        activation, background = draws.choice(fitting)
        form, units = draws.choice(["cxcywh", "xyxy", "xywh", "yxyx"]), draws.choice(["input", "unit"])
        reading = replace(Reading(outputs), boxes=form, units=units, activation=activation, background=background)  # type: ignore[arg-type]
        names = [f"t{each}" for each in range(len(outputs))]
        path = write_painted(tmp_path / "net.onnx", reading, names, rows=draws.choice([60, 189]), seed=number)
        warm_up(predictor(path, reading, names))
        for keys in wrong_by_one(reading):
            try:
                warm_up(predictor(path, reading, names, **keys))
                served.append((reading, keys))
            except ModelError:
                refused += 1
    assert refused >= 0.95 * (refused + len(served)), served


def test_the_sentence_says_what_was_seen_and_what_fits(tmp_path: Path) -> None:
    reading = FAMILIES["yolo-nas"].reading
    path = write_painted(tmp_path / "net.onnx", reading, ["a", "b"])
    with pytest.raises(ModelError) as refused:
        warm_up(predictor(path, reading, ["a", "b"], boxes="cxcywh"))
    assert "decoder 'yolov5' does not fit what the model gives for known pictures: " in str(refused.value)
    assert "(what fits: boxes = 'xyxy')" in str(refused.value)


def test_the_built_in_models_are_proven(tmp_path: Path) -> None:
    del tmp_path
    folder = Path(__file__).parents[2] / "engines" / "conveyor"
    manifest = read_manifest(folder)
    warm_up(Predictor(OrtEngine(folder / manifest.onnx, threads=1), manifest, ["a"] * 6, folder))


# --- in service


def rows(count: int = 40) -> NDArray[np.float32]:
    """Return rows of corners, score and class, as of a model that finds something small in each."""
    random_state = np.random.default_rng(0)
    low = random_state.uniform(0, 70, (count, 2))
    found = np.column_stack((low, low + 20, np.full(count, 0.1), np.zeros(count))).astype(np.float32)
    found[:5, 4] = 0.9
    return found


def decoder(**keys: Any) -> Decoder:
    output = {"decoder": "yolov10", **keys}
    manifest = Manifest.model_validate({"task": "detect", "onnx": "m.onnx", "output": output})
    specs = [TensorSpec("output0", (1, 40, 6), np.dtype(np.float32))]
    return Decoder(manifest, LABELS, specs, (SIDE, SIDE), Path("no such folder"))


AS_IS = Geometry((SIDE, SIDE), 1.0, 1.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("place", "value", "reason"),
    [
        ((3, 4), 1.5, "a score of 1.5, wanted 0 to 1"),
        ((30, 4), np.nan, "a score of nan, wanted 0 to 1"),
        ((3, 4), np.inf, "a score of inf, wanted 0 to 1"),
        ((3, 0), np.nan, "a box whose corners are no numbers"),
        ((3, 2), np.inf, "a box whose corners are no numbers"),
        ((slice(0, 5), slice(0, 4)), [200, 200, 230, 230], "5 of 5 boxes outside of the picture"),
        ((0, 0), 0.0, None),
        ((0, slice(0, 4)), [200, 200, 230, 230], None),  # one of five
    ],
)
def test_values_that_cannot_be_are_seen_while_they_are_decoded(place: Any, value: Any, reason: str | None) -> None:
    output, guard = rows(), OutputGuard()
    output[place] = value
    found = decoder().decode({"output0": output}, AS_IS, guard=guard)
    assert isinstance(found, Detections)
    assert guard.reason == reason


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda output: output, None),
        (lambda output: output[:, [2, 3, 0, 1, 4, 5]], "the second corner lies before the first"),
        (lambda output: output / SIDE, "are no pixels of the input"),
    ],
)
def test_all_rows_are_checked_now_and_then(change: Any, reason: str | None) -> None:
    reader = decoder(score_threshold=0.99).reader
    assert isinstance(reader, Reader)
    found = implausibility(reader, {"output0": change(rows())})
    assert found is None if reason is None else reason in str(found)


def test_a_session_raises_for_a_picture_that_it_cannot_read(tmp_path: Path) -> None:
    reading = FAMILIES["yolo-nas"].reading
    path = write_painted(tmp_path / "net.onnx", reading, ["a", "b"])
    opened = predictor(path, reading, ["a", "b"], units="unit", score_threshold=0.99)
    with opened.session(is_guarded=True) as session:
        session.fill(built_in_picture(SIDE, SIDE))
        for _ in range(CHECKED_RUNS - 1):
            session.run()
        assert len(session.decode().scores) == 0  # nothing is sure enough to be looked at
        session.run()
        with pytest.raises(ImplausibleOutputError, match=r"are implausible: box values up to .* are no fractions"):
            session.decode()
