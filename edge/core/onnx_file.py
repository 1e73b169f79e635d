"""Facts of an ONNX file, read from its protobuf fields: the package onnx may not be installed where a model runs."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, wraps
from pathlib import Path, PurePosixPath
from typing import TypeVar

from edge.core.errors import ModelError

FactT = TypeVar("FactT")
Field = tuple[int, int | memoryview]  # number; value of a varint, or content of a field with a length

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5  # wire types
_MOST_DEPTH = 32  # of graphs inside nodes

# Numbers of the fields in onnx.proto.
_MODEL = {"ir_version": 1, "producer": 2, "graph": 7, "opset_import": 8, "metadata_props": 14, "functions": 25}
_GRAPH = {"node": 1, "initializer": 5, "input": 11, "output": 12, "sparse_initializer": 15}
_NODE = {"input": 1, "output": 2, "op_type": 4, "attribute": 5, "domain": 7}
# Operators that change the form of values, not the values.
_FORM_OPS = frozenset({"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Cast"})
_FUNCTION = {"name": 1, "node": 7, "domain": 10}
_ATTRIBUTE_GRAPHS, _ATTRIBUTE_TENSORS, _ATTRIBUTE_SPARSE = (6, 11), (5, 10), (22, 23)
_TENSOR_NAME, _TENSOR_EXTERNAL_DATA = 8, 13


class _MalformedError(ValueError):
    """The bytes are no protobuf message."""


@dataclass(frozen=True)
class OnnxValue:
    """An input or output as the file declares it."""

    name: str
    element_type: int  # of onnx.TensorProto.DataType; 0: no tensor
    shape: tuple[int | str, ...] | None  # a name, which may be empty, for an open size; None: rank unknown


def _fact(read: Callable[[OnnxFile], FactT]) -> cached_property[FactT]:
    """Make a property that is read once, and is a ModelError where the file is malformed."""

    @wraps(read)
    def translated(file: OnnxFile) -> FactT:
        try:
            return read(file)
        except _MalformedError:
            raise ModelError(
                f"model {file.path} is no ONNX file; wanted a complete ONNX file: fetch or export it again"
            ) from None

    return cached_property(translated)


class OnnxFile:
    """An ONNX file; each fact is read when it is first used. Raises ModelError where the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @_fact
    def ir_version(self) -> int:
        """The file's IR version; 0 if it has none."""
        return next((int(value) for value in self._top.get(_MODEL["ir_version"], ()) if isinstance(value, int)), 0)

    @_fact
    def producer(self) -> str:
        """The name of the program that wrote the file; "" if unknown."""
        return _text(next(iter(self._top.get(_MODEL["producer"], ())), b""))

    @_fact
    def opsets(self) -> Mapping[str, int]:
        """The version of each operator set by its domain; "" is ONNX's own."""
        found = {}
        for content in self._top.get(_MODEL["opset_import"], ()):
            fields = dict(_fields(content))
            version = fields.get(2, 0)
            found[_text(fields.get(1, b""))] = version if isinstance(version, int) else 0
        return {"" if domain == "ai.onnx" else domain: version for domain, version in found.items()}

    @_fact
    def metadata(self) -> Mapping[str, str]:
        """The file's own metadata: what an exporter says of the model."""
        entries = (dict(_fields(content)) for content in self._top.get(_MODEL["metadata_props"], ()))
        return {_text(entry.get(1, b"")): _text(entry.get(2, b"")) for entry in entries}

    @_fact
    def inputs(self) -> tuple[OnnxValue, ...]:
        """The inputs, without those that the file has values for."""
        valued = {_text(dict(_fields(each)).get(_TENSOR_NAME, b"")) for each in self._of_graph("initializer")}
        return tuple(value for each in self._of_graph("input") if (value := _value(each)).name not in valued)

    @_fact
    def outputs(self) -> tuple[OnnxValue, ...]:
        """The outputs."""
        return tuple(_value(each) for each in self._of_graph("output"))

    @_fact
    def operators(self) -> frozenset[tuple[str, str]]:
        """The domain and name of each operator that a node uses, also inside branches and loops; "" is ONNX's own.

        Operators that the file itself defines are not among them.
        """
        own = {
            (_text(fields.get(_FUNCTION["domain"], b"")), _text(fields.get(_FUNCTION["name"], b"")))
            for fields in (dict(_fields(each)) for each in self._top.get(_MODEL["functions"], ()))
        }
        used = set()
        for node in self._nodes():
            fields = dict(_fields(node))
            domain = _text(fields.get(_NODE["domain"], b""))
            used.add(("" if domain == "ai.onnx" else domain, _text(fields.get(_NODE["op_type"], b""))))
        return frozenset(used - own)

    @_fact
    def external_data(self) -> tuple[str, ...]:
        """The names of the files that hold values of its tensors, relative to its folder, sorted."""
        return tuple(sorted(self._external_bytes))

    @_fact
    def _external_bytes(self) -> Mapping[str, int]:
        """The size that each of these files must have at least."""
        sizes: dict[str, int] = {}
        # Only a file with this word in it can have any: its nodes are not walked in vain.
        if self._data.find(b"location") >= 0:
            for name, end in filter(None, map(_external, self._tensors())):
                sizes[name] = max(end, sizes.get(name, 0))
        return sizes

    def external_paths(self) -> list[Path]:
        """Return the paths of these files; raise ModelError for one that is missing or outside of the file's folder."""
        return [self._checked_external(name) for name in self.external_data]

    def _checked_external(self, name: str) -> Path:
        folder = self.path.parent
        if "\0" in name or PurePosixPath(name).is_absolute() or not _is_inside(folder / name, folder):
            raise ModelError(
                f"model {self.path}: its values are in {name!r}, outside of its folder; wanted a file beside the ONNX "
                "file: export the model again with its data next to it"
            )
        path = folder / name
        if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
            raise ModelError(
                f"model {self.path}: {str(path)!r} does not exist, and it holds values of the model; copy it next to "
                f"{self.path.name}, under this name"
            )
        if (found := path.stat().st_size) < (wanted := self._external_bytes[name]):
            raise ModelError(
                f"model {self.path}: {str(path)!r} has {found} bytes, wanted at least {wanted}: it is cut off, or of "
                "another model; copy it again"
            )
        return path

    @cached_property
    def _data(self) -> mmap.mmap | bytes:
        try:
            with self.path.open("rb") as file:
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if self.path.stat().st_size else b""
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ModelError(f"model {self.path} cannot be read ({reason}); wanted a readable ONNX file") from None

    def last_operator(self, output: str) -> str | None:
        """Return the operator that computes an output, behind those that only change its form; None if unknown."""
        makers = {}
        for node in self._of_graph("node"):
            fields = _grouped(node)
            for name in fields.get(_NODE["output"], ()):
                makers[_text(name)] = fields
        for _ in range(len(makers)):
            maker = makers.get(output)
            if maker is None:
                return None
            operator = _text(next(iter(maker.get(_NODE["op_type"], ())), b""))
            if operator not in _FORM_OPS:
                return operator
            output = _text(next(iter(maker.get(_NODE["input"], ())), b""))
        return None

    @_fact
    def _top(self) -> Mapping[int, list[int | memoryview]]:
        return _grouped(memoryview(self._data))

    @_fact
    def _graph(self) -> Mapping[int, list[int | memoryview]]:
        return _grouped(next(iter(self._top.get(_MODEL["graph"], ())), b""))

    def _of_graph(self, field: str) -> list[int | memoryview]:
        return self._graph.get(_GRAPH[field], [])

    def _nodes(self) -> Iterator[int | memoryview]:
        for node in self._of_graph("node"):
            yield from _with_inner(node, 0)
        for function in self._top.get(_MODEL["functions"], ()):
            for number, node in _fields(function):
                if number == _FUNCTION["node"]:
                    yield from _with_inner(node, 0)

    def _tensors(self) -> Iterator[int | memoryview]:
        """Yield the tensors of the graph, of the graphs in its nodes, and of the nodes' attributes."""
        yield from self._of_graph("initializer")
        yield from _dense(self._of_graph("sparse_initializer"))
        for node in self._nodes():
            for number, attribute in _fields(node):
                if number == _NODE["attribute"]:
                    yield from _attribute_tensors(attribute)


def _is_inside(path: Path, folder: Path) -> bool:
    try:
        return path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # a loop of links
        return False


def _grouped(message: int | memoryview | bytes) -> Mapping[int, list[int | memoryview]]:
    """Return the values of each field of a message by its number."""
    found: dict[int, list[int | memoryview]] = {}
    for number, value in _fields(message):
        found.setdefault(number, []).append(value)
    return found


def _fields(message: int | memoryview | bytes) -> Iterator[Field]:
    """Yield the fields of a message in their order."""
    if isinstance(message, int):
        raise _MalformedError
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _LENGTH:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _MalformedError
        if at + size > end or not number:
            raise _MalformedError
        if wire == _LENGTH:
            yield number, memoryview(message)[at : at + size]
        at += size


def _varint(message: memoryview | bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 64:  # noqa: PLR2004 -- bits of the largest number
        if at >= len(message):
            raise _MalformedError
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 -- the bit of continuation
            return value, at
        shift += 7
    raise _MalformedError


def _text(content: int | memoryview | bytes) -> str:
    return "" if isinstance(content, int) else bytes(content).decode("utf-8", "replace")


def _value(content: int | memoryview) -> OnnxValue:
    fields = dict(_fields(content))
    name = _text(fields.get(1, b""))
    tensor = dict(_fields(fields.get(2, b""))).get(1)
    if tensor is None:
        return OnnxValue(name, 0, None)
    typed = dict(_fields(tensor))
    element_type = typed.get(1, 0)
    shape = None
    if 2 in typed:  # noqa: PLR2004 -- the field `shape`
        shape = tuple(_size(size) for number, size in _fields(typed[2]) if number == 1)
    return OnnxValue(name, element_type if isinstance(element_type, int) else 0, shape)


def _size(content: int | memoryview) -> int | str:
    fields = dict(_fields(content))
    size = fields.get(1, 0)
    return size if isinstance(size, int) and 0 < size < 1 << 63 else _text(fields.get(2, b""))


def _with_inner(node: int | memoryview, depth: int) -> Iterator[int | memoryview]:
    """Yield a node, and the nodes of the graphs inside it."""
    if depth > _MOST_DEPTH:
        raise _MalformedError
    yield node
    for graph in _inner_graphs(node):
        for number, inner in _fields(graph):
            if number == _GRAPH["node"]:
                yield from _with_inner(inner, depth + 1)


def _inner_graphs(node: int | memoryview) -> Iterator[int | memoryview]:
    for number, attribute in _fields(node):
        if number == _NODE["attribute"]:
            yield from (value for field, value in _fields(attribute) if field in _ATTRIBUTE_GRAPHS)


def _attribute_tensors(attribute: int | memoryview) -> Iterator[int | memoryview]:
    for number, value in _fields(attribute):
        if number in _ATTRIBUTE_TENSORS:
            yield value
        elif number in _ATTRIBUTE_SPARSE:
            yield from _dense([value])
        elif number in _ATTRIBUTE_GRAPHS:
            for field, inner in _fields(value):
                if field == _GRAPH["initializer"]:
                    yield inner
                elif field == _GRAPH["sparse_initializer"]:
                    yield from _dense([inner])


def _dense(sparse: list[int | memoryview]) -> Iterator[int | memoryview]:
    """Yield the values and the indices of sparse tensors."""
    for tensor in sparse:
        yield from (value for number, value in _fields(tensor) if number in (1, 2) and not isinstance(value, int))


def _external(tensor: int | memoryview) -> tuple[str, int] | None:
    """Return the name of the file that holds a tensor's values, and where they end in it; None without such a file."""
    entries = {}
    for number, entry in _fields(tensor):
        if number == _TENSOR_EXTERNAL_DATA:
            fields = dict(_fields(entry))
            entries[_text(fields.get(1, b""))] = _text(fields.get(2, b""))
    if "location" not in entries:
        return None
    numbers = (entries.get(key, "") for key in ("offset", "length"))
    return entries["location"], sum(int(number) for number in numbers if number.isascii() and number.isdigit())
