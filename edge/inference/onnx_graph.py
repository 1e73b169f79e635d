"""Traversal of ONNX graphs: nodes, the graphs inside them, tensors."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, ValueInfoProto

NO_TENSOR = -1  # a sequence, an optional, a map


def value_type(value: ValueInfoProto) -> int:
    """Return a value's tensor type; NO_TENSOR for any other kind of value."""
    return value.type.tensor_type.elem_type if value.type.WhichOneof("value") == "tensor_type" else NO_TENSOR


def label(node: NodeProto) -> str:
    """Describe a node in a message: its operator and its name."""
    return f"{node.op_type} node {node.name or node.output[0]!r}"


def node_id(node: NodeProto) -> str:
    """Return the node's name; if it has none, its first output's name, which is unique."""
    return node.name or next((name for name in node.output if name), "")


def has_inner(node: NodeProto) -> bool:
    """Return whether there are graphs inside the node."""
    return next(inner_graphs(node), None) is not None


def inner_graphs(node: NodeProto) -> Iterator[GraphProto]:
    """Yield the graphs inside a node: branches of If, bodies of Loop and Scan."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """Yield a graph and all graphs inside its nodes."""
    yield graph
    for node in graph.node:
        for inner in inner_graphs(node):
            yield from graphs(inner)


def tensor_names(graph: GraphProto) -> Iterator[str]:
    """Yield the names of all tensors of a graph."""
    yield from (value.name for value in [*graph.input, *graph.output, *graph.value_info])
    yield from (tensor.name for tensor in graph.initializer)
    for node in graph.node:
        yield from (*node.input, *node.output)


def drop_unused_weights(graph: GraphProto) -> None:
    """Remove the weights that no node or output uses."""
    walked = list(graphs(graph))
    used = {name for each in walked for node in each.node for name in node.input}
    used |= {value.name for each in walked for value in each.output}
    for each in walked:
        kept = [tensor for tensor in each.initializer if tensor.name in used]
        each.ClearField("initializer")
        each.initializer.extend(kept)
