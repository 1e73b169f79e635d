"""An ONNX model of one node."""

from __future__ import annotations

from typing import Any

from onnx import TensorProto, helper

FLOAT = TensorProto.FLOAT


def model(op: str = "Relu", shape: tuple[int | str, ...] = ("N", 4), **keys: Any) -> bytes:
    """Return an ONNX file of one node, from x to y."""
    dtype = keys.pop("dtype", FLOAT)
    out = keys.pop("out", shape)
    node = helper.make_node(op, ["x"], ["y"], name="only", **keys)
    x = helper.make_tensor_value_info("x", dtype, shape)
    y = helper.make_tensor_value_info("y", keys.pop("out_dtype", TensorProto.INT64 if op == "NonZero" else dtype), out)
    graph = helper.make_graph([node], "small", [x], [y])
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content
