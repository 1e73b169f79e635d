"""Conversion of a float32 ONNX model to float16, as far as ONNX's schemas allow; inputs and outputs keep their types.

Each node computes in float16 if its schema allows it. Casts are inserted only where the two types meet, one per tensor.
Float32 stay: arithmetic on shapes and positions, which float16 rounds from 2048 on; nodes with a constant that float16
cannot hold; and nodes kept on request. The graphs inside a node follow it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from onnx import (
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    defs,
    helper,
    inliner,
    numpy_helper,
    shape_inference,
    version_converter,
)

from edge.core.errors import ModelError
from edge.inference.fp16.graph_scope import FLOAT, HALF, Scope
from edge.inference.onnx_graph import (
    NO_TENSOR,
    drop_unused_weights,
    graphs,
    has_inner,
    inner_graphs,
    label,
    node_id,
    tensor_names,
    value_type,
)

_WIDE_INTEGERS = (int(TensorProto.INT32), int(TensorProto.INT64))
_SUFFIX = {FLOAT: "_fp32", HALF: "_fp16"}
_QUANTIZING = frozenset({"QuantizeLinear", "DequantizeLinear"})
_HALF_SCALES_OPSET = 19  # the first that allows their scales in float16
_LEAST_IR_VERSION = 4  # the first in which weights need not be inputs

# CumSum loses precision in long sums; the others name their output's type in an attribute.
_KEPT_OPS = frozenset({"CumSum", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})
_KEPT_INPUTS = {("Resize", 1)}  # the region of interest: coordinates
_POSITIONS = frozenset({"Shape", "Size", "NonZero"})  # whatever their input
_FREE_OUTPUTS = frozenset({"Cast", "DequantizeLinear"})  # no input need have their output's type


def is_fp16(model: ModelProto) -> bool:
    """Return whether the model, or part of it, is already in float16."""
    return any(_holds_half(graph) for graph in graphs(model.graph))


def to_fp16(
    model: ModelProto, keep: Collection[str] = (), blocked: Collection[str] = ()
) -> tuple[ModelProto, list[str]]:
    """Convert a model; return it and the nodes that stay float32 because float16 cannot hold one of their constants.

    The nodes of `keep` (by name, or first output if unnamed) and of the operator types `blocked` stay float32 too.
    Raises ModelError for an unknown node or operator.
    """
    model = with_functions_inlined(model)
    _check_choice(model, keep, blocked)
    model = shape_inference.infer_shapes(_with_half_scales(model))
    converter = _Converter(model, frozenset(keep), frozenset(blocked))
    converter.convert()
    drop_unused_weights(model.graph)
    model.ir_version = max(model.ir_version, _LEAST_IR_VERSION)
    return model, converter.kept


def with_functions_inlined(model: ModelProto) -> ModelProto:
    """Return the model with its local functions inlined."""
    return inliner.inline_local_functions(model) if model.functions else model


def _check_choice(model: ModelProto, keep: Collection[str], blocked: Collection[str]) -> None:
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    missing = sorted(set(keep) - {node_id(node) for node in nodes})
    if missing:
        raise ModelError(f"node {missing[0]!r}, kept in FP32, is not in the model; check the ranges again")
    known = {node.op_type for node in nodes} | {schema.name for schema in defs.get_all_schemas()}
    unknown = sorted(set(blocked) - known)
    if unknown:
        raise ModelError(
            f"{unknown[0]!r}, blocked from FP16, is not an ONNX operator type; wanted names such as 'Softmax': correct "
            "the block list"
        )


class _Converter:
    """Conversion of one model, including the graphs inside its If, Loop and Scan nodes."""

    def __init__(self, model: ModelProto, keep: frozenset[str], blocked: frozenset[str]) -> None:
        self._graph = model.graph
        self._keep = keep
        self._blocked = blocked
        self._opsets = {each.domain: each.version for each in model.opset_import}
        self._taken = {name for graph in graphs(model.graph) for name in tensor_names(graph)}
        self._outputs = {value.name for value in model.graph.output}
        self.kept: list[str] = []

    def convert(self) -> None:
        scope = Scope(self._graph, None)
        self._convert_nodes(scope)
        for value in self._graph.output:
            if scope.type_of(value.name) == FLOAT:
                self._as(value.name, FLOAT, scope)
        _replace(scope)

    def _convert_inner(self, graph: GraphProto, outer: Scope, *, kept: bool) -> None:
        """Convert a graph inside a node; its inputs and outputs become float16 too, unless it is kept."""
        scope = Scope(graph, outer, kept=kept)
        kind = FLOAT if kept else HALF
        for value in graph.input:
            if value_type(value) == FLOAT and not kept:
                value.type.tensor_type.elem_type = HALF
                del scope.names[value.name, FLOAT]
                scope.names[value.name, HALF] = value.name
        self._convert_nodes(scope)
        for value in graph.output:
            if value_type(value) == FLOAT:
                value.type.tensor_type.elem_type = kind
                value.name = self._as(value.name, kind, scope)
        _replace(scope)

    def _convert_nodes(self, scope: Scope) -> None:
        for node in scope.graph.node:
            if not scope.adopt_constant(node):
                self._convert_node(node, scope)

    def _convert_node(self, source: NodeProto, scope: Scope) -> None:
        _check_types(source, scope)
        node = NodeProto()
        node.CopyFrom(source)
        kept = self._is_kept(source, scope)
        for graph in inner_graphs(node):
            self._convert_inner(graph, scope, kept=kept)
        inputs, outputs = self._slot_types(source, scope, kept=kept)
        for slot, kind in inputs.items():
            node.input[slot] = self._as(source.input[slot], kind, scope)
        for slot, kind in outputs.items():
            node.output[slot] = self._name(source.output[slot], kind, scope)
        if source.op_type == "Cast" and outputs.get(0) == HALF:
            next(each for each in node.attribute if each.name == "to").i = HALF
        scope.nodes.append(node)
        scope.data |= _data_outputs(source, scope)

    def _is_kept(self, node: NodeProto, scope: Scope) -> bool:
        """Return whether a node, with the graphs inside it, stays float32."""
        requested = node_id(node) in self._keep or node.op_type in self._blocked
        return scope.kept or requested or self._schema(node) is None or not _may_change(node, scope)

    def _slot_types(self, node: NodeProto, scope: Scope, *, kept: bool) -> tuple[dict[int, int], dict[int, int]]:
        """Return the type for each float input and output of a node, by slot."""
        inputs = [slot for slot, name in enumerate(node.input) if scope.type_of(name) == FLOAT]
        outputs = [slot for slot, name in enumerate(node.output) if scope.type_of(name) == FLOAT]
        if kept:
            return dict.fromkeys(inputs, FLOAT), dict.fromkeys(outputs, FLOAT)
        schema = self._schema(node)
        taking = {slot: _variable(schema.inputs, slot) for slot in inputs if (node.op_type, slot) not in _KEPT_INPUTS}
        giving = {slot: _variable(schema.outputs, slot) for slot in outputs}
        half = self._half_variables(node, schema, taking, giving, scope)
        return (
            {slot: HALF if taking.get(slot) in half else FLOAT for slot in inputs},
            {slot: HALF if giving[slot] in half else FLOAT for slot in outputs},
        )

    def _half_variables(
        self, node: NodeProto, schema: Any, taking: dict[int, str], giving: dict[int, str], scope: Scope
    ) -> set[str]:
        """Return the schema's type variables that become float16 at this node; none if it stays float32."""
        variables = {each for each in taking.values() if not each.startswith("tensor(")}
        if not variables <= _half_types(schema):
            return set()
        # The graphs inside a node become float16 in any case.
        slots = () if has_inner(node) else (slot for slot, variable in taking.items() if variable in variables)
        if not all(scope.fits(node.input[slot]) for slot in slots):
            self.kept.append(label(node))
            return set()
        if node.op_type in _FREE_OUTPUTS or has_inner(node):
            variables |= set(giving.values()) & _half_types(schema)
        return variables

    def _schema(self, node: NodeProto) -> Any:
        """Return the ONNX schema of a node's operator; None for a custom operator."""
        version = self._opsets.get(node.domain)
        if version is None or not defs.has(node.op_type, version, node.domain):
            return None
        return defs.get_schema(node.op_type, version, node.domain)

    def _as(self, name: str, kind: int, scope: Scope) -> str:
        """Return the name of a tensor in this type; insert a cast or a converted weight if needed."""
        known = next((each.names[name, kind] for each in scope.chain() if (name, kind) in each.names), None)
        if known is not None:
            return known
        owner = scope.owner(name)
        if owner is not None and name in owner.weights:
            return self._add_half_weight(name, owner)
        exists = self._as(name, HALF if kind == FLOAT else FLOAT, scope)
        made = self._name(name, kind, scope)
        scope.nodes.append(helper.make_node("Cast", [exists], [made], name=f"{made}_cast", to=kind))
        return made

    def _add_half_weight(self, name: str, owner: Scope) -> str:
        half = owner.half(name)
        if half is None:
            raise ModelError(f"weight {name!r} has a value beyond ±65504, which FP16 cannot hold; use precision fp32")
        made = self._name(name, HALF, owner)
        owner.graph.initializer.append(numpy_helper.from_array(half, made))
        return made

    def _name(self, name: str, kind: int, scope: Scope) -> str:
        """Name a tensor in one of its types; the model's outputs keep their names as float32."""
        outermost = scope.outer is None
        keeps = (kind == FLOAT) if name in self._outputs and outermost else not _exists(name, scope)
        made = name if keeps else self._free(name + _SUFFIX[kind])
        scope.names[name, kind] = made
        return made

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _exists(name: str, scope: Scope) -> bool:
    """Return whether a tensor exists already, in either type."""
    return any((name, kind) in each.names for each in scope.chain() for kind in _SUFFIX)


def _may_change(node: NodeProto, scope: Scope) -> bool:
    """Return whether a node computes on data of the model's input, and on tensors only."""
    kinds = [scope.type_of(name) for name in [*node.input, *node.output] if name]
    if node.op_type in _KEPT_OPS or NO_TENSOR in kinds:
        return False
    if node.op_type == "Cast" and kinds[0] in _WIDE_INTEGERS:  # its values may exceed float16
        return False
    return node.op_type in _QUANTIZING or has_inner(node) or any(scope.is_data(name) for name in node.input)


def _data_outputs(node: NodeProto, scope: Scope) -> set[str]:
    """Return the outputs that depend on the model's input; positions and sizes, which must be exact, do not count."""
    if node.op_type in _POSITIONS or not (has_inner(node) or any(scope.is_data(name) for name in node.input)):
        return set()
    measured = any(scope.is_data(name) and scope.type_of(name) == FLOAT for name in node.input)
    exact = _WIDE_INTEGERS if measured else ()
    return {name for name in node.output if scope.type_of(name) not in exact}


def _check_types(node: NodeProto, scope: Scope) -> None:
    unknown = next((name for name in node.output if name and not scope.types.get(name)), None)
    if unknown is not None:
        raise ModelError(
            f"the type of tensor {unknown!r}, output of {label(node)}, is not known; wanted standard ONNX "
            "operators, or the tensor's type in the file's value_info: use precision fp32"
        )


def _replace(scope: Scope) -> None:
    """Write the result into the graph; the types of inner tensors follow from its nodes."""
    weights = {tensor.name for tensor in scope.graph.initializer}
    inputs = [value for value in scope.graph.input if value.name not in weights]
    scope.graph.ClearField("value_info")
    scope.graph.ClearField("input")
    scope.graph.input.extend(inputs)
    scope.graph.ClearField("node")
    scope.graph.node.extend(scope.nodes)


def _with_half_scales(model: ModelProto) -> ModelProto:
    """Return a quantized model in an opset that allows float16 scales."""
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    version = next((each.version for each in model.opset_import if each.domain == ""), 0)
    if version >= _HALF_SCALES_OPSET or not any(node.op_type in _QUANTIZING and not node.domain for node in nodes):
        return model
    used = {node.domain for node in nodes}
    imports = [each for each in model.opset_import if each.domain in used]
    model.ClearField("opset_import")
    model.opset_import.extend(imports)
    return version_converter.convert_version(model, _HALF_SCALES_OPSET)


def _half_types(schema: Any) -> set[str]:
    """Return the type variables of a schema that allow float16."""
    constraints = schema.type_constraints
    return {each.type_param_str for each in constraints if "tensor(float16)" in each.allowed_type_strs}


def _variable(parameters: Any, slot: int) -> str:
    """Return the type variable, or the fixed type, of an input or output; the last parameter may be variadic."""
    return str(parameters[min(slot, len(parameters) - 1)].type_str)


def _holds_half(graph: GraphProto) -> bool:
    return (
        any(tensor.data_type == HALF for tensor in graph.initializer)
        or any(value_type(value) == HALF for value in [*graph.input, *graph.output, *graph.value_info])
        or any(_names_half(node) for node in graph.node)
    )


def _names_half(node: NodeProto) -> bool:
    """Return whether a node casts to float16, or is a float16 constant."""
    return any(
        (node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF)
        or (node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type == HALF)
        for attribute in node.attribute
    )
