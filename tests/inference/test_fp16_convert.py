"""Conversion to FP16: valid models in agreement with FP32, and the file that caches them."""

from __future__ import annotations

import itertools
import json
import logging
import os
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import ArrayLike, NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.capture import open_source
from edge.core.errors import ModelError
from edge.core.manifest import Manifest, read_manifest
from edge.core.records import Detections
from edge.core.source_address import parse_address
from edge.inference.backends.ort import OrtEngine
from edge.inference.backends.tensorrt.library import bits, make_logger
from edge.inference.decode import Decoder
from edge.inference.fp16.cast import is_fp16, to_fp16
from edge.inference.fp16.convert import RangeCheck, fp16_file
from edge.inference.preprocess import Preprocessor
from tests.support.project import CONVEYOR, real_data
from tests.support.real_tensorrt import real_tensorrt

FLOAT, HALF, INT32, INT64, BOOL = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.INT32,
    TensorProto.INT64,
    TensorProto.BOOL,
)
NOBODY = 65534
node = helper.make_node
value = helper.make_tensor_value_info


def float32(*numbers: float) -> NDArray[np.float32]:
    return np.array(numbers, np.float32)


def make_model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    weights: Mapping[str, ArrayLike] | None = None,
    opset: int = 17,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(numbers), name) for name, numbers in (weights or {}).items()]
    graph = helper.make_graph(nodes, "graph", inputs, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return model


def row(name: str, kind: int = FLOAT, size: int = 4) -> onnx.ValueInfoProto:
    return value(name, kind, [1, size])


def convert(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert a copy; what results must pass the checker, which also wants its nodes in order."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    converted, _ = to_fp16(copy)
    onnx.checker.check_model(converted, full_check=True)
    return converted


def session(model: onnx.ModelProto) -> Any:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    # So that nodes compute what the file says, and casts are not optimised away.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def assert_agrees(model: onnx.ModelProto, feed: dict[str, Any], tolerance: float = 2e-3) -> onnx.ModelProto:
    """Convert, run both forms, compare; return the converted one."""
    converted = convert(model)
    before, after = session(model), session(converted)
    for part in ("get_inputs", "get_outputs"):
        described = [[(each.name, each.type, each.shape) for each in getattr(one, part)()] for one in (before, after)]
        assert described[0] == described[1]
    for wanted, found in zip(before.run(None, feed), after.run(None, feed), strict=True):
        assert found.dtype == wanted.dtype
        np.testing.assert_allclose(found, wanted, rtol=tolerance, atol=tolerance)
    return converted


def ops(model: onnx.ModelProto) -> Counter[str]:
    return Counter(each.op_type for each in model.graph.node)


def casts(model: onnx.ModelProto) -> list[tuple[str, int]]:
    """Return what each Cast of the model reads, and the type that it makes of it."""
    return [(each.input[0], each.attribute[0].i) for each in model.graph.node if each.op_type == "Cast"]


def weight_types(model: onnx.ModelProto) -> dict[str, int]:
    return {tensor.name: tensor.data_type for tensor in model.graph.initializer}


X = {"x": float32(-1.5, 0.25, 1, 3)[None]}


def test_a_chain_of_nodes_gets_one_cast_at_each_end() -> None:
    model = make_model([node("Relu", ["x"], ["a"]), node("Sigmoid", ["a"], ["y"])], [row("x")], [row("y")])
    converted = assert_agrees(model, X)
    assert ops(converted) == {"Cast": 2, "Relu": 1, "Sigmoid": 1}


def test_an_output_that_is_also_read_inside_keeps_its_name_and_type() -> None:
    model = make_model([node("Relu", ["x"], ["a"]), node("Sigmoid", ["a"], ["b"])], [row("x")], [row("a"), row("b")])
    assert_agrees(model, X)


def test_a_weight_that_several_nodes_read_is_converted_once() -> None:
    nodes = [node("Add", ["x", "w"], ["a"]), node("Mul", ["a", "w"], ["y"])]
    converted = assert_agrees(make_model(nodes, [row("x")], [row("y")], {"w": float32(1, 2, 3, 4)}), X)
    assert list(weight_types(converted).values()) == [HALF]


def test_the_scales_and_the_region_of_resize_stay_float32_and_its_picture_does_not() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Resize", ["a", "roi", "s"], ["b"]), node("Mul", ["s", "s"], ["c"])]
    model = make_model(
        nodes,
        [value("x", FLOAT, [1, 1, 2, 2])],
        [value("b", FLOAT, [1, 1, 4, 4]), value("c", FLOAT, [4])],
        {"s": float32(1, 1, 2, 2), "roi": float32()},
    )
    converted = assert_agrees(model, {"x": X["x"].reshape(1, 1, 2, 2)})
    assert weight_types(converted) == {"s": FLOAT, "roi": FLOAT}
    assert casts(converted) == [("x", HALF), ("b_fp16", FLOAT)]


@pytest.mark.parametrize("kind", [FLOAT, TensorProto.UINT8])
def test_sizes_computed_in_float_stay_exact(kind: int) -> None:
    # 4099 is no number of float16: the last three of the row would be cut off, or asked for beyond its end.
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Cast", ["shape"], ["sizes"], to=FLOAT),
        node("Mul", ["sizes", "one"], ["scaled"]),
        node("Cast", ["scaled"], ["end"], to=INT64),
        node("Slice", ["x", "start", "end"], ["y"]),
    ]
    weights = {"one": float32(1, 1), "start": np.array([0, 0])}
    model = make_model(nodes, [row("x", kind, 4099)], [value("y", kind, ["a", "b"])], weights)
    picture = np.linspace(0, 200, 4099).astype(np.float32 if kind == FLOAT else np.uint8)[None]
    converted = assert_agrees(model, {"x": picture})
    assert weight_types(converted)["one"] == FLOAT


def test_positions_found_in_the_data_stay_exact() -> None:
    # ArgMax gives 4098, which float16 would round to 4096 or 4100.
    nodes = [
        node("ArgMax", ["x"], ["at"], axis=1),
        node("Cast", ["at"], ["number"], to=FLOAT),
        node("Mul", ["number", "two"], ["y"]),
    ]
    model = make_model(nodes, [row("x", size=4099)], [value("y", FLOAT, [1, 1])], {"two": float32(2)})
    converted = convert(model)
    assert session(converted).run(None, {"x": np.arange(4099, dtype=np.float32)[None]})[0].item() == 8196
    assert casts(converted) == [("x", HALF), ("at", FLOAT)]


def test_long_sums_stay_float32() -> None:
    model = make_model([node("CumSum", ["x", "axis"], ["y"])], [row("x")], [row("y")], {"axis": np.array(1)})
    assert casts(assert_agrees(model, X, tolerance=0)) == []


def test_sequences_stay_float32() -> None:
    nodes = [
        node("Relu", ["x"], ["a"]),
        node("SequenceConstruct", ["a", "x"], ["s"]),
        node("SequenceAt", ["s", "zero"], ["y"]),
    ]
    assert_agrees(make_model(nodes, [row("x")], [row("y")], {"zero": np.array(0)}), X)


def test_integers_become_floats_of_full_width() -> None:
    model = make_model([node("Cast", ["x"], ["y"], to=FLOAT)], [row("x", INT32)], [row("y")])
    assert_agrees(model, {"x": np.array([[1, 2049, 70_000, 1_000_000]], np.int32)}, tolerance=0)


def test_a_picture_of_bytes_is_computed_in_float16() -> None:
    nodes = [node("Cast", ["x"], ["f"], to=FLOAT), node("Mul", ["f", "w"], ["y"])]
    model = make_model(nodes, [row("x", TensorProto.UINT8)], [row("y")], {"w": float32(0.5)})
    converted = assert_agrees(model, {"x": np.array([[0, 1, 128, 255]], np.uint8)})
    assert casts(converted) == [("x", HALF), ("y_fp16", FLOAT)]


def test_a_cast_with_other_attributes_is_changed_in_its_type_alone() -> None:
    cast = node("Cast", ["x"], ["f"])
    cast.attribute.extend([helper.make_attribute("saturate", 1), helper.make_attribute("to", FLOAT)])
    model = make_model([cast, node("Neg", ["f"], ["y"])], [row("x", TensorProto.UINT8)], [row("y")], opset=19)
    assert_agrees(model, {"x": np.array([[0, 1, 128, 255]], np.uint8)})


def test_the_same_model_always_gives_the_same_file() -> None:
    names = [f"y{index}" for index in range(20)]
    model = make_model([node("Neg", ["x"], [name]) for name in names], [row("x")], [row(name) for name in names])
    assert [made for made in convert(model).graph.node if made.op_type == "Cast"][-1].output[0] == names[-1]


def branches(*then: onnx.NodeProto) -> onnx.NodeProto:
    yes = helper.make_graph(then, "then", [], [row("t")])
    no = helper.make_graph([node("Neg", ["a"], ["t"])], "else", [], [row("t")])
    return node("If", ["c"], ["y"], then_branch=yes, else_branch=no)


@pytest.mark.parametrize("condition", [True, False])
def test_the_branches_of_an_if_read_tensors_from_outside(condition: bool) -> None:  # noqa: FBT001 -- a parameter of the test
    nodes = [node("Identity", ["x"], ["a"]), branches(node("Mul", ["x", "w"], ["u"]), node("Relu", ["u"], ["t"]))]
    model = make_model(nodes, [value("c", BOOL, []), row("x")], [row("y")], {"w": float32(0.5)})
    assert_agrees(model, X | {"c": np.array(condition)})


def test_a_node_that_stays_float32_stands_in_a_branch() -> None:
    positions = [node("NonZero", ["x"], ["n"]), node("Cast", ["n"], ["f"], to=FLOAT), node("ReduceMax", ["f"], ["m"])]
    inner = [*positions, node("Mul", ["a", "m"], ["t"])]
    nodes = [node("Relu", ["x"], ["a"]), branches(*inner)]
    model = make_model(nodes, [value("c", BOOL, []), row("x")], [row("y")])
    assert_agrees(model, X | {"c": np.array(True)})  # noqa: FBT003 -- NumPy's signature


def test_what_a_loop_carries_is_float16() -> None:
    body = helper.make_graph(
        [
            node("Add", ["v", "a"], ["v1"]),
            node("Identity", ["on"], ["on1"]),
            node("Mul", ["v1", "k"], ["step"]),
            node("Constant", [], ["k"], value_float=0.5),
        ][::-1],
        "body",
        [value("i", INT64, []), value("on", BOOL, []), row("v")],
        [value("on1", BOOL, []), row("v1"), row("step")],
    )
    body.node.sort(key=lambda each: ["Constant", "Identity", "Add", "Mul"].index(each.op_type))
    nodes = [node("Relu", ["x"], ["a"]), node("Loop", ["n", "", "start"], ["y", "all"], body=body)]
    outputs = [row("y"), value("all", FLOAT, [3, 1, 4])]
    model = make_model(nodes, [row("x")], outputs, {"n": np.array(3), "start": float32(1, 2, 3, 4)[None]})
    assert_agrees(model, X)


def test_functions_of_the_model_are_written_out() -> None:
    doubled = helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Add", ["a", "a"], ["b"])], [helper.make_opsetid("", 17)]
    )
    graph = helper.make_graph([node("Twice", ["x"], ["y"], domain="mine")], "graph", [row("x")], [row("y")])
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    model = helper.make_model(graph, opset_imports=imports, functions=[doubled], ir_version=8)
    converted = assert_agrees(model, X)
    assert ops(converted) == {"Cast": 2, "Add": 1}


def test_operators_that_know_no_float16_stay_float32() -> None:
    nodes = [
        node("Relu", ["boxes"], ["b"]),
        node("Relu", ["scores"], ["s"]),
        node("NonMaxSuppression", ["b", "s", "most", "iou"], ["y"]),
        node("Sigmoid", ["s"], ["z"]),
    ]
    model = make_model(
        nodes,
        [value("boxes", FLOAT, [1, 2, 4]), value("scores", FLOAT, [1, 1, 2])],
        [value("y", INT64, ["n", 3]), value("z", FLOAT, [1, 1, 2])],
        {"most": np.array([5]), "iou": float32(0.5)},
    )
    boxes = float32(0, 0, 1, 1, 0, 0, 1, 0.9).reshape(1, 2, 4)
    assert_agrees(model, {"boxes": boxes, "scores": float32(0.9, 0.8).reshape(1, 1, 2)})


def test_weights_that_are_inputs_too_as_in_old_files_are_weights() -> None:
    nodes = [node("Mul", ["x", "w"], ["y"])]
    model = make_model(nodes, [row("x"), value("w", FLOAT, [1])], [row("y")], {"w": float32(0.5)}, opset=11)
    model.ir_version = 3
    converted = convert(model)
    assert [each.name for each in converted.graph.input] == ["x"]
    assert session(converted).run(None, X)[0].tolist() == (X["x"] * 0.5).tolist()


def quantised(opset: int, scale: ArrayLike) -> onnx.ModelProto:
    """Make a MatMul with its input and its weight quantised."""
    nodes = [
        node("QuantizeLinear", ["x", "s"], ["q"]),
        node("DequantizeLinear", ["q", "s"], ["d"]),
        node("DequantizeLinear", ["w", "s"], ["v"]),
        node("MatMul", ["d", "v"], ["y"]),
    ]
    weights = {"s": scale, "w": np.arange(16, dtype=np.uint8).reshape(4, 4)}
    return make_model(nodes, [row("x")], [row("y")], weights, opset)


def onnxruntime_opset() -> int:
    """Return the newest opset of which this ONNX Runtime has all operators that are used here."""
    major, minor = (int(each) for each in onnxruntime.__version__.split(".")[:2])
    return 23 if (major, minor) >= (1, 24) else 21


@pytest.mark.parametrize("opset", [13, 17, 19, 21, 23])
def test_a_quantised_model_gets_float16_scales_and_no_cast_beside_its_product(opset: int) -> None:
    if opset > onnxruntime_opset():
        pytest.skip(f"this ONNX Runtime does not know opset {opset}")
    converted = assert_agrees(quantised(opset, np.float32(0.125)), X)
    assert {each.version for each in converted.opset_import} == {max(opset, 19)}
    assert ops(converted) == {"Cast": 2, "QuantizeLinear": 1, "DequantizeLinear": 2, "MatMul": 1}


@pytest.mark.parametrize("number", [65_520.0, -1e6, 1e38])
def test_a_node_whose_weight_goes_beyond_float16_stays_float32(number: float) -> None:
    nodes = [node("Mul", ["x", "w"], ["a"], "scale"), node("Div", ["a", "w"], ["b"]), node("Relu", ["b"], ["y"])]
    model = make_model(nodes, [row("x")], [row("y")], {"w": float32(number)})
    converted, kept = to_fp16(model)
    assert kept == ["Mul node 'scale'", "Div node 'b'"]
    assert weight_types(converted) == {"w": FLOAT}
    found = session(converted).run(None, X)[0]
    np.testing.assert_allclose(found, np.maximum(X["x"], 0), rtol=1e-3)


def test_infinite_weights_and_the_largest_of_float16_are_kept() -> None:
    numbers = float32(np.inf, -np.inf, 65_504, -65_504)
    model = make_model([node("Min", ["x", "w"], ["y"])], [row("x")], [row("y")], {"w": numbers})
    converted = convert(model)
    assert numpy_helper.to_array(converted.graph.initializer[0]).tolist() == numbers.tolist()
    assert weight_types(converted) == {"w_fp16": HALF}


def test_a_small_number_that_guards_a_division_does_not_become_zero() -> None:
    nodes = [node("Add", ["z", "epsilon"], ["d"]), node("Div", ["z", "d"], ["y"])]
    model = make_model(nodes, [row("z")], [row("y")], {"epsilon": float32(1e-12)})
    assert_agrees(model, {"z": np.zeros((1, 4), np.float32)})


def test_a_weight_that_a_loop_would_carry_beyond_float16_is_refused() -> None:
    body = helper.make_graph(
        [node("Identity", ["on"], ["on1"]), node("Neg", ["v"], ["v1"])],
        "body",
        [value("i", INT64, []), value("on", BOOL, []), row("v")],
        [value("on1", BOOL, []), row("v1")],
    )
    weights = {"n": np.array(3), "start": float32(1e9, 0, 0, 0)[None]}
    model = make_model([node("Loop", ["n", "", "start"], ["y"], body=body)], [row("x")], [row("y")], weights)
    with pytest.raises(ModelError, match=r"'start'.*65504.*use precision fp32"):
        to_fp16(model)


def test_an_operator_of_ones_own_stays_float32_where_its_output_type_is_told() -> None:
    nodes = [node("Relu", ["x"], ["a"]), node("Mine", ["a"], ["b"], "own", domain="mine"), node("Relu", ["b"], ["y"])]
    graph = helper.make_graph(nodes, "graph", [row("x")], [row("y")], value_info=[row("b")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)])
    converted, _ = to_fp16(model)
    assert casts(converted) == [("x", HALF), ("a", FLOAT), ("b", HALF), ("y_fp16", FLOAT)]
    model.graph.ClearField("value_info")
    untold = helper.make_model(
        helper.make_graph(nodes, "graph", [row("x")], [row("y")]), opset_imports=model.opset_import
    )
    with pytest.raises(ModelError, match=r"'b'.*Mine node 'own'.*value_info"):
        to_fp16(untold)


def test_operator_types_that_are_blocked_stay_float32_inside_of_branches_too() -> None:
    nodes = [node("Relu", ["x"], ["a"]), branches(node("Sigmoid", ["a"], ["u"]), node("Relu", ["u"], ["t"]))]
    model = make_model(nodes, [value("c", BOOL, []), row("x")], [row("y")])
    converted, kept = to_fp16(model, blocked=["Sigmoid"])
    onnx.checker.check_model(converted, full_check=True)
    assert kept == []
    branch = next(each.g for node in converted.graph.node for each in node.attribute if each.name == "then_branch")
    assert [(each.op_type, list(each.input)) for each in branch.node] == [
        ("Cast", ["a"]),
        ("Sigmoid", ["a_fp32"]),
        ("Cast", ["u"]),
        ("Relu", ["u_fp16"]),
    ]


@pytest.mark.parametrize("choice", [{"keep": ["choose"]}, {"blocked": ["If"]}])
def test_a_branch_that_is_to_stay_float32_stays_so_whole(choice: dict[str, list[str]]) -> None:
    nodes = [node("Relu", ["x"], ["a"]), branches(node("Mul", ["a", "w"], ["u"]), node("Relu", ["u"], ["t"]))]
    nodes[1].name = "choose"
    model = make_model(nodes, [value("c", BOOL, []), row("x")], [row("y")], {"w": float32(0.5)})
    feeds = [X | {"c": np.array(condition)} for condition in (True, False)]
    wanted = [session(model).run(None, feed)[0].tolist() for feed in feeds]
    converted, _ = to_fp16(model, **choice)
    onnx.checker.check_model(converted, full_check=True)
    assert [session(converted).run(None, feed)[0].tolist() for feed in feeds] == wanted
    assert casts(converted) == [("x", HALF)]
    assert weight_types(converted) == {"w": FLOAT}
    inner = {each.name: [node.op_type for node in each.g.node] for each in converted.graph.node[-1].attribute}
    assert inner == {"then_branch": ["Cast", "Mul", "Relu"], "else_branch": ["Cast", "Neg"]}


@pytest.mark.parametrize(
    ("choice", "told"),
    [
        ({"keep": ["gone"]}, r"node 'gone', kept in FP32, is not in the model"),
        ({"blocked": ["SoftMax"]}, r"'SoftMax'.*is not an ONNX operator type; wanted names such as 'Softmax'"),
    ],
)
def test_what_is_to_stay_float32_and_is_not_there_is_refused(choice: dict[str, list[str]], told: str) -> None:
    with pytest.raises(ModelError, match=told):
        to_fp16(make_model([node("Relu", ["x"], ["y"])], [row("x")], [row("y")]), **choice)


UNARY = ("Relu", "Neg", "Identity", "Abs")
BINARY = ("Add", "Sub", "Min", "Max")
EIGHTHS = st.integers(-32, 32).map(lambda number: number / 8)


@st.composite
def models(draw: st.DrawFn) -> onnx.ModelProto:
    """Draw a graph of rows of four, with branches, constants, casts, and any outputs.

    Six steps from multiples of 1/8 up to 4 stay where float16 is exact.
    """
    nodes: list[onnx.NodeProto] = []
    names = ["x", "w"]
    for index in range(draw(st.integers(1, 6))):
        first, second = draw(st.sampled_from(names)), draw(st.sampled_from(names))
        constant = draw(st.lists(EIGHTHS, min_size=4, max_size=4))
        nodes += draw(st.sampled_from(steps(f"t{index}", first, second, constant)))
        names.append(f"t{index}")
    outputs = draw(st.lists(st.sampled_from(names[2:]), min_size=1, unique=True))
    weights = {"w": float32(0.5, -1, 2, 0)[None], "k": np.array([4])}
    return make_model(nodes, [row("x"), value("c", BOOL, [])], [row(name) for name in outputs], weights)


def steps(made: str, first: str, second: str, constant: list[float]) -> list[list[onnx.NodeProto]]:
    """Return the ways to make a tensor of two others."""
    yes = helper.make_graph([node("Add", [first, second], [f"{made}y"])], "then", [], [row(f"{made}y")])
    no = helper.make_graph([node("Neg", [first], [f"{made}n"])], "else", [], [row(f"{made}n")])
    return [
        *([node(name, [first], [made])] for name in UNARY),
        *([node(name, [first, second], [made])] for name in BINARY),
        [node("Constant", [], [made], value=numpy_helper.from_array(float32(*constant)[None]))],
        [node("Cast", [first], [f"{made}i"], to=INT32), node("Cast", [f"{made}i"], [made], to=FLOAT)],
        [node("TopK", [first, "k"], [made, f"{made}i"])],
        [node("If", ["c"], [made], then_branch=yes, else_branch=no)],
    ]


@given(models(), st.booleans())
def test_any_graph_is_converted_to_a_valid_one_that_agrees(model: onnx.ModelProto, condition: bool) -> None:  # noqa: FBT001 -- drawn
    assert_agrees(model, X | {"c": np.array(condition)}, tolerance=0)


def write(path: Path, weight: float = 0.5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(make_model([node("Mul", ["x", "w"], ["y"])], [row("x")], [row("y")], {"w": float32(weight)}), path)
    return path


def weight_of(path: Path) -> float:
    (weight,) = onnx.load(path).graph.initializer
    assert weight.data_type == HALF
    return float(numpy_helper.to_array(weight)[0])


def test_the_fp16_file_stands_beside_its_source_with_its_rights(tmp_path: Path) -> None:
    source = write(tmp_path / "net.v2.onnx")
    source.chmod(0o640)
    made = fp16_file(source, tmp_path / "state")
    assert made == tmp_path / "net.v2.fp16.onnx"
    assert made.stat().st_mode & 0o777 == 0o640
    assert weight_of(made) == 0.5
    assert {path.name for path in tmp_path.iterdir()} == {"net.v2.onnx", "net.v2.fp16.onnx"}


def test_it_is_made_once_and_anew_when_the_source_changes(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    made = fp16_file(source, tmp_path)
    first = made.stat()
    assert fp16_file(source, tmp_path) == made
    assert made.stat().st_ino == first.st_ino
    write(source, 0.25)
    assert weight_of(fp16_file(source, tmp_path)) == 0.25


CHECKED = RangeCheck(("y",), "ab" * 32)
CHOICES = ("edge.fp16_choice", "edge.fp16_of")


def choice_of(path: Path) -> dict[str, Any]:
    properties = {each.key: each.value for each in onnx.load(path).metadata_props}
    return dict(json.loads(properties[CHOICES[0]]))


def test_what_stays_fp32_is_told_in_the_file_and_the_file_made_anew_when_it_changes(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    plain = fp16_file(source, tmp_path).read_bytes()
    inodes = []
    for ranges, blocked in (
        (CHECKED, None),
        (CHECKED, None),
        (RangeCheck(("y",), "cd" * 32), None),
        (RangeCheck((), "cd" * 32), None),
        (RangeCheck((), "cd" * 32), ["Mul", "Softmax"]),
        (None, ["Softmax", "Mul", "Mul"]),
        (None, []),
    ):
        made = fp16_file(source, tmp_path, ranges=ranges, blocked=blocked)
        inodes.append(made.stat().st_ino)
        weights = {tensor.data_type for tensor in onnx.load(made).graph.initializer}
        assert weights == {FLOAT if blocked or (ranges and ranges.keep) else HALF}
    assert [one == other for one, other in itertools.pairwise(inodes)] == [
        True,
        False,
        False,
        False,
        True,
        False,
    ]
    assert choice_of(made) == {"keep": [], "data_sha256": "cd" * 32, "blocked": []}
    assert made.read_bytes() != plain


def test_a_call_that_knows_of_no_check_leaves_a_checked_file_until_its_source_changes(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    made = fp16_file(source, tmp_path, ranges=CHECKED, blocked=["Softmax"])
    inode = made.stat().st_ino
    assert fp16_file(source, tmp_path).stat().st_ino == inode
    assert fp16_file(source, tmp_path, ranges=CHECKED).stat().st_ino == inode
    assert fp16_file(source, tmp_path, blocked=["Softmax"]).stat().st_ino == inode
    fp16_file(source, tmp_path, blocked=[])
    assert choice_of(made) == {"keep": ["y"], "data_sha256": "ab" * 32, "blocked": []}
    write(source, 0.25)
    assert weight_of(fp16_file(source, tmp_path)) == 0.25
    assert {each.key for each in onnx.load(made).metadata_props} == {CHOICES[1]}


def test_a_choice_of_any_length_is_read_again(tmp_path: Path) -> None:
    for count in (1, 2000):
        names = [f"y{index}" for index in range(count)]
        nodes = [node("Neg", ["x"], [name]) for name in names]
        onnx.save(make_model(nodes, [row("x")], [row(name) for name in names]), tmp_path / "net.onnx")
        made = fp16_file(tmp_path / "net.onnx", tmp_path, ranges=RangeCheck(tuple(names), "ab" * 32))
        inode = made.stat().st_ino
        assert fp16_file(tmp_path / "net.onnx", tmp_path).stat().st_ino == inode
        assert choice_of(made)["keep"] == sorted(names)
        assert casts(onnx.load(made)) == []


def test_a_file_whose_choice_is_damaged_is_made_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    made = fp16_file(source, tmp_path, ranges=CHECKED)
    made.write_bytes(made.read_bytes().replace(b'{"keep"', b'{"kept"'))
    assert weight_of(fp16_file(source, tmp_path)) == 0.5


def test_nodes_that_stay_float32_for_their_ranges_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fp16_file(write(tmp_path / "net.onnx"), tmp_path, ranges=CHECKED)
    assert (
        "1 nodes stay in FP32, because they exceed the safe range of FP16 on the calibration inputs: y" in caplog.text
    )


def test_a_damaged_fp16_file_is_made_anew(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    made = fp16_file(source, tmp_path)
    made.write_bytes(made.read_bytes()[:-40])
    (tmp_path / "state").mkdir()
    again = fp16_file(source, tmp_path / "state")
    assert weight_of(again) == 0.5


def test_numbers_in_a_file_of_their_own_count_as_source(tmp_path: Path) -> None:
    for weight in (0.5, 0.25):
        model = make_model([node("Mul", ["x", "w"], ["y"])], [row("x")], [row("y")], {"w": float32(weight)})
        onnx.save(model, tmp_path / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
        assert weight_of(fp16_file(tmp_path / "net.onnx", tmp_path)) == weight
    (tmp_path / "net.bin").unlink()
    with pytest.raises(
        ModelError, match=r"net\.bin' does not exist, and it holds values of the model; copy it next to net\.onnx"
    ):
        fp16_file(tmp_path / "net.onnx", tmp_path)


@pytest.fixture
def read_only_folder() -> Iterator[Path]:
    """Yield a folder in which models can be read and nothing written, by whoever runs the tests: root may all."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for model in ("a", "b"):
            write(folder / model / "net.onnx", 0.5 if model == "a" else 0.25)
        (folder / "state").mkdir()
        if os.geteuid() == 0:
            shutil.chown(folder / "state", NOBODY)
        for path in (folder, folder / "a", folder / "b"):
            path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        yield folder
        if root:
            os.seteuid(0)
        for path in (folder, folder / "a", folder / "b"):
            path.chmod(0o755)


def test_where_the_folder_is_read_only_it_lies_in_the_state_and_names_do_not_collide(read_only_folder: Path) -> None:
    state = read_only_folder / "state"
    made = {model: fp16_file(read_only_folder / model / "net.onnx", state) for model in ("a", "b")}
    assert {path.parent for path in made.values()} == {state / "models"}
    assert {model: weight_of(path) for model, path in made.items()} == {"a": 0.5, "b": 0.25}
    assert fp16_file(read_only_folder / "a" / "net.onnx", state) == made["a"]


def test_beside_a_plain_file_in_a_read_only_folder_the_checked_one_in_the_state_serves(tmp_path: Path) -> None:
    source, state = write(tmp_path / "model" / "net.onnx"), tmp_path / "state"
    plain = fp16_file(source, state).rename(tmp_path / "plain.onnx")
    (tmp_path / "model" / "net.fp16.onnx").mkdir()  # cannot be written
    checked = fp16_file(source, state, ranges=CHECKED)
    assert checked.parent == state / "models"
    (tmp_path / "model" / "net.fp16.onnx").rmdir()
    plain.rename(tmp_path / "model" / "net.fp16.onnx")
    assert fp16_file(source, state) == checked


def test_where_nothing_can_be_written_one_sentence_tells_it(read_only_folder: Path) -> None:
    with pytest.raises(ModelError, match=r"neither beside it nor to .*state.*\(.+\); check the folders' permissions"):
        fp16_file(read_only_folder / "a" / "net.onnx", read_only_folder / "no-state")


def test_a_file_of_that_name_that_we_did_not_make_is_left_alone(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    (tmp_path / "net.fp16.onnx").write_bytes(b"mine")
    made = fp16_file(source, tmp_path / "state")
    assert made.parent == tmp_path / "state" / "models"
    assert (tmp_path / "net.fp16.onnx").read_bytes() == b"mine"


def test_a_model_that_is_fp16_already_is_used_as_it_is(tmp_path: Path) -> None:
    made = fp16_file(write(tmp_path / "net.onnx"), tmp_path)
    made.rename(tmp_path / "half.onnx")
    assert fp16_file(tmp_path / "half.onnx", tmp_path / "state") == tmp_path / "half.onnx"
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    "nodes",
    [
        [node("Cast", ["x"], ["h"], to=HALF), node("Cast", ["h"], ["y"], to=FLOAT)],
        [
            node("Constant", [], ["w"], value=numpy_helper.from_array(np.array([1], np.float16))),
            node("Cast", ["w"], ["v"], to=FLOAT),
            node("Mul", ["x", "v"], ["y"]),
        ],
    ],
)
def test_float16_in_any_part_of_a_model_is_a_choice_that_is_kept(nodes: list[onnx.NodeProto]) -> None:
    assert is_fp16(make_model(nodes, [row("x")], [row("y")]))


def test_nodes_that_stay_float32_for_their_weights_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fp16_file(write(tmp_path / "net.onnx", 1e6), tmp_path)
    assert "1 nodes stay in FP32" in caplog.text
    assert "Mul node 'y'" in caplog.text


@pytest.mark.parametrize("content", [b"this is text", b"", b"\x08\x08"])
def test_what_is_no_model_is_refused_in_one_sentence(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    with pytest.raises(
        ModelError, match=r"net\.onnx cannot be converted to FP16 .*wanted a complete and valid ONNX"
    ) as told:
        fp16_file(tmp_path / "net.onnx", tmp_path)
    assert "\n" not in str(told.value)


def test_a_model_whose_nodes_are_out_of_order_is_refused(tmp_path: Path) -> None:
    nodes = [node("Neg", ["a"], ["y"]), node("Relu", ["x"], ["a"])]
    graph = helper.make_graph(nodes, "graph", [row("x")], [row("y")])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), tmp_path / "net.onnx")
    with pytest.raises(ModelError, match="topologically sorted"):
        fp16_file(tmp_path / "net.onnx", tmp_path)


def test_a_file_that_could_not_be_put_in_its_place_leaves_nothing_behind(tmp_path: Path) -> None:
    source = write(tmp_path / "net.onnx")
    (tmp_path / "net.fp16.onnx").mkdir()
    made = fp16_file(source, tmp_path / "state")
    made.unlink()
    made.mkdir()
    with pytest.raises(ModelError, match="neither beside it nor to"):
        fp16_file(source, tmp_path / "state")
    assert list(made.parent.iterdir()) == [made]


def test_a_missing_source_is_told(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"net\.onnx cannot be read \(No such file"):
        fp16_file(tmp_path / "net.onnx", tmp_path)


def test_without_the_package_onnx_a_file_made_before_serves_and_else_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = fp16_file(write(tmp_path / "made.onnx"), tmp_path)
    write(tmp_path / "new.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert fp16_file(tmp_path / "made.onnx", tmp_path) == made
    with pytest.raises(ModelError, match=r"package 'onnx' is not installed.*pip install '.\[all\]'"):
        fp16_file(tmp_path / "new.onnx", tmp_path)


YOLOX = {
    "task": "detect",
    "onnx": "yolox_nano.onnx",
    "input": {"color": "bgr", "anchor": "top-left"},
    "output": {"decoder": "yolox", "score_threshold": 0.35},
}


def found(onnx_file: Path, manifest: Manifest, picture: NDArray[np.uint8]) -> Detections:
    """Return what a model finds in a picture, in the order of the scores."""
    engine = OrtEngine(onnx_file, threads=1)
    preprocessor = Preprocessor(engine.inputs[0], manifest.input)
    decoder = Decoder(manifest, (), engine.outputs, preprocessor.input_px, onnx_file.parent)
    with engine.make_context(1) as context:
        geometry = preprocessor.fill(picture, context.inputs[engine.inputs[0].name][0])
        context.infer(1)
        findings = decoder.decode({name: rows[0] for name, rows in context.outputs.items()}, geometry)
    assert isinstance(findings, Detections)
    return findings


def scene() -> NDArray[np.uint8]:
    source = open_source(parse_address("synthetic://conveyor", Path()))
    for _ in range(40):
        source.grab()
    return source.retrieve(None)


def real_model(name: str, folder: Path) -> tuple[Path, Manifest, NDArray[np.uint8], int]:
    """Return a copy of a real model, its manifest, a picture, and how many things are in that."""
    if name == "conveyor":
        source, manifest, picture, count = CONVEYOR / "conveyor.onnx", read_manifest(CONVEYOR), scene(), 9
    else:
        source = real_data("models/yolox_nano.onnx")
        pixels = cv2.imread(str(real_data("dog.jpg")))
        assert pixels is not None
        manifest, picture, count = Manifest.model_validate(YOLOX), np.asarray(pixels, np.uint8), 3
    copy = folder / source.name
    copy.write_bytes(source.read_bytes())
    return copy, manifest, picture, count


@pytest.mark.parametrize("name", ["conveyor", "yolox"])
def test_a_real_model_finds_the_same_in_fp16(name: str, tmp_path: Path) -> None:
    source, manifest, picture, count = real_model(name, tmp_path)
    made = fp16_file(source, tmp_path)
    assert made.stat().st_size < 0.52 * source.stat().st_size
    full, half = found(source, manifest, picture), found(made, manifest, picture)
    assert full.class_ids.tolist() == half.class_ids.tolist()
    assert len(full.class_ids) == count
    np.testing.assert_allclose(half.scores, full.scores, atol=0.005)
    np.testing.assert_allclose(half.boxes, full.boxes, atol=2)  # pixels of the picture


@pytest.mark.parametrize("name", ["conveyor", "yolox"])
def test_a_real_model_is_computed_in_fp16_but_for_its_two_ends(name: str, tmp_path: Path) -> None:
    source, *_ = real_model(name, tmp_path)
    before, after = onnx.load(source), onnx.load(fp16_file(source, tmp_path))
    assert ops(after) - ops(before) == {"Cast": 2}


@pytest.mark.parametrize("name", ["conveyor", "yolox"])
def test_tensorrt_builds_a_real_model_in_fp16(name: str, tmp_path: Path) -> None:
    trt = real_tensorrt()
    source, *_ = real_model(name, tmp_path)
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(bits(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"))
    parser = trt.OnnxParser(network, logger)
    assert parser.parse_from_file(str(fp16_file(source, tmp_path))), logger.pop_errors()
    settings = builder.create_builder_config()
    tensor = network.get_input(0)
    if -1 in tensor.shape:
        profile = builder.create_optimization_profile()
        profile.set_shape(tensor.name, (1, *tensor.shape[1:]), (1, *tensor.shape[1:]), (2, *tensor.shape[1:]))
        assert settings.add_optimization_profile(profile) >= 0
    assert builder.build_serialized_network(network, settings) is not None, logger.pop_errors()
