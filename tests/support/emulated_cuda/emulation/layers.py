"""What becomes of a model's nodes in an engine, and the inspector that tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from emulation.bound import Bound
from emulation.enums import LayerInformationFormat
from emulation.network import TYPES, Model, Node
from emulation.plan import Plan

_FUSED_INTO_CONVOLUTION = {"Relu", "Sigmoid", "Tanh", "BatchNormalization", "LeakyRelu"}
_TYPES = {
    "Conv": "CaskConvolution",
    "ConvTranspose": "CaskDeconvolutionV2",
    "Gemm": "CaskGemmMatrixMultiply",
    "MatMul": "CaskGemmMatrixMultiply",
    "MaxPool": "CaskPooling",
    "AveragePool": "CaskPooling",
    "GlobalAveragePool": "CaskPooling",
    "Softmax": "CaskSoftMaxV2",
    "Cast": "Reformat",
    "Constant": "Constant",
}
_WORDS = {name: word for name, _, word in TYPES.values()}


@dataclass(frozen=True)
class Fused:
    """A layer of the engine, made of one node or two."""

    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        if self.nodes[0].op == "Cast":
            return f"Reformatting CopyNode for Input Tensor 0 to {self.nodes[0].name}"
        return " + ".join(node.name for node in self.nodes)

    @property
    def kind(self) -> str:
        return _TYPES.get(self.nodes[0].op, "PointWiseV2")


def fuse(model: Model) -> list[Fused]:
    """Join a convolution with the activation that alone reads it; constants are no layers."""
    readers: dict[str, list[Node]] = {}
    for node in model.nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    outputs = {each.name for each in model.outputs}
    taken: set[int] = set()
    fused = []
    for node in model.nodes:
        if node.index in taken or node.op == "Constant":
            continue
        after = readers.get(node.outputs[0], [])
        joins = node.op in ("Conv", "Gemm") and len(after) == 1 and node.outputs[0] not in outputs
        if joins and after[0].op in _FUSED_INTO_CONVOLUTION:
            taken.add(after[0].index)
            fused.append(Fused((node, after[0])))
        else:
            fused.append(Fused((node,)))
    return fused


class EngineInspector(Bound):
    """Tells an engine's layers, in the form of TensorRT 10.3."""

    execution_context: Any = None
    error_recorder: Any = None

    def __init__(self) -> None:
        raise TypeError("tensorrt.EngineInspector: No constructor defined!")

    @classmethod
    def _make(cls, fused: list[Fused], model: Model, plan: Plan) -> EngineInspector:
        inspector: EngineInspector = object.__new__(cls)
        inspector._fused, inspector._model, inspector._plan = fused, model, plan
        return inspector

    _fused: list[Fused]
    _model: Model
    _plan: Plan

    def get_layer_information(self, layer_index: int, format: Any) -> str:  # noqa: A002 -- TensorRT's name
        layer = self._layer(self._fused[layer_index])
        if format == LayerInformationFormat.JSON:
            return json.dumps(layer)
        return layer if isinstance(layer, str) else f"Name: {layer['Name']}, LayerType: {layer['LayerType']}"

    def get_engine_information(self, format: Any) -> str:  # noqa: A002 -- TensorRT's name
        if format == LayerInformationFormat.JSON:
            layers = [self._layer(each) for each in self._fused]
            names = [each.name for each in [*self._model.inputs, *self._model.outputs]]
            return json.dumps({"Layers": layers, "Bindings": names} if self._plan.verbosity != "NONE" else {})
        lines = [self.get_layer_information(index, format) for index in range(len(self._fused))]
        return "Layers:\n" + "\n".join(lines)

    def _layer(self, fused: Fused) -> Any:
        if self._plan.verbosity != "DETAILED":
            return fused.name
        first, last = fused.nodes[0], fused.nodes[-1]
        on_dla = first.name in self._plan.dla_layers
        return {
            "Name": fused.name,
            "LayerType": "DLA" if on_dla else fused.kind,
            "Inputs": [self._tensor(name) for name in first.inputs if name in self._model.tensors],
            "Outputs": [self._tensor(name) for name in last.outputs],
            "TacticName": f"emulated_{first.op.lower()}",
            "StreamId": 0,
            "Metadata": "\x1e".join(f"[ONNX Layer: {node.name}]" for node in fused.nodes),
        }

    def _tensor(self, name: str) -> dict[str, Any]:
        tensor = self._model.tensors.get(name)
        return {
            "Name": name,
            "Location": "Device",
            "Dimensions": list(tensor.shape) if tensor else [],
            "Format/Datatype": f"Row major linear {_WORDS[tensor.dtype] if tensor else 'FP32'}",
        }
