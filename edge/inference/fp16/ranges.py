"""Value ranges of a model's tensors on real inputs, and the nodes that exceed FP16."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper, load, shape_inference

from edge.core.errors import ModelError, error_text
from edge.inference.backends.input_tensors import Feed
from edge.inference.backends.ort import import_onnxruntime
from edge.inference.fp16.cast import with_functions_inlined
from edge.inference.fp16.convert import RangeCheck
from edge.inference.fp16.graph_scope import FLOAT
from edge.inference.onnx_graph import has_inner, node_id, value_type

FP16_MAX = 65504.0
# Unseen frames exceeded eight calibration frames by up to 2.2 times (YOLOX-Nano; conveyor detector: 1.5), and partial
# sums may exceed their result.
MARGIN = 4.0
# Tensor data inspected in one run; each run has its own session, and only one is open at a time.
_CHUNK_BYTES = 1 << 28
_UNKNOWN_BYTES = 1 << 22  # assumed for a tensor whose size is known only at run time
_BLOCK_BYTES = 1 << 26  # of inputs held while each chunk runs on them
_BLOCK_INPUTS = 64
_LOG_FATAL = 4


@dataclass(frozen=True)
class Ranges:
    """Ranges found on a set of inputs."""

    largest: Mapping[str, float]  # absolute value of each float tensor; infinite if a value is not finite
    data_sha256: str  # of the inputs


def check_ranges(onnx: Path, inputs: Iterable[Feed]) -> RangeCheck:
    """Run the FP32 model on inputs; return the nodes that must stay in FP32, for `fp16_file`.

    Raises ModelError if the model cannot be run, or there are no inputs.
    """
    try:
        model = load(onnx)
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise ModelError(f"model {onnx} cannot be read ({error_text(error)}); wanted a complete ONNX file") from None
    try:
        model = with_functions_inlined(model)
        ranges = measure_ranges(model, inputs)
    except ModelError as error:
        raise ModelError(f"the ranges of model {onnx} cannot be checked: {error}") from None
    return RangeCheck(tuple(beyond_fp16(model, ranges)), ranges.data_sha256)


def measure_ranges(model: ModelProto, inputs: Iterable[Feed]) -> Ranges:
    """Run the model on each input and measure every float tensor outside branches and loops.

    Inputs are streamed: memory does not grow with their number.
    """
    remaining = iter(inputs)
    first = next(remaining, None)
    if first is None:
        raise ModelError("there are no calibration inputs; wanted at least one frame")
    chunks = _chunks(model, first)
    digest = hashlib.sha256()
    largest: dict[str, float] = {}
    for block in _blocks(chain([first], remaining)):
        for feed in block:
            _hash(feed, digest)
            _widen(largest, {name: array for name, array in feed.items() if array.dtype == np.float32})
        for names in chunks:
            session = _open_session(model, names)
            for feed in block:
                _widen(largest, dict(zip(names, _run(session, names, feed), strict=True)))
    return Ranges(largest, digest.hexdigest())


def beyond_fp16(model: ModelProto, ranges: Ranges) -> list[str]:
    """Return the nodes that read or write a tensor beyond the safe range of FP16, and those with inner graphs."""
    limit = FP16_MAX / MARGIN
    beyond = {name for name, largest in ranges.largest.items() if largest > limit}
    return sorted(
        node_id(node)
        for node in model.graph.node
        if has_inner(node) or beyond.intersection([*node.input, *node.output])
    )


def _chunks(model: ModelProto, first: Feed) -> list[list[str]]:
    """Divide the float tensors into runs that fit in the memory for one."""
    chunks: list[list[str]] = []
    free_bytes = 0
    for name, size_bytes in _float_tensors(model, first).items():
        if not chunks or size_bytes > free_bytes:
            chunks.append([])
            free_bytes = _CHUNK_BYTES
        chunks[-1].append(name)
        free_bytes -= size_bytes
    return chunks


def _float_tensors(model: ModelProto, first: Feed) -> dict[str, int]:
    """Return the float tensors that nodes compute, with their sizes in bytes on this input."""
    sized = ModelProto()
    sized.CopyFrom(model)
    for value in sized.graph.input:
        if value.name in first:
            value.CopyFrom(helper.make_tensor_value_info(value.name, value_type(value), first[value.name].shape))
    try:
        graph = shape_inference.infer_shapes(sized, data_prop=True).graph
    except Exception as error:  # noqa: BLE001 -- the exceptions of onnx and protobuf have no common type
        raise ModelError(
            f"its tensors' types cannot be inferred ({error_text(error)}); wanted a complete ONNX file of at most 2 GB"
        ) from None
    values = {value.name: value for value in [*graph.value_info, *graph.output] if value_type(value) == FLOAT}
    # Constants are known exactly, and the conversion checks them itself.
    computed = (name for node in model.graph.node if node.op_type != "Constant" for name in node.output)
    return {name: _size_bytes(values[name].type.tensor_type) for name in computed if name in values}


def _size_bytes(kind: Any) -> int:
    sizes = [size.dim_value for size in kind.shape.dim]
    known = kind.HasField("shape") and all(sizes)
    return 4 * math.prod(sizes) if known else _UNKNOWN_BYTES


def _blocks(inputs: Iterator[Feed]) -> Iterator[Sequence[Feed]]:
    """Yield a few inputs at a time."""
    for first in inputs:
        size_bytes = max(1, sum(array.nbytes for array in first.values()))
        others = min(_BLOCK_INPUTS, _BLOCK_BYTES // size_bytes) - 1
        # Copies: the caller may reuse one buffer for all inputs.
        yield [_copy(feed) for feed in chain([first], islice(inputs, max(0, others)))]


def _copy(feed: Feed) -> Feed:
    return {name: array.copy() for name, array in feed.items()}


def _hash(feed: Feed, digest: Any) -> None:
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(array))


def _widen(largest: dict[str, float], arrays: Mapping[str, NDArray[Any]]) -> None:
    for name, array in arrays.items():
        if array.size:
            reached = max(abs(float(array.min())), abs(float(array.max())))
            # A comparison with NaN is False.
            largest[name] = max(largest.get(name, 0.0), reached) if reached < math.inf else math.inf


def _open_session(model: ModelProto, names: Sequence[str]) -> Any:
    """Open a session whose outputs are these tensors."""
    probe = ModelProto()
    probe.CopyFrom(model)
    probe.graph.ClearField("output")
    probe.graph.output.extend(helper.make_tensor_value_info(name, FLOAT, None) for name in names)
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _LOG_FATAL  # errors reach us as exceptions
    try:
        return onnxruntime.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001 -- the exceptions of ONNX Runtime and protobuf have no common type
        raise ModelError(
            f"ONNX Runtime cannot load it with its tensors as outputs ({error_text(error)}); wanted a complete ONNX "
            "file of at most 2 GB"
        ) from None


def _run(session: Any, names: Sequence[str], feed: Feed) -> list[NDArray[Any]]:
    try:
        outputs: list[NDArray[Any]] = session.run(list(names), dict(feed))
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime's exceptions have no common type
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in feed.items())
        raise ModelError(
            f"ONNX Runtime failed on the calibration input {shapes} ({error_text(error)}); wanted inputs with the "
            "model's names, types and shapes"
        ) from None
    return outputs
