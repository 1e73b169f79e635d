"""INT8 variant of a network with random weights, for its speed: there is no accuracy to lose.

It is quantized as by `edge engines quantize`, but in all layers, with ranges from random input and weights rounded to
the nearest level, none of which changes the amount of computation.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from onnx import ModelProto

from edge.core.errors import ModelError
from edge.core.process import usable_cores
from edge.inference.backends.input_tensors import Feed
from edge.inference.derived_files import source_sha256, write_variant
from edge.inference.model_variants import variant_file
from edge.precision.activation_ranges import Probe, calibrate
from edge.precision.qdq import ORIGIN_KEY, Placement, insert_qdq, serialize
from edge.precision.quantizable_graph import activations, layers_of, prepare
from edge.precision.quantizer import PLACEMENTS

log = logging.getLogger(__name__)

_PICTURES = 4
_SEED = 0


def make_int8_variant(onnx: Path, backend: str, state_dir: Path) -> None:
    """Make the variant for a backend unless it exists; raise ModelError on failure.

    It accepts any batch, like its source. The largest network needs 4 GB of memory and half a minute, once.
    """
    placement: Placement = "cpu" if backend == "ort-cpu" else "tensorrt"
    kind = PLACEMENTS[placement]
    if _exists(onnx, kind, backend, state_dir):
        return
    log.info("%s: making its INT8 variant for %s", onnx.stem, placement)
    data = serialize(_quantized(prepare(onnx), placement), source_sha256(onnx))
    write_variant(data, onnx, state_dir, kind, ORIGIN_KEY)


def _exists(onnx: Path, kind: str, backend: str, state_dir: Path) -> bool:
    try:
        return variant_file(onnx, "int8", backend, state_dir).name.endswith(f".{kind}.onnx")
    except ModelError:
        return False


def _quantized(model: ModelProto, placement: Placement) -> ModelProto:
    tensors = activations(model)
    histograms = calibrate(Probe(model, tensors, usable_cores()), tensors, _inputs(model))
    ranges = {name: histogram.range("minmax") for name, histogram in histograms.items()}
    return insert_qdq(model, [layer.name for layer in layers_of(model)], ranges, {}, placement)


def _inputs(model: ModelProto) -> Iterator[Feed]:
    """Draw the input that the weights are scaled for: Gaussian numbers of mean 0 and deviation 1."""
    (value,) = model.graph.input
    shape = [1, *(axis.dim_value for axis in value.type.tensor_type.shape.dim[1:])]
    random = np.random.default_rng(_SEED)
    for _ in range(_PICTURES):
        yield {value.name: random.standard_normal(shape, np.float32)}
