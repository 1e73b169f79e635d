"""Small real ONNX models whose outputs are known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT
Shape = list[int | str]


def save(folder: Path, nodes: list[Any], inputs: dict[str, Shape], outputs: dict[str, tuple[Any, Shape]]) -> Path:
    """Write a model of these nodes; its inputs are float32."""
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, dtype, shape) for name, (dtype, shape) in outputs.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, folder / "small.onnx")
    return folder / "small.onnx"


def identity(folder: Path, batch: int | str = "N") -> Path:
    shape: Shape = [batch, 3, 2, 2]
    return save(folder, [helper.make_node("Identity", ["x"], ["y"])], {"x": shape}, {"y": (FLOAT, shape)})


def nonzero(folder: Path, shape: Shape) -> Path:
    """Write a model whose output has as many columns as the input has numbers other than 0."""
    outputs: dict[str, tuple[Any, Shape]] = {"places": (TensorProto.INT64, [len(shape), "found"])}
    return save(folder, [helper.make_node("NonZero", ["x"], ["places"])], {"x": shape}, outputs)


def rows_found(folder: Path) -> Path:
    """Write a model whose output has as many rows as the input has numbers other than 0."""
    nodes = [
        helper.make_node("NonZero", ["x"], ["places"]),
        helper.make_node("Transpose", ["places"], ["rows"], perm=[1, 0]),
    ]
    return save(folder, nodes, {"x": ["N", 4]}, {"rows": (TensorProto.INT64, ["found", 2])})


def reshaping(folder: Path) -> Path:
    """Write a model that loads and then fails on every batch but one of 2."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[2, 6]),
        helper.make_node("Reshape", ["x"], ["y"]),
    ]
    nodes[1].input.append("shape")
    return save(folder, nodes, {"x": ["N", 6]}, {"y": (FLOAT, ["N", 6])})


def numbers(shape: tuple[int, ...], seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).random(shape, np.float32)
