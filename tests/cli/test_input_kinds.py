"""Inputs of any kind, drafted and served: whatever a model takes, the same picture arrives in its graph."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from edge.cli.engines.draft import input_settings
from edge.cli.engines.draft_input import draft_input
from edge.core.manifest import Manifest
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.ort import OrtEngine
from edge.inference.predictor import Predictor
from edge.inference.preprocess import Preprocessor
from tests.support.small_models import FLOAT

USUAL: Mapping[str, Any] = {"color": "rgb", "resize": "letterbox", "scale": 1 / 255, "mean": [0] * 3, "std": [1] * 3}
TYPES = {
    "float32": FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "uint8": TensorProto.UINT8,
    "int8": TensorProto.INT8,
    "int32": TensorProto.INT32,
}
ZERO = {"int8": 128.0}
KINDS = st.fixed_dictionaries(
    {
        "dtype": st.sampled_from(sorted(TYPES)),
        "channels": st.sampled_from([1, 3, 4]),
        "planar": st.booleans(),
        "batch": st.sampled_from([1, 3, "N", None]),
        "size": st.sampled_from([(48, 32), (32, 32), (17, 40)]),
        "is_open": st.booleans(),
        "further": st.sampled_from(["", "first", "last"]),
        "picture_name": st.sampled_from(["images", "x.1", "data:0"]),
    }
)


def write(path: Path, kind: Mapping[str, Any]) -> None:
    """Write a model that returns its picture as N×C×H×W in 0…1, and what its further input got."""
    width, height = kind["size"]
    sides = ["h", "w"] if kind["is_open"] else [height, width]
    row = [kind["channels"], *sides] if kind["planar"] else [*sides, kind["channels"]]
    has_batch = kind["batch"] is not None
    nodes = [helper.make_node("Cast", [kind["picture_name"]], ["real"], to=FLOAT)]
    steps: list[tuple[str, list[str], dict[str, Any]]] = [("Add", ["real", "zero"], {})]
    if kind["dtype"] in ("uint8", "int8", "int32"):
        steps.append(("Div", ["", "full"], {}))
    if not has_batch:
        steps.append(("Unsqueeze", ["", "axis"], {}))
    if not kind["planar"]:
        steps.append(("Transpose", [""], {"perm": [0, 3, 1, 2]}))
    before = "real"
    for number, (operator, others, attributes) in enumerate(steps):
        after = "seen" if number == len(steps) - 1 else f"step{number}"
        nodes.append(helper.make_node(operator, [before, *others[1:]], [after], **attributes))
        before = after
    first = kind["batch"] if has_batch else 1
    inputs = [helper.make_tensor_value_info(kind["picture_name"], TYPES[kind["dtype"]], [*([first] * has_batch), *row])]
    outputs = [helper.make_tensor_value_info("seen", FLOAT, [first, kind["channels"], *sides])]
    if kind["further"]:
        size = helper.make_tensor_value_info("what", TensorProto.INT64, [first, 2])
        inputs = [size, *inputs] if kind["further"] == "first" else [*inputs, size]
        nodes.append(helper.make_node("Identity", ["what"], ["got"]))
        outputs.append(helper.make_tensor_value_info("got", TensorProto.INT64, [first, 2]))
    constants = [
        helper.make_tensor("zero", FLOAT, [], [ZERO.get(kind["dtype"], 0.0)]),
        helper.make_tensor("full", FLOAT, [], [255.0]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [0]),
    ]
    graph = helper.make_graph(nodes, "kinds", inputs, outputs, constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


@settings(max_examples=80, derandomize=True)
@given(kind=KINDS)
def test_the_same_picture_arrives_in_every_kind_of_input(
    tmp_path_factory: pytest.TempPathFactory, kind: dict[str, Any]
) -> None:
    folder = tmp_path_factory.getbasetemp()
    write(folder / "kinds.onnx", kind)
    raw = OrtEngine(folder / "kinds.onnx", threads=1)
    width, height = kind["size"]
    metadata = {"imgsz": f"[{height}, {width}]"}  # as Ultralytics writes it
    found = input_settings(USUAL, draft_input(raw.inputs, raw.outputs, metadata))
    (folder / "kinds_decoder.py").write_text("def decode(outputs, _options):\n    return [], [], []\n")
    manifest = Manifest.model_validate(
        {
            "task": "detect",
            "onnx": "kinds.onnx",
            "input": found,
            "output": {"decoder": "kinds_decoder:decode"},
        }
    )
    engine = OrtEngine(folder / "kinds.onnx", threads=1, inputs=manifest.input)
    predictor = Predictor(engine, manifest, (), folder)
    picture = np.random.default_rng(width).integers(0, 256, (50, 70, 3), np.uint8)
    with predictor.session(2) as session:
        session.fill(picture)
        session.run(1)
        outputs = session.copy_outputs(0)
    color = {1: "gray", 3: "rgb", 4: "rgba"}[kind["channels"]]
    plain = Preprocessor(
        TensorSpec("x", (1, kind["channels"], height, width), np.dtype(np.float32)),
        manifest.input.model_validate({**USUAL, "color": color, "mean": [0], "std": [1]}),
    )
    wanted = np.empty((kind["channels"], height, width), np.float32)
    plain.fill(picture, wanted)
    np.testing.assert_allclose(outputs["seen"], wanted, atol=1e-3)
    if kind["further"]:
        assert outputs["got"].tolist() == [width, height]
