"""Insertion of explicit Q/DQ nodes into an FP32 ONNX model, by ONNX Runtime's quantizer with ranges of our own.

One calibration serves two placements. `tensorrt`: symmetric int8, with biases and outputs of layers left in FP32, so
that TensorRT fuses Conv → activation → Q. `cpu`: as ONNX Runtime runs integer kernels, with outputs quantized too.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, ModelProto, checker, load, numpy_helper

from edge.inference.backends.input_tensors import Feed
from edge.inference.onnx_graph import drop_unused_weights
from edge.precision.activation_ranges import Range
from edge.precision.quantizable_graph import INTEGER_OPS, QUANTIZING, drop_unused_domains
from edge.precision.weight_rounding import IntegerWeights

Placement = Literal["tensorrt", "cpu"]

ORIGIN_KEY = "edge.int8_of"  # in the file's metadata: the hash of its source
_TOOLS_KEY = "onnx.infer"  # internal metadata of ONNX Runtime's tools
_WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1}  # of the output's channels
# These also read a tensor that is quantized for a layer: TensorRT fuses the sum with the layer before it.
_TAKE_QUANTIZED = ("Add",)


def insert_qdq(
    model: ModelProto,
    layers: Collection[str],
    ranges: Mapping[str, Range],
    rounded: Mapping[str, IntegerWeights],
    placement: Placement,
) -> ModelProto:
    """Return a prepared model with some layers quantized, given the ranges of all activations.

    `rounded` has the weights of those layers that are not simply rounded to the nearest level.
    """
    quantized = ModelProto()
    quantized.CopyFrom(model)
    if not layers:
        return quantized
    scales = _set_weights(quantized, {name: each for name, each in rounded.items() if name in layers})
    others = _between(quantized, layers, ranges) if placement == "cpu" else set()
    with _unlogged():
        quantizer = _quantizer(quantized, {*layers, *others}, ranges, scales, placement)
        quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    if placement == "tensorrt":
        _bypass_quantization(result.graph, layers)
    drop_unused_domains(result)
    return result


def serialize(model: ModelProto, origin: str) -> bytes:
    """Check a quantized model and return the content of its file; `origin` is the hash of its source."""
    kept = [each for each in model.metadata_props if each.key != _TOOLS_KEY]
    model.ClearField("metadata_props")
    model.metadata_props.extend(kept)
    model.metadata_props.add(key=ORIGIN_KEY, value=origin)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def naive_quantization(onnx: Path, inputs: Iterable[Feed]) -> bytes:
    """Return the model as quantized by ONNX Runtime's `quantize_static` with its defaults, for comparison."""
    from onnxruntime.quantization import quantize_static  # noqa: PLC0415 -- slow to import

    model = load(onnx)  # given a path, it would write a file beside it
    with tempfile.TemporaryDirectory() as folder, _unlogged():
        path = Path(folder) / "naive.onnx"
        quantize_static(model, path, _Reader(inputs))
        return path.read_bytes()


@contextmanager
def _unlogged() -> Iterator[None]:
    """Suppress the advice of ONNX Runtime's tools, which goes to the root logger."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


class _Reader:
    """Calibration inputs in the interface of ONNX Runtime's quantizer."""

    def __init__(self, inputs: Iterable[Feed]) -> None:
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        feed = next(self._inputs, None)
        return None if feed is None else dict(feed)


def library() -> str:
    """Return the name and version of the quantizer."""
    import onnxruntime  # noqa: PLC0415 -- slow to import

    return f"onnxruntime {onnxruntime.__version__}"


def _set_weights(model: ModelProto, rounded: Mapping[str, IntegerWeights]) -> dict[str, Any]:
    """Set the layers' rounded weights; return their scales in the quantizer's format."""
    scales: dict[str, Any] = {}
    zero = np.array(0, np.int8)
    for node in model.graph.node:
        if node.name in rounded:
            found = rounded[node.name]
            names = [f"{node.name}_rounded_weight", f"{node.name}_rounded_bias"]  # a weight may serve several layers
            del node.input[1:]
            node.input.extend(names)
            values = (found.weights, found.bias)
            model.graph.initializer.extend(map(numpy_helper.from_array, values, names))
            channels = [{"scale": scale, "zero_point": zero} for scale in found.scales]
            scales[names[0]] = [{"axis": 0} | channels[0], *channels[1:]]
    drop_unused_weights(model.graph)
    return scales


def _between(model: ModelProto, layers: Collection[str], ranges: Mapping[str, Range]) -> set[str]:
    """Return the nodes that ONNX Runtime can run on integers and whose outputs only feed quantized nodes."""
    found: set[str] = set()
    readers = _readers(model.graph)
    for node in reversed(model.graph.node):
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        if node.op_type in INTEGER_OPS and all(name in ranges for name in (*inputs, node.output[0])):
            read_by = readers.get(node.output[0], set())
            if read_by and read_by <= {*layers, *found}:
                found.add(node.name)
    return found


def _readers(graph: GraphProto) -> dict[str, set[str]]:
    """Return the names of the nodes that read each tensor; an output of the model also has a nameless reader."""
    readers: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    return readers


def _quantizer(
    model: ModelProto,
    nodes: Collection[str],
    ranges: Mapping[str, Range],
    scales: dict[str, Any],
    placement: Placement,
) -> Any:
    from onnxruntime.quantization import CalibrationMethod, QuantType  # noqa: PLC0415 -- slow to import
    from onnxruntime.quantization.calibrate import TensorsData  # noqa: PLC0415
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer  # noqa: PLC0415

    ops = sorted({node.op_type for node in model.graph.node if node.name in nodes})
    limits = {name: (np.float32(each.low), np.float32(each.high)) for name, each in ranges.items()}
    for_tensorrt = placement == "tensorrt"
    options = {
        "ActivationSymmetric": for_tensorrt,
        "WeightSymmetric": True,
        "QuantizeBias": not for_tensorrt,
        "OpTypesToExcludeOutputQuantization": ops if for_tensorrt else [],
        "QDQOpTypePerChannelSupportToAxis": _WEIGHT_AXIS,
        "QDQDisableWeightAdjustForInt32Bias": True,
        "TensorQuantOverrides": scales,
    }
    return QDQQuantizer(
        model,
        per_channel=True,
        reduce_range=False,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if for_tensorrt else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=sorted(nodes),
        nodes_to_exclude=[],
        op_types_to_quantize=ops,
        extra_options=options,
    )


def _bypass_quantization(graph: GraphProto, layers: Collection[str]) -> None:
    """Let nodes that are not quantized read the FP32 tensor instead of the one quantized for others."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in layers or node.op_type in (*QUANTIZING, *_TAKE_QUANTIZED):
            continue
        for slot, name in enumerate(node.input):
            dequantize = makers.get(name)
            quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type in QUANTIZING else None
            if quantize is not None:
                node.input[slot] = quantize.input[0]
