"""An ONNX model as TensorRT sees it: tensors, layers, and the shapes that come out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

# By the numbers of onnx.TensorProto.DataType: TensorRT's name, NumPy's type, and the inspector's word.
TYPES: dict[int, tuple[str, type[np.generic], str]] = {
    1: ("FLOAT", np.float32, "FP32"),
    10: ("HALF", np.float16, "FP16"),
    3: ("INT8", np.int8, "INT8"),
    2: ("UINT8", np.uint8, "UINT8"),
    6: ("INT32", np.int32, "INT32"),
    7: ("INT64", np.int64, "INT64"),
    9: ("BOOL", np.bool_, "BOOL"),
}
NUMPY = {name: np.dtype(dtype) for name, dtype, _ in TYPES.values()}
UNSUPPORTED = "UNSUPPORTED"
Shapes = Mapping[str, tuple[int, ...]]

_LAYER_TYPES = {
    "Conv": "CONVOLUTION",
    "ConvTranspose": "DECONVOLUTION",
    "Relu": "ACTIVATION",
    "Sigmoid": "ACTIVATION",
    "Tanh": "ACTIVATION",
    "MaxPool": "POOLING",
    "AveragePool": "POOLING",
    "GlobalAveragePool": "REDUCE",
    "Add": "ELEMENTWISE",
    "Sub": "ELEMENTWISE",
    "Mul": "ELEMENTWISE",
    "Div": "ELEMENTWISE",
    "Concat": "CONCATENATION",
    "Cast": "CAST",
    "Gemm": "MATRIX_MULTIPLY",
    "MatMul": "MATRIX_MULTIPLY",
    "Constant": "CONSTANT",
    "Softmax": "SOFTMAX",
    "Slice": "SLICE",
    "Resize": "RESIZE",
    "QuantizeLinear": "QUANTIZE",
    "DequantizeLinear": "DEQUANTIZE",
    "NonZero": "NON_ZERO",
    "Gather": "GATHER",
    "TopK": "TOPK",
    "Identity": "IDENTITY",
}


@dataclass(frozen=True)
class Tensor:
    name: str
    dtype: str  # TensorRT's name
    shape: tuple[int, ...]  # -1: open
    open_names: tuple[str, ...]  # what ONNX calls the open sizes; "" for fixed ones


@dataclass(frozen=True)
class Node:
    index: int
    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def layer_type(self) -> str:
        return _LAYER_TYPES.get(self.op, "SHUFFLE")


class Model:
    """A parsed model."""

    def __init__(self, content: bytes) -> None:
        import onnx  # noqa: PLC0415 -- heavy

        self._onnx = onnx
        self.proto = onnx.load_from_string(content)
        self._read()

    @classmethod
    def from_file(cls, path: str) -> Model:
        """Read a model with the weights that lie beside it."""
        import onnx  # noqa: PLC0415 -- heavy

        return cls(onnx.load(path).SerializeToString())

    def _read(self) -> None:
        graph = self.proto.graph
        weights = {each.name for each in graph.initializer}
        self.inputs = [_tensor(each) for each in graph.input if each.name not in weights]
        self.outputs = [_tensor(each) for each in graph.output]
        self.nodes = [
            Node(index, n.name or f"node_of_{n.output[0]}", n.op_type, n.domain, tuple(n.input), tuple(n.output))
            for index, n in enumerate(graph.node)
        ]

    @property
    def content(self) -> bytes:
        content: bytes = self.proto.SerializeToString()
        return content

    def fix_shape(self, name: str, shape: Sequence[int]) -> None:
        """Give an input another shape."""
        for value in self.proto.graph.input:
            if value.name == name:
                for axis, size in zip(value.type.tensor_type.shape.dim, shape, strict=True):
                    axis.ClearField("value")
                    if size >= 0:
                        axis.dim_value = size
        self.__dict__.pop("tensors", None)
        self._read()

    def untakable(self) -> list[Tensor]:
        """Return inputs and outputs of types that the library does not know."""
        return [each for each in [*self.inputs, *self.outputs] if each.dtype == UNSUPPORTED]

    def unknown_nodes(self, unsupported: Sequence[str]) -> list[Node]:
        """Return the nodes that the parser has no importer for."""
        return [
            node
            for node in self.nodes
            if node.op in unsupported or node.domain not in ("", "ai.onnx") or not self._onnx.defs.has(node.op)
        ]

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """All tensors that shape inference knows."""
        inferred = self._onnx.shape_inference.infer_shapes(self.proto).graph
        values = [*inferred.input, *inferred.value_info, *inferred.output]
        return {each.name: _tensor(each) for each in values if each.type.tensor_type.elem_type in TYPES}


def _tensor(value: Any) -> Tensor:
    kind = value.type.tensor_type
    sizes = [(d.dim_value if d.HasField("dim_value") else -1, d.dim_param) for d in kind.shape.dim]
    dtype = TYPES[kind.elem_type][0] if kind.elem_type in TYPES else UNSUPPORTED
    shape = tuple(size if size > 0 else -1 for size, _ in sizes)
    names = tuple("" if size > 0 else name or f"?{place}" for place, (size, name) in enumerate(sizes))
    return Tensor(value.name, dtype, shape, names)


class Computation:
    """The model in ONNX Runtime."""

    def __init__(self, content: bytes) -> None:
        import onnxruntime  # noqa: PLC0415 -- heavy

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        self.input_types = {each.name: _of_runtime(each.type) for each in self._session.get_inputs()}
        self.output_names = [each.name for each in self._session.get_outputs()]
        self._shapes: dict[tuple[tuple[str, tuple[int, ...]], ...], Shapes] = {}

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        return dict(zip(self.output_names, self._session.run(None, dict(inputs)), strict=True))

    def output_shapes(self, inputs: Shapes) -> Shapes:
        """Return the outputs' shapes for these of the inputs, tried with zeros."""
        key = tuple(sorted(inputs.items()))
        if key not in self._shapes:
            self._shapes[key] = self.tried_shapes(inputs, np.zeros)
        return self._shapes[key]

    def tried_shapes(self, inputs: Shapes, fill: Any) -> Shapes:
        arrays = {name: fill(shape).astype(self.input_types[name]) for name, shape in inputs.items()}
        return {name: array.shape for name, array in self.run(arrays).items()}


def _of_runtime(text: str) -> np.dtype[Any]:
    names = {"float": "float32", "float16": "float16", "bool": "bool"}
    word = text.removeprefix("tensor(").removesuffix(")")
    return np.dtype(names.get(word, word))


def decided_by_data(model: Model, computation: Computation, shapes: Shapes) -> dict[str, list[int]]:
    """Return the axes of outputs whose sizes depend on the inputs' content."""
    foreseen = {name for tensor in model.inputs for name in tensor.open_names}
    doubtful = [each for each in model.outputs if not {name for name in each.open_names if name} <= foreseen]
    if not doubtful:
        return {}
    fills = (np.zeros, np.ones, np.random.default_rng(0).random)
    tries = [computation.tried_shapes(shapes, fill) for fill in fills]
    found = {}
    for each in doubtful:
        sizes_by_axis = zip(*(shapes_of[each.name] for shapes_of in tries), strict=True)
        if axes := [axis for axis, sizes in enumerate(sizes_by_axis) if len(set(sizes)) > 1]:
            found[each.name] = axes
    return found
