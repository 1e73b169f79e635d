"""A float32 ONNX model → float16, as far as ONNX's own schemas allow it; inputs and outputs keep their types.

Each node is looked at in order. It computes in float16 where its schema takes that; casts stand only where the two
types meet, one for each tensor. Float32 stay: arithmetic on shapes and positions, which float16 rounds from 2048 on,
nodes with a constant that float16 cannot hold, and nodes that are asked to; with a node, the graphs inside it.
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
_HALF_SCALES_OPSET = 19  # the first in which the scales of these two may be float16
_LEAST_IR_VERSION = 4  # the first in which weights need not be inputs as well

# A long sum loses its last digits; the others name their output's type in ways of their own.
_KEPT_OPS = frozenset({"CumSum", "EyeLike", "RandomNormalLike", "RandomUniformLike", "Bernoulli"})
_KEPT_INPUTS = {("Resize", 1)}  # the region of interest: coordinates
_POSITIONS = frozenset({"Shape", "Size", "NonZero"})  # whatever their input
_FREE_OUTPUTS = frozenset({"Cast", "DequantizeLinear"})  # no input need have their output's type


def is_fp16(model: ModelProto) -> bool:
    """Tell whether float16 is chosen for this model, or for parts of it, already."""
    return any(_holds_half(graph) for graph in graphs(model.graph))


def to_fp16(
    model: ModelProto, keep: Collection[str] = (), blocked: Collection[str] = ()
) -> tuple[ModelProto, list[str]]:
    """Return the model in float16, and the nodes that stay float32 because float16 cannot hold a constant of theirs.

    Float32 stay also the nodes of `keep`, by their names or (without one) that of their first output, and all nodes of
    the operator types `blocked`. Raises ModelError for a name that no node, or no operator, has.
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
    """Return the model without functions of its own: their nodes stand where they are called."""
    return inliner.inline_local_functions(model) if model.functions else model


def _check_choice(model: ModelProto, keep: Collection[str], blocked: Collection[str]) -> None:
    nodes = [node for graph in graphs(model.graph) for node in graph.node]
    strange = sorted(set(keep) - {node_id(node) for node in nodes})
    if strange:
        raise ModelError(f"node {strange[0]!r}, which is to stay FP32, is not in the model; check the ranges again")
    known = {node.op_type for node in nodes} | {schema.name for schema in defs.get_all_schemas()}
    unknown = sorted(set(blocked) - known)
    if unknown:
        raise ModelError(
            f"{unknown[0]!r}, which is to stay FP32, is no operator type of ONNX; wanted names such as 'Softmax': "
            "mend the block list"
        )


class _Converter:
    """Converts one model, the graphs inside its If, Loop and Scan nodes included."""

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
        """Convert a graph inside a node: what goes in and comes out becomes float16, unless all of it is kept."""
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
        kept = self._stays(source, scope)
        for graph in inner_graphs(node):
            self._convert_inner(graph, scope, kept=kept)
        inputs, outputs = self._wanted(source, scope, kept=kept)
        for slot, kind in inputs.items():
            node.input[slot] = self._as(source.input[slot], kind, scope)
        for slot, kind in outputs.items():
            node.output[slot] = self._name(source.output[slot], kind, scope)
        if source.op_type == "Cast" and outputs.get(0) == HALF:
            next(each for each in node.attribute if each.name == "to").i = HALF
        scope.nodes.append(node)
        scope.data |= _data_outputs(source, scope)

    def _stays(self, node: NodeProto, scope: Scope) -> bool:
        """Tell whether a node stays float32, and the graphs inside it with it."""
        asked = node_id(node) in self._keep or node.op_type in self._blocked
        return scope.kept or asked or self._schema(node) is None or not _may_change(node, scope)

    def _wanted(self, node: NodeProto, scope: Scope, *, kept: bool) -> tuple[dict[int, int], dict[int, int]]:
        """Return which type each float input and output of a node is to have, by its place."""
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
        """Return the schema's type variables that become float16 at this node; none: it stays float32."""
        variables = {each for each in taking.values() if not each.startswith("tensor(")}
        if not variables <= _half_types(schema):
            return set()
        # The graphs inside a node are float16 in any case.
        slots = () if has_inner(node) else (slot for slot, variable in taking.items() if variable in variables)
        if not all(scope.fits(node.input[slot]) for slot in slots):
            self.kept.append(label(node))
            return set()
        if node.op_type in _FREE_OUTPUTS or has_inner(node):
            variables |= set(giving.values()) & _half_types(schema)
        return variables

    def _schema(self, node: NodeProto) -> Any:
        """Return what ONNX says of a node's operator; None for one's own."""
        version = self._opsets.get(node.domain)
        if version is None or not defs.has(node.op_type, version, node.domain):
            return None
        return defs.get_schema(node.op_type, version, node.domain)

    def _as(self, name: str, kind: int, scope: Scope) -> str:
        """Return the name of a tensor in this type; make it where it does not exist yet."""
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
            raise ModelError(
                f"weight {name!r} holds a number beyond ±65504, which FP16 cannot hold; use precision fp32"
            )
        made = self._name(name, HALF, owner)
        owner.graph.initializer.append(numpy_helper.from_array(half, made))
        return made

    def _name(self, name: str, kind: int, scope: Scope) -> str:
        """Name a tensor in one of its types; the model's own outputs keep their names as float32."""
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
    """Tell whether a tensor exists already, in whichever type."""
    return any((name, kind) in each.names for each in scope.chain() for kind in _SUFFIX)


def _may_change(node: NodeProto, scope: Scope) -> bool:
    """Tell whether a node computes on what goes through the model, with tensors only."""
    kinds = [scope.type_of(name) for name in [*node.input, *node.output] if name]
    if node.op_type in _KEPT_OPS or NO_TENSOR in kinds:
        return False
    if node.op_type == "Cast" and kinds[0] in _WIDE_INTEGERS:  # its numbers may go beyond float16
        return False
    return node.op_type in _QUANTIZING or has_inner(node) or any(scope.is_data(name) for name in node.input)


def _data_outputs(node: NodeProto, scope: Scope) -> set[str]:
    """Return the outputs that depend on the model's input; positions and sizes are exact, and so do not count."""
    if node.op_type in _POSITIONS or not (has_inner(node) or any(scope.is_data(name) for name in node.input)):
        return set()
    measured = any(scope.is_data(name) and scope.type_of(name) == FLOAT for name in node.input)
    exact = _WIDE_INTEGERS if measured else ()
    return {name for name in node.output if scope.type_of(name) not in exact}


def _check_types(node: NodeProto, scope: Scope) -> None:
    unknown = next((name for name in node.output if name and not scope.types.get(name)), None)
    if unknown is not None:
        raise ModelError(
            f"the type of tensor {unknown!r}, output of {label(node)}, is not known; wanted operators of ONNX's own, "
            "or the tensor's type in the file's value_info: use precision fp32"
        )


def _replace(scope: Scope) -> None:
    """Put the result into the graph; the types of inner tensors follow from its nodes."""
    weights = {tensor.name for tensor in scope.graph.initializer}
    inputs = [value for value in scope.graph.input if value.name not in weights]
    scope.graph.ClearField("value_info")
    scope.graph.ClearField("input")
    scope.graph.input.extend(inputs)
    scope.graph.ClearField("node")
    scope.graph.node.extend(scope.nodes)


def _with_half_scales(model: ModelProto) -> ModelProto:
    """Return a quantised model in an opset whose scales may be float16."""
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
    """Return the type variables of a schema that may stand for float16."""
    constraints = schema.type_constraints
    return {each.type_param_str for each in constraints if "tensor(float16)" in each.allowed_type_strs}


def _variable(parameters: Any, slot: int) -> str:
    """Return the type variable, or the one type, of an input or output; the last one may stand for several."""
    return str(parameters[min(slot, len(parameters) - 1)].type_str)


def _holds_half(graph: GraphProto) -> bool:
    return (
        any(tensor.data_type == HALF for tensor in graph.initializer)
        or any(value_type(value) == HALF for value in [*graph.input, *graph.output, *graph.value_info])
        or any(_names_half(node) for node in graph.node)
    )


def _names_half(node: NodeProto) -> bool:
    """Tell whether a node casts to float16, or is a constant of it."""
    return any(
        (node.op_type == "Cast" and attribute.name == "to" and attribute.i == HALF)
        or (node.op_type == "Constant" and attribute.name == "value" and attribute.t.data_type == HALF)
        for attribute in node.attribute
    )
