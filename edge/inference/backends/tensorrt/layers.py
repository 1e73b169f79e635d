"""Layers of a model before and after TensorRT's fusion, read from the answers of every supported version."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from edge.core.errors import EngineError, ModelError
from edge.core.installation import install_advice
from edge.inference.backends.tensorrt.library import bits, make_logger

# Parts of type names, ordered so that none is found inside an earlier type's name.
_PRECISIONS = {
    "BF16": ("BF16", "BFLOAT16"),
    "FP8": ("FP8",),
    "FP4": ("FP4",),
    "UINT8": ("UINT8",),
    "INT8": ("INT8",),
    "INT4": ("INT4",),
    "FP16": ("FP16", "FLOAT16", "HALF"),
    "INT64": ("INT64",),
    "INT32": ("INT32",),
    "FP32": ("FP32", "FLOAT"),
    "BOOL": ("BOOL",),
}
# Origins of a fused layer; the text between them differs between versions.
_ORIGIN = re.compile(r"\[ONNX Layer: (.*?)\](?=[^\]]?\[ONNX Layer: |[^\w\]]*$)", re.DOTALL)
# The type is the last word of "Row major linear FP32".
_TYPE_IN_FORMAT = re.compile(r"^(?:(?P<format>.*)\s)?(?P<dtype>\S+)$", re.DOTALL)
_REFORMAT = "Reformat"


@dataclass(frozen=True)
class LayerTensor:
    """Input or output of a layer."""

    name: str
    shape: tuple[int, ...] | None  # -1: known only at run time
    precision: str | None  # FP32, FP16, INT8, …
    format: str | None  # memory layout, in TensorRT's words


@dataclass(frozen=True)
class EngineLayer:
    """A layer of a parsed network or of a plan; None: not reported."""

    name: str
    kind: str | None = None
    precision: str | None = None  # of its first output
    tactic: str | None = None  # the chosen kernel
    origins: tuple[str, ...] = ()  # names of the ONNX nodes that were fused into it
    is_reformat: bool = False  # converts a tensor's format, computes nothing
    inputs: tuple[LayerTensor, ...] = ()
    outputs: tuple[LayerTensor, ...] = ()


@dataclass(frozen=True)
class LayerCounts:
    """Numbers of layers by kind and precision."""

    layers: int
    reformats: int
    origins: int | None  # ONNX nodes that the layers were made from; None: not reported
    by_precision: Mapping[str, int]
    by_kind: Mapping[str, int]


@dataclass(frozen=True)
class IoTensor:
    """Input or output of a model or plan."""

    name: str
    mode: str  # input or output
    shape: tuple[int | None, ...]  # None: any, or known only at run time
    dtype: str  # FP32, FP16, INT8, …


@dataclass(frozen=True)
class Inspection:
    """Facts of a loaded plan."""

    layers_json: str | None  # the engine inspector's answer
    tensors: tuple[IoTensor, ...]
    device_memory_bytes: int  # scratch memory of one execution context, without the weights
    layer_times_ms: Mapping[str, float] | None  # by layer name


@dataclass(frozen=True)
class OnnxFacts:
    """Facts of an ONNX file."""

    nodes: Mapping[str, int]  # by operator, without constants
    tensors: tuple[IoTensor, ...]


def precision_of(dtype: str) -> str | None:
    """Return our name of a type that TensorRT or ONNX calls `dtype`; None if it is unknown."""
    upper = dtype.upper()
    return next((name for name, parts in _PRECISIONS.items() if any(part in upper for part in parts)), None)


def read_layers(answer: str) -> tuple[EngineLayer, ...]:
    """Parse the engine inspector's JSON; raise EngineError if no known version writes it so.

    A plan built without detailed profiling has names only. TensorRT 10 gives type and format of a tensor in one entry,
    TensorRT 11 in two.
    """
    try:
        found = json.loads(answer)
    except (ValueError, RecursionError) as error:  # ValueError: also a number of thousands of digits
        raise EngineError(
            f"the engine inspector's answer is not JSON ({error}); wanted an object with Layers"
        ) from None
    entries = found.get("Layers") if isinstance(found, dict) else None
    if not isinstance(entries, list):
        raise EngineError(
            "the engine inspector's answer has no list 'Layers'; please report it with your version of TensorRT"
        )
    return tuple(_read_layer(entry) for entry in entries)


def _read_layer(entry: Any) -> EngineLayer:
    if isinstance(entry, str):
        return EngineLayer(entry, is_reformat=_is_reformat(entry, None))
    if not isinstance(entry, dict) or _text(entry, "Name") is None:
        raise EngineError(
            f"the engine inspector's answer has a layer of an unknown form ({entry!r:.80}); wanted a name, or an "
            "object with Name: please report it with your version of TensorRT"
        )
    name, kind = entry["Name"], _text(entry, "LayerType")
    outputs = _read_tensors(entry.get("Outputs"))
    return EngineLayer(
        name,
        kind,
        precision=outputs[0].precision if outputs else None,
        tactic=_text(entry, "TacticName"),
        origins=_read_origins(_text(entry, "Metadata") or ""),
        is_reformat=_is_reformat(name, kind),
        inputs=_read_tensors(entry.get("Inputs")),
        outputs=outputs,
    )


def _read_tensors(entries: Any) -> tuple[LayerTensor, ...]:
    if not isinstance(entries, list):
        return ()
    return tuple(_read_tensor(entry) for entry in entries if isinstance(entry, dict))


def _read_tensor(entry: Mapping[str, Any]) -> LayerTensor:
    dtype, layout = _text(entry, "Datatype") or _text(entry, "DataType"), _text(entry, "Format")
    together = _TYPE_IN_FORMAT.match(_text(entry, "Format/Datatype") or "")
    if dtype is None and together:
        dtype, layout = together["dtype"], together["format"]
    return LayerTensor(
        _text(entry, "Name") or "", _sizes(entry.get("Dimensions")), precision_of(dtype) if dtype else None, layout
    )


def _sizes(found: Any) -> tuple[int, ...] | None:
    return tuple(found) if isinstance(found, list) and all(type(size) is int for size in found) else None


def _read_origins(metadata: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_ORIGIN.findall(metadata)))


def _is_reformat(name: str, kind: str | None) -> bool:
    return kind == _REFORMAT or (kind is None and name.startswith("Reformatting CopyNode"))


def _text(entry: Mapping[str, Any], key: str) -> str | None:
    value = entry.get(key)
    return value if isinstance(value, str) and value else None


def count(layers: Sequence[EngineLayer]) -> LayerCounts:
    """Count layers; reformats are counted separately from computing layers."""
    computing = [each for each in layers if not each.is_reformat]
    origins = {origin for each in layers for origin in each.origins}
    return LayerCounts(
        layers=len(computing),
        reformats=len(layers) - len(computing),
        origins=len(origins) if origins else None,
        by_precision=_tally(each.precision for each in computing),
        by_kind=_tally(each.kind for each in computing),
    )


def _tally(values: Iterable[str | None]) -> dict[str, int]:
    """Count the values that are not None, most frequent first."""
    return dict(Counter(value for value in values if value is not None).most_common())


def with_times(layers: Sequence[EngineLayer], times_ms: Mapping[str, float]) -> list[tuple[EngineLayer, float | None]]:
    """Return each layer with its time; a time of an unknown layer gets a layer of that name."""
    unmatched = dict(times_ms)
    timed = [(each, unmatched.pop(each.name, None)) for each in layers]
    return timed + [
        (EngineLayer(name, is_reformat=_is_reformat(name, None)), time_ms) for name, time_ms in unmatched.items()
    ]


def make_layer_times(trt: Any) -> Any:
    """Make a profiler for one execution context, which it must outlive."""
    return _layer_times_class(trt)()


@lru_cache(maxsize=4)
def _layer_times_class(trt: Any) -> Any:
    """Define the profiler's class, whose base exists only once the library is loaded."""

    class LayerTimes(trt.IProfiler):  # type: ignore[misc]  # the base is Any
        """Collects the time of each layer in each run."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self._runs_ms: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self._runs_ms.setdefault(layer_name, []).append(ms)

        def median_ms(self) -> dict[str, float]:
            """Return the median of each layer over the runs."""
            return {name: median(runs_ms) for name, runs_ms in self._runs_ms.items()}

    return LayerTimes


def parse_network(trt: Any, onnx: Path) -> tuple[EngineLayer, ...]:
    """Return the layers of a model as TensorRT parses it, before fusion; raise EngineError if it cannot."""
    logger = make_logger(trt)
    try:
        builder = trt.Builder(logger)
    except (TypeError, RuntimeError):  # how the bindings report that the library returned none
        raise EngineError(
            f"TensorRT {trt.__version__} cannot read models here ({logger.pop_errors()}); wanted an NVIDIA driver"
        ) from None
    network = builder.create_network(bits(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(onnx)):
        reason = _refusal(parser.get_error(0)) if parser.num_errors else logger.pop_errors()
        raise EngineError(
            f"TensorRT {trt.__version__} does not support model {onnx.name} ({reason}); another engine may: set "
            "backend to onnxruntime"
        )
    return network_layers(network)


def _refusal(parser_error: Any) -> str:
    reason = " ".join(parser_error.desc().split())
    return f"node {parser_error.node_name()!r}, operator {parser_error.node_operator()}: {reason}"


def network_layers(network: Any) -> tuple[EngineLayer, ...]:
    """Return the layers of a parsed network."""
    return tuple(_network_layer(network.get_layer(index)) for index in range(network.num_layers))


def _network_layer(layer: Any) -> EngineLayer:
    outputs = _network_tensors(layer.get_output(index) for index in range(layer.num_outputs))
    return EngineLayer(
        layer.name,
        layer.type.name,
        precision=outputs[0].precision if outputs else None,
        origins=_read_origins(getattr(layer, "metadata", "")),
        inputs=_network_tensors(layer.get_input(index) for index in range(layer.num_inputs)),
        outputs=outputs,
    )


def _network_tensors(tensors: Iterable[Any]) -> tuple[LayerTensor, ...]:
    return tuple(
        LayerTensor(tensor.name, _network_shape(tensor), precision_of(tensor.dtype.name), None)
        for tensor in tensors
        if tensor is not None  # an optional input that is omitted
    )


def _network_shape(tensor: Any) -> tuple[int, ...] | None:
    try:
        return tuple(tensor.shape)
    except ValueError:  # how the bindings report an unknown number of axes
        return None


def onnx_facts(onnx: Path) -> OnnxFacts:
    """Count the nodes of an ONNX file; raise ModelError if it cannot be read, or the package onnx is missing."""
    try:
        from onnx import TensorProto, load  # noqa: PLC0415 -- an extra, and slow to import

        from edge.inference.onnx_graph import graphs, value_type  # noqa: PLC0415 -- imports onnx
    except ImportError:
        raise ModelError(f"the Python package onnx is not installed; {install_advice()}") from None
    try:
        graph = load(onnx, load_external_data=False).graph
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise ModelError(f"model {onnx} cannot be read ({error}); wanted a complete ONNX file") from None
    weights = {each.name for each in graph.initializer}
    values = [("input", each) for each in graph.input if each.name not in weights]
    values += [("output", each) for each in graph.output]
    names = dict(zip(TensorProto.DataType.values(), TensorProto.DataType.keys(), strict=True))
    return OnnxFacts(
        _tally(node.op_type for each in graphs(graph) for node in each.node if node.op_type != "Constant"),
        tuple(
            IoTensor(each.name, mode, _onnx_shape(each), precision_of(names.get(value_type(each), "")) or "?")
            for mode, each in values
        ),
    )


def _onnx_shape(value: Any) -> tuple[int | None, ...]:
    axes = value.type.tensor_type.shape.dim
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in axes)
