"""Preparation of an FP32 ONNX model for quantization, and its quantizable layers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from onnx import (
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    checker,
    inliner,
    load,
    shape_inference,
    version_converter,
)

from edge.core.errors import ModelError, error_text
from edge.inference.onnx_graph import has_inner, label, value_type

OPSET = 17  # at least; below 13 there are no scales per channel
# Beside layers, the operators that ONNX Runtime runs faster on integers than on floats.
INTEGER_OPS = ("Add", "Concat", "MaxPool", "Resize")
QUANTIZING = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_LEAST_IR_VERSION = 8
_DOMAINS = ("", "ai.onnx")
_LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class QuantizableLayer:
    """A node with weights that can be quantized."""

    name: str
    op: str
    input: str
    weight: str
    bias: str | None
    output: str
    counted: str  # the tensor by whose size the multiplications are counted
    products: int  # multiplications for each of its values


def prepare(onnx: Path) -> ModelProto:
    """Load a model and prepare it for quantization: opset 17 or later, batch normalisation folded.

    Raises ModelError if that is not possible.
    """
    try:
        model = load(onnx)
        checker.check_model(model)
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise _cannot(
            onnx, f"it cannot be read ({error_text(error)}); wanted a complete ONNX file: export it again"
        ) from None
    _check(onnx, model)
    try:
        return _named(_folded(_raised(model)))
    except Exception as error:  # noqa: BLE001 -- likewise, and ONNX Runtime's
        raise _cannot(onnx, f"{error_text(error)}; wanted a model that ONNX Runtime runs in opset {OPSET}") from None


def _check(onnx: Path, model: ModelProto) -> None:
    for node in model.graph.node:
        if node.op_type in QUANTIZING or node.op_type.startswith("QLinear"):
            raise _cannot(onnx, f"{label(node)} is already quantized; wanted the original FP32 model")
        if has_inner(node):
            wanted = "wanted a graph without branches and loops: export it that way"
            raise _cannot(onnx, f"{label(node)} contains subgraphs (control flow); {wanted}")
    own = {function.name for function in model.functions}
    for node in model.graph.node:
        if node.domain not in _DOMAINS and node.op_type not in own:
            wanted = "wanted standard ONNX operators, which TensorRT supports: export it that way"
            raise _cannot(onnx, f"{label(node)} belongs to the domain {node.domain!r}; {wanted}")
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            raise _cannot(onnx, f"weight {tensor.name!r} is FP16; wanted the original FP32 model")


def _cannot(onnx: Path, reason: str) -> ModelError:
    return ModelError(f"model {onnx} cannot be quantized: {reason}")


def _raised(model: ModelProto) -> ModelProto:
    """Return the model in an opset that has scales per channel."""
    if model.functions:
        model = inliner.inline_local_functions(model)
    drop_unused_domains(model)
    if next(each.version for each in model.opset_import if each.domain in _DOMAINS) < OPSET:
        model = version_converter.convert_version(model, OPSET)
    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    inputs = list(real_inputs(model).values())
    model.graph.ClearField("input")
    model.graph.input.extend(inputs)
    return model


def real_inputs(model: ModelProto) -> dict[str, ValueInfoProto]:
    """Return the inputs without the weights, which older files list too."""
    weights = {tensor.name for tensor in model.graph.initializer}
    return {value.name: value for value in model.graph.input if value.name not in weights}


def _folded(model: ModelProto) -> ModelProto:
    """Return the model with constants folded, and batch normalisation folded into the weights before it."""
    import onnxruntime  # noqa: PLC0415 -- slow to import

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        folded = load(path)
    drop_unused_domains(folded)
    return folded


def drop_unused_domains(model: ModelProto) -> None:
    """Remove the operator sets that no node uses: the version converter rejects them."""
    used = {node.domain for node in model.graph.node} | {""}
    imports = [each for each in model.opset_import if each.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)


def _named(model: ModelProto) -> ModelProto:
    """Return the model with a unique name for each node, and the types of all tensors."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}_{node.output[0]}"
        taken.add(node.name)
    return shape_inference.infer_shapes(model)


def layers_of(model: ModelProto) -> list[QuantizableLayer]:
    """Return the quantizable layers, which have constant weights, in the order of the graph."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    return [
        _layer(node, weights[node.input[1]])
        for node in model.graph.node
        if node.op_type in _LAYERS and not node.domain and _has_channels(node, weights)
    ]


def _has_channels(node: NodeProto, weights: Mapping[str, TensorProto]) -> bool:
    """Return whether only the weights are constant, with one scale per channel of the output."""
    if node.input[1] not in weights or node.input[0] in weights:
        return False
    if node.op_type == "MatMul":
        return len(weights[node.input[1]].dims) == 2  # noqa: PLR2004 -- a matrix
    return node.op_type != "ConvTranspose" or _integer(node, "group", 1) == 1


def _layer(node: NodeProto, weight: TensorProto) -> QuantizableLayer:
    transposed = node.op_type == "ConvTranspose"
    axis = 1 - _integer(node, "transB", 0) if node.op_type == "Gemm" else int(node.op_type == "MatMul")
    return QuantizableLayer(
        name=node.name,
        op=node.op_type,
        input=node.input[0],
        weight=node.input[1],
        bias=next(iter(node.input[2:]), None),
        output=node.output[0],
        counted=node.input[0] if transposed else node.output[0],
        products=int(np.prod(weight.dims)) // weight.dims[axis],
    )


def _integer(node: NodeProto, name: str, default: int) -> int:
    return next((each.i for each in node.attribute if each.name == name), default)


def activations(model: ModelProto) -> list[str]:
    """Return the tensors that a placement may quantize."""
    names = {name for layer in layers_of(model) for name in (layer.input, layer.output)}
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    floats = {value.name for value in values if value_type(value) == TensorProto.FLOAT}
    between = [node for node in model.graph.node if node.op_type in INTEGER_OPS]
    return sorted(names | (floats & {name for node in between for name in (*node.input, *node.output)}))
