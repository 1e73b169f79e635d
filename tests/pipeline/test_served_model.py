"""A model that is served: opened and checked as a whole, or refused in one sentence; and how its lanes are planned."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.core.config import ModelSettings
from edge.core.errors import ModelError
from edge.core.manifest import model_file, read_manifest
from edge.core.process import usable_cores
from edge.pipeline.served_model import ServedModel, lane_plan

MANIFEST = """
task = "classify"
onnx = "m.onnx"
labels = "labels.txt"
[output]
decoder = "topk"
"""


def write_model(folder: Path, batch: int | str = "N", inputs: int = 1) -> Path:
    """Write a model folder: the mean of each of three colours is the score of a class."""
    names = [f"image{number}" for number in range(inputs)]
    graph = helper.make_graph(
        [
            helper.make_node("Sum", names, ["sum"]),
            helper.make_node("ReduceMean", ["sum"], ["scores"], axes=[2, 3], keepdims=0),
        ],
        "small",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 3, 8, 8]) for name in names],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 3])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "m.onnx")
    (folder / "labels.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    (folder / "model.toml").write_text(MANIFEST, encoding="utf-8")
    return folder


def settings(**keys: Any) -> ModelSettings:
    return ModelSettings.model_validate({"path": ".", **keys})


def opened(folder: Path, **keys: Any) -> ServedModel:
    return ServedModel("colours", settings(path=str(folder), **keys))


def refusal(folder: Path) -> str:
    with pytest.raises(ModelError) as raised:
        opened(folder)
    told = str(raised.value)
    assert told.startswith("model 'colours': ")
    assert len(told.splitlines()) == 1
    return told


@pytest.mark.parametrize(
    ("lanes", "threads", "cores", "plan"),
    [
        ("auto", "auto", 1, (1, 1)),
        ("auto", "auto", 6, (6, 1)),
        ("auto", 2, 6, (3, 2)),
        ("auto", 4, 6, (1, 4)),
        ("auto", 8, 2, (1, 8)),
        (1, "auto", 6, (1, 6)),
        (2, "auto", 6, (2, 3)),
        (8, "auto", 6, (8, 1)),
        (3, 2, 1, (3, 2)),
    ],
)
def test_lanes_and_threads_share_the_cores(lanes: Any, threads: Any, cores: int, plan: tuple[int, int]) -> None:
    assert lane_plan(settings(lanes=lanes, threads=threads), cores) == plan


AUTO_OR_COUNT = st.one_of(st.just("auto"), st.integers(1, 64))


@given(AUTO_OR_COUNT, AUTO_OR_COUNT, st.integers(1, 64))
def test_any_plan_has_a_lane_and_what_is_left_open_overbooks_no_core(lanes: Any, threads: Any, cores: int) -> None:
    planned_lanes, planned_threads = lane_plan(settings(lanes=lanes, threads=threads), cores)
    assert planned_lanes >= 1
    assert planned_threads >= 1
    assert lanes in ("auto", planned_lanes)
    assert threads in ("auto", planned_threads)
    if lanes == "auto" and planned_lanes > 1:
        assert planned_lanes * planned_threads <= cores
    if threads == "auto" and planned_threads > 1:
        assert planned_lanes * planned_threads <= cores


def test_only_the_cores_that_this_process_may_use_count() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)


def test_a_model_is_opened_with_all_that_belongs_to_it(tmp_path: Path) -> None:
    model = opened(write_model(tmp_path), max_batch=3, lanes=2)
    assert model.labels == ("red", "green", "blue")
    assert (model.max_batch, model.lane_count) == (3, 2)
    assert model.predictor.input.shape == (None, 3, 8, 8)
    with model.predictor.session() as session:
        findings = session.predict(np.full((4, 4, 3), (0, 9, 0), np.uint8))
    assert model.labels[findings.class_ids[0]] == "green"


def test_a_fixed_batch_limits_max_batch_and_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    assert opened(write_model(tmp_path, batch=1), max_batch=4).max_batch == 1
    assert "model colours has a fixed batch size of 1; max_batch is reduced to it" in caplog.text


def test_a_folder_without_manifest_is_refused(tmp_path: Path) -> None:
    assert "contains no model.toml" in refusal(tmp_path)


def test_a_missing_onnx_file_is_refused(tmp_path: Path) -> None:
    (write_model(tmp_path) / "m.onnx").unlink()
    told = refusal(tmp_path)
    assert f"{tmp_path}/m.onnx" in told
    assert "does not exist; wanted the ONNX file that model.toml names" in told


@pytest.mark.parametrize("name", ["x" * 300, "a\\u0000b", "."])
def test_an_onnx_name_that_cannot_be_is_refused(tmp_path: Path, name: str) -> None:
    write_model(tmp_path)
    (tmp_path / "model.toml").write_text(MANIFEST.replace("m.onnx", name), encoding="utf-8")
    assert "does not exist; wanted the ONNX file" in refusal(tmp_path)


def test_a_text_file_as_onnx_is_refused(tmp_path: Path) -> None:
    (write_model(tmp_path) / "m.onnx").write_text("no model", encoding="utf-8")
    assert "m.onnx cannot be loaded" in refusal(tmp_path)


def test_a_truncated_onnx_file_is_refused(tmp_path: Path) -> None:
    path = write_model(tmp_path) / "m.onnx"
    path.write_bytes(path.read_bytes()[:-30])
    assert "m.onnx cannot be loaded" in refusal(tmp_path)


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    told = refusal(write_model(tmp_path, inputs=2))
    assert "the model has 2 inputs (image0 ?×3×8×8, image1 ?×3×8×8), of which 2 have no values" in told
    assert "wanted [input] values for all but the picture's" in told


def test_missing_labels_are_refused(tmp_path: Path) -> None:
    (write_model(tmp_path) / "labels.txt").unlink()
    told = refusal(tmp_path)
    assert f"{tmp_path}/labels.txt" in told
    assert "cannot be read" in told


def test_an_output_that_does_not_fit_the_decoder_is_refused_by_its_shape(tmp_path: Path) -> None:
    write_model(tmp_path)
    text = MANIFEST.replace("classify", "detect").replace("topk", "yolox")
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    told = refusal(tmp_path)
    assert "'scores'" in told
    assert "?×3" in told
    assert "wanted" in told


def test_the_onnx_file_stands_beside_its_manifest(tmp_path: Path) -> None:
    write_model(tmp_path)
    assert model_file(tmp_path, read_manifest(tmp_path)) == tmp_path / "m.onnx"
