"""An FP32 ONNX model → the same with explicit Q/DQ nodes, by ONNX Runtime's quantizer, with ranges of our own.

Two placements come of one calibration. `tensorrt`: symmetric int8, biases and outputs of layers left as they are, so
that TensorRT fuses Conv → activation → Q. `cpu`: what ONNX Runtime runs as integer kernels, outputs quantized too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    checker,
    helper,
    inliner,
    load,
    numpy_helper,
    shape_inference,
    version_converter,
)

from edge.backends.calibrate import Range
from edge.backends.onnx_graph import drop_unused_weights, has_inner, label, value_type
from edge.errors import ModelError

Placement = Literal["tensorrt", "cpu"]
Shifts = Mapping[str, NDArray[np.float32]]  # layer → what is added to its bias

ORIGIN_KEY = "edge.int8_of"  # in the file's metadata: what it was made from
OPSET = 17  # the least: below 13 there are no scales for each channel
_LEAST_IR_VERSION = 8
_QUANTIZING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MAX_TOLD = 300  # characters of a reason that a library gave
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
_WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1}
# Beside layers, what ONNX Runtime runs on integers faster than on floats.
_CPU_OPS = ("Add", "Concat", "MaxPool", "Resize")
# Where a tensor is quantized for a layer, these take it so as well: TensorRT fuses the sum with the layer before it.
_TAKE_QUANTIZED = ("Add",)


@dataclass(frozen=True)
class Layer:
    """A node with weights, which may be quantized."""

    name: str
    op: str
    input: str
    output: str
    counted: str  # the tensor for each of whose numbers there are so many …
    products: int  # … multiplications


def prepare(onnx: Path) -> ModelProto:
    """Load a model and bring it into the form that is quantized: opset 17 or later, batch normalisation folded.

    Raises ModelError in one sentence where that is not possible.
    """
    try:
        model = load(onnx)
        checker.check_model(model)
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise _cannot(
            onnx, f"it cannot be read ({_one_line(error)}); wanted a complete ONNX file: export it again"
        ) from None
    _check(onnx, model)
    try:
        return _named(_folded(_raised(model)))
    except Exception as error:  # noqa: BLE001 -- likewise, and ONNX Runtime's
        raise _cannot(onnx, f"{_one_line(error)}; wanted a model that ONNX Runtime runs in opset {OPSET}") from None


def _check(onnx: Path, model: ModelProto) -> None:
    nodes = list(model.graph.node)
    if found := next(
        (node for node in nodes if node.op_type.removeprefix("QLinear") != node.op_type or node.op_type in _QUANTIZING),
        None,
    ):
        raise _cannot(onnx, f"it is quantized already (by {label(found)}); wanted the FP32 model that it was made from")
    if found := next((node for node in nodes if has_inner(node)), None):
        raise _cannot(
            onnx, f"{label(found)} holds graphs of its own (control flow); wanted one graph: export it without branches"
        )
    own = {function.name for function in model.functions}
    if found := next((node for node in nodes if node.domain not in ("", "ai.onnx") and node.op_type not in own), None):
        raise _cannot(
            onnx,
            f"{label(found)} is of the domain {found.domain!r}; wanted operators of ONNX's own: export the model without it",
        )
    if found := next((tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT16), None):
        raise _cannot(onnx, f"its weight {found.name!r} is FP16; wanted the FP32 model: export it so")


def _cannot(onnx: Path, reason: str) -> ModelError:
    return ModelError(f"model {onnx} cannot be quantized: {reason}")


def _raised(model: ModelProto) -> ModelProto:
    """Return the model in an opset that has scales for each channel."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    _drop_unused_domains(model)
    if next(each.version for each in model.opset_import) < OPSET:
        model = version_converter.convert_version(model, OPSET)
    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    inputs = list(_real_inputs(model).values())
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    return model


def _real_inputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Return the inputs that are no weights, as older files list those too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def _folded(model: ModelProto) -> ModelProto:
    """Return the model with what is constant computed, and batch normalisation in the weights before it."""
    import onnxruntime  # noqa: PLC0415 -- slow to import

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = load(path)
    _drop_unused_domains(folded)
    return folded


def _drop_unused_domains(model: ModelProto) -> None:
    used = {
        node.domain.replace("ai.onnx", "") if node.domain == "ai.onnx" else node.domain for node in model.graph.node
    }
    imports = [each for each in model.opset_import if each.domain.replace("ai.onnx", "") in used or not each.domain]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)


def _named(model: ModelProto) -> ModelProto:
    """Return the model with a name for each node, and the types of all tensors."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_{node.output[0]}"
        taken.add(node.name)
    return shape_inference.infer_shapes(model)


def layers_of(model: ModelProto) -> list[Layer]:
    """Return the layers that can be quantized: those whose weights are constant, in the order of the graph."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [
        _layer(node, weights[node.input[1]])
        for node in model.graph.node
        if node.op_type in _LAYERS and not node.domain and _has_channels(node, weights)
    ]


def _has_channels(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Tell whether only the weights are constant, with one scale for each channel of the output."""
    if node.input[1] not in weights or node.input[0] in weights:
        return False
    if node.op_type == "MatMul":
        return len(weights[node.input[1]].dims) == 2  # noqa: PLR2004 -- a matrix
    return node.op_type != "ConvTranspose" or _integer(node, "group", 1) == 1


def _layer(node: NodeProto, weight: TensorProto) -> Layer:
    transposed = node.op_type == "ConvTranspose"
    axis = 1 - _integer(node, "transB", 0) if node.op_type == "Gemm" else int(node.op_type == "MatMul")
    return Layer(
        name=node.name,
        op=node.op_type,
        input=node.input[0],
        output=node.output[0],
        counted=node.input[0] if transposed else node.output[0],
        products=int(np.prod(weight.dims)) // weight.dims[axis],
    )


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((each.i for each in node.attribute if each.name == name), default)


def activations(model: ModelProto) -> list[str]:
    """Return the tensors that a placement may quantize."""
    names = {name for layer in layers_of(model) for name in (layer.input, layer.output)}
    for node in model.graph.node:
        if node.op_type in _CPU_OPS:
            names |= {*node.input, *node.output}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    return sorted(names & {value.name for value in values if value_type(value) == TensorProto.FLOAT})


def place(
    model: ModelProto,
    layers: Collection[str],
    ranges: Mapping[str, Range],
    shifts: Shifts,
    placement: Placement,
) -> ModelProto:
    """Return a prepared model with these layers quantized; `ranges` are those of all activations."""
    quantized = ModelProto()
    quantized.CopyFrom(model)
    if not layers:
        return quantized
    _shift_biases(quantized, {name: shift for name, shift in shifts.items() if name in layers})
    others = _between(quantized, layers, ranges) if placement == "cpu" else set()
    quantizer = _quantizer(quantized, {*layers, *others}, ranges, placement)
    quantizer.quantize_model()
    quantizer.model.topological_sort()
    result: ModelProto = quantizer.model.model
    if placement == "tensorrt":
        _give_floats(result.graph, layers)
    _drop_unused_domains(result)
    return result


def checked(model: ModelProto, origin: str) -> bytes:
    """Return the file of a quantized model; `origin` tells what it was made from."""
    model.metadata_props.add(key=ORIGIN_KEY, value=origin)
    checker.check_model(model, full_check=True)
    data: bytes = model.SerializeToString()
    return data


def naive(onnx: Path, inputs: Iterable[NDArray[Any]]) -> bytes:
    """Return what `quantize_static` of ONNX Runtime makes of the file with its defaults, to compare with."""
    from onnxruntime.quantization import quantize_static  # noqa: PLC0415 -- slow to import

    name = next(iter(_real_inputs(load(onnx, load_external_data=False))))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "naive.onnx"
        quantize_static(onnx, path, _Reader(name, inputs))
        return path.read_bytes()


class _Reader:
    """Calibration inputs, as ONNX Runtime's quantizer asks for them."""

    def __init__(self, name: str, inputs: Iterable[NDArray[Any]]) -> None:
        self._name = name
        self._inputs = iter(inputs)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        rows = next(self._inputs, None)
        return None if rows is None else {self._name: rows}


def library() -> str:
    """Return which version of the quantizer is at work."""
    import onnxruntime  # noqa: PLC0415 -- slow to import

    return f"onnxruntime {onnxruntime.__version__}"


def _shift_biases(model: ModelProto, shifts: Shifts) -> None:
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.name in shifts:
            shifted = numpy_helper.to_array(weights[node.input[2]]) + shifts[node.name]
            node.input[2] = f"{node.name}_shifted_bias"  # of its own: a bias may serve several layers
            model.graph.initializer.append(numpy_helper.from_array(shifted, node.input[2]))
    drop_unused_weights(model.graph)


def _between(model: ModelProto, layers: Collection[str], ranges: Mapping[str, Range]) -> set[str]:
    """Return the nodes, all of whose results go to quantized ones, that ONNX Runtime can run on integers too."""
    found: set[str] = set()
    readers = _readers(model.graph)
    for node in reversed(model.graph.node):
        inputs = node.input[:1] if node.op_type == "Resize" else node.input
        if node.op_type in _CPU_OPS and all(name in ranges for name in (*inputs, node.output[0])):
            read_by = readers.get(node.output[0], set())
            if read_by and read_by <= {*layers, *found}:
                found.add(node.name)
    return found


def _readers(graph: GraphProto) -> dict[str, set[str]]:
    """Return the names of the nodes that read each tensor; what is an output of the model is read by a nameless one."""
    readers: dict[str, set[str]] = {value.name: {""} for value in graph.output}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, set()).add(node.name)
    return readers


def _quantizer(model: ModelProto, nodes: Collection[str], ranges: Mapping[str, Range], placement: Placement) -> Any:
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


def _give_floats(graph: GraphProto, layers: Collection[str]) -> None:
    """Let nodes that are not quantized read a tensor as it was before it was quantized for others."""
    makers = {name: node for node in graph.node for name in node.output}
    for node in graph.node:
        if node.name in layers or node.op_type in (*_QUANTIZING, *_TAKE_QUANTIZED):
            continue
        for slot, name in enumerate(node.input):
            dequantize = makers.get(name)
            quantize = makers.get(dequantize.input[0]) if dequantize and dequantize.op_type in _QUANTIZING else None
            if quantize is not None:
                node.input[slot] = quantize.input[0]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:_MAX_TOLD]
