"""Conversion state of one graph of a model: its tensors, their types and their names in each type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

from edge.inference.onnx_graph import value_type

FLOAT, HALF = int(TensorProto.FLOAT), int(TensorProto.FLOAT16)
_SMALLEST = np.finfo(np.float16).smallest_subnormal


class Scope:
    """A graph being converted to float16; its tensors go by their names in the source."""

    def __init__(self, graph: GraphProto, outer: Scope | None, *, kept: bool = False) -> None:
        self.graph = graph
        self.outer = outer
        self.kept = kept  # the whole graph stays float32
        self.weights = {tensor.name: tensor for tensor in graph.initializer if tensor.data_type == FLOAT}
        self.types = {value.name: value_type(value) for value in [*graph.value_info, *graph.output, *graph.input]}
        self.types |= {tensor.name: tensor.data_type for tensor in graph.initializer}
        # Tensors that depend on the model's input.
        self.data = {value.name for value in graph.input} - {tensor.name for tensor in graph.initializer}
        # (name in the source, type) → name of the tensor in this type.
        known = [*self.data, *self.weights]
        self.names: dict[tuple[str, int], str] = {
            (name, self.types[name]): name for name in known if self.types[name] == FLOAT
        }
        self.nodes: list[NodeProto] = []  # of the result
        self._halves: dict[str, NDArray[np.float16] | None] = {}

    def chain(self) -> Iterator[Scope]:
        """Yield this graph and the graphs that contain it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.outer

    def owner(self, name: str) -> Scope | None:
        """Return the innermost graph that defines a tensor."""
        return next((scope for scope in self.chain() if name in scope.types), None)

    def type_of(self, name: str) -> int | None:
        """Return a tensor's type in the source; None if it is not known."""
        owner = self.owner(name)
        return owner.types[name] if owner else None

    def is_data(self, name: str) -> bool:
        """Return whether a tensor depends on the model's input."""
        owner = self.owner(name)
        return owner is not None and name in owner.data

    def fits(self, name: str) -> bool:
        """Return whether float16 can hold a tensor, as far as its values are known."""
        owner = self.owner(name)
        return owner is None or name not in owner.weights or owner.half(name) is not None

    def half(self, name: str) -> NDArray[np.float16] | None:
        """Return a weight in float16; None if a value exceeds its range."""
        if name not in self._halves:
            self._halves[name] = half_of(numpy_helper.to_array(self.weights[name]))
        return self._halves[name]

    def adopt_constant(self, node: NodeProto) -> bool:
        """Turn a float32 Constant node into a weight of the graph; return False for any other node."""
        if node.op_type != "Constant" or node.domain or self.types.get(node.output[0]) != FLOAT:
            return False
        value = helper.get_attribute_value(node.attribute[0])
        if node.attribute[0].name == "sparse_value" or any(node.output[0] == each.name for each in self.graph.output):
            return False
        if not isinstance(value, TensorProto):  # value_float, value_floats
            value = numpy_helper.from_array(np.asarray(value, np.float32))
        weight = self.graph.initializer.add()
        weight.CopyFrom(value)
        weight.name = node.output[0]
        self.weights[weight.name] = weight
        self.names[weight.name, FLOAT] = weight.name
        return True


def half_of(values: NDArray[Any]) -> NDArray[np.float16] | None:
    """Return the values in float16; None if a finite one overflows. Nonzero values never become 0."""
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    if np.any(np.isinf(half) & np.isfinite(values)):
        return None
    # A small value that prevents a division by zero must not vanish.
    lost = (half == 0) & (values != 0)
    return np.where(lost, np.copysign(_SMALLEST, half), half) if lost.any() else half
