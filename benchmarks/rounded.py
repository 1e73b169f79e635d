"""FP16 arithmetic on a CPU: an FP16 file computed in FP32 with each tensor rounded to FP16.

Between operators that exist only in FP32, ONNX Runtime omits the rounding, and thereby any overflow.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper, shape_inference

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)


def rounded(half: Path, path: Path) -> Path:
    """Write the rounded variant of an FP16 file without branches and loops to `path`, and return `path`."""
    model = shape_inference.infer_shapes(onnx.load(half))
    graph = model.graph
    values = [*graph.value_info, *graph.output]
    halves = {value.name for value in values if value.type.tensor_type.elem_type == HALF}
    for tensor in graph.initializer:
        if tensor.data_type == HALF:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), tensor.name))
    nodes = [each for node in graph.node for each in _with_rounding(node, halves)]
    for field in ("node", "value_info"):
        graph.ClearField(field)
    graph.node.extend(nodes)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    return path


def _with_rounding(node: NodeProto, halves: set[str]) -> Iterator[NodeProto]:
    """Yield the node in FP32, and the nodes that round its outputs."""
    outputs = [name for name in node.output if name in halves]
    for place, name in enumerate(node.output):
        if name in halves:
            node.output[place] = f"{name}_exact"
    if node.op_type == "Cast" and outputs:
        next(each for each in node.attribute if each.name == "to").i = FLOAT
    yield node
    for name in outputs:
        yield helper.make_node("Cast", [f"{name}_exact"], [f"{name}_half"], to=HALF)
        yield helper.make_node("Cast", [f"{name}_half"], [name], to=FLOAT)
