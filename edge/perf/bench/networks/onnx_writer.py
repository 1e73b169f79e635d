"""ONNX model of a layer graph, with the large weights in a separate file."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge.core.errors import ModelError
from edge.core.installation import install_advice
from edge.perf.bench.networks.layer_graph import LayerGraph, Tensor
from edge.perf.bench.networks.weights import Placed, drawn

if TYPE_CHECKING:
    from onnx import ModelProto, TensorProto, ValueInfoProto

OPSET = 17  # TensorRT 8.5 to 11 parse it, and the INT8 and FP16 variants need no higher one
_IR_VERSION = 8  # the one that matches the opset
_BATCH = "N"


def describe(graph: LayerGraph, name: str, seed: int, places: Sequence[Placed], weights_file: str) -> ModelProto:
    """Build the model for any batch size, with its matrices as references into `weights_file` at `places`.

    Raises ModelError if the package onnx is not installed.
    """
    try:
        from onnx import helper, numpy_helper  # noqa: PLC0415 -- an extra, and slow to import
    except ImportError:
        raise ModelError(
            f"network {name} cannot be written: the Python package 'onnx' is not installed; {install_advice()}"
        ) from None
    nodes = [helper.make_node(node.op, node.inputs, node.outputs, node.name, **node.attributes) for node in graph.nodes]
    constants = [numpy_helper.from_array(value, key) for key, value in graph.constants.items()]
    outside = [_reference(place, weights_file) for place in places]
    far = {place.number for place in places}
    inside = [
        numpy_helper.from_array(drawn(weight, number, seed), weight.name)
        for number, weight in enumerate(graph.weights)
        if number not in far
    ]
    ends = [_value(graph.input), _value(graph.output)]
    whole = helper.make_graph(nodes, name, ends[:1], ends[1:], [*constants, *outside, *inside])
    return helper.make_model(
        whole, producer_name="edge", opset_imports=[helper.make_opsetid("", OPSET)], ir_version=_IR_VERSION
    )


def _reference(place: Placed, weights_file: str) -> TensorProto:
    """Build a tensor whose data is in the weights file."""
    from onnx import StringStringEntryProto, TensorProto  # noqa: PLC0415 -- as above

    location = {"location": weights_file, "offset": place.offset, "length": place.size_bytes}
    return TensorProto(
        name=place.weight.name,
        dims=place.weight.shape,
        data_type=TensorProto.FLOAT,
        data_location=TensorProto.EXTERNAL,
        external_data=[StringStringEntryProto(key=key, value=str(value)) for key, value in location.items()],
    )


def _value(tensor: Tensor) -> ValueInfoProto:
    from onnx import TensorProto, helper  # noqa: PLC0415 -- as above

    shape: tuple[str | int, ...] = (_BATCH, *tensor.shape)
    return helper.make_tensor_value_info(tensor.name, TensorProto.FLOAT, shape)
