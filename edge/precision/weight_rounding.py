"""Integer weights of convolutions, rounded so that their errors cancel on the inputs that a layer sees.

Rounding each number to the nearest level is best for inputs that vary independently; those of a network do not. Here
one number after the other is rounded, and those to come make good what that changed in the output, as far as the
inputs vary together on calibration frames. Last, the bias makes good what is left of a shift of the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edge.precision.activation_ranges import LEVELS, Probe, Range
from edge.precision.quantizable_graph import QuantizableLayer

Floats = NDArray[np.float64]
Values = NDArray[np.float32]

_PLACES = 512  # of each picture's output that are sampled
_DAMPING = 0.01  # in parts of the inputs' mean square: as if they had so much noise of their own
# Numbers that one output number depends on: beyond it, memory (the square) and time (the cube) are too much, and
# numbers are rounded to the nearest level.
_MOST_INPUTS = 1152
_PICTURE_AXES = 4  # batch, channel, height, width


@dataclass(frozen=True)
class Window:
    """How a convolution moves over its input."""

    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class IntegerWeights:
    """What a layer computes with once it is quantized."""

    levels: NDArray[np.int8]  # of the weights' shape, -127…127
    scales: Values  # of each output channel
    bias: Values

    @property
    def weights(self) -> Values:
        scaled: Values = self.levels * self.scales.reshape(-1, *[1] * (self.levels.ndim - 1))
        return scaled


def round_weights(
    model: ModelProto,
    layers: Iterable[QuantizableLayer],
    ranges: Mapping[str, Range],
    probe: Probe,
    pictures: Iterable[NDArray[Any]],
) -> dict[str, IntegerWeights]:
    """Return the integer weights of each convolution over pictures."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    chosen = {layer: window for layer in layers if (window := _window(nodes[layer.name], weights[layer.weight]))}
    samples = {layer: InputStatistics(window, weights[layer.weight]) for layer, window in chosen.items()}
    for picture in pictures:
        found = probe(picture)
        seen = {name: quantized(found[name], ranges[name]) for name in {layer.input for layer in chosen}}
        for layer, sample in samples.items():
            sample.add(seen[layer.input][:1], found[layer.output][:1])
    return {layer.name: sample.round() for layer, sample in samples.items()}


def quantized(values: NDArray[Any], limits: Range) -> Values:
    """Return the values as symmetric int8 holds them."""
    step = np.float32(limits.magnitude / LEVELS or 1.0)
    held: Values = np.clip(np.rint(values / step), -LEVELS - 1, LEVELS) * step
    return held


def _window(node: NodeProto, weights: Values) -> Window | None:
    """Return how a node moves over its input; None where it is no convolution over pictures, with its pads written."""
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type != "Conv" or weights.ndim != _PICTURE_AXES or found.get("auto_pad", b"NOTSET") != b"NOTSET":
        return None
    height, width = weights.shape[2:]
    return Window(
        found.get("group", 1),
        (height, width),
        tuple(found.get("strides", (1, 1))),
        tuple(found.get("dilations", (1, 1))),
        tuple(found.get("pads", (0, 0, 0, 0))),
    )


class InputStatistics:
    """How a layer's inputs vary together, and the mean of its outputs: sums that do not grow with the frames."""

    def __init__(self, window: Window, weights: Values) -> None:
        groups, inputs = window.groups, int(np.prod(weights.shape[1:]))
        self._window = window
        self._weights = weights
        self._products = np.zeros((groups, inputs, inputs), np.float32) if inputs <= _MOST_INPUTS else None
        self._inputs = np.zeros((groups, inputs))
        self._outputs = np.zeros(len(weights))
        self._count = 0
        self._random = np.random.default_rng(0)

    def add(self, seen: Values, wanted: Values) -> None:
        """Take one picture: the input as quantization leaves it (1×C×H×W), and the FP32 output (1×D×H×W)."""
        rows, columns = wanted.shape[2:]
        places = self._random.choice(rows * columns, min(_PLACES, rows * columns), replace=False)
        patches = _patches(seen[0], self._window, places // columns, places % columns)
        if self._products is not None:
            self._products += patches.transpose(0, 2, 1) @ patches
        self._inputs += patches.sum(axis=1, dtype=np.float64)
        self._outputs += wanted[0].reshape(len(self._weights), -1)[:, places].sum(axis=1, dtype=np.float64)
        self._count += len(places)

    def round(self) -> IntegerWeights:
        """Return the integer weights; `add` must have been called."""
        groups, inputs = self._inputs.shape
        weights = self._weights.reshape(groups, -1, inputs).astype(np.float64)
        largest = np.abs(weights).max(axis=-1)
        scales = np.where(largest > 0, largest, LEVELS) / LEVELS
        if self._products is None:
            levels = np.rint(weights / scales[..., None])
        else:
            means = self._products / np.float32(self._count)
            levels = np.stack([_round(*group) for group in zip(weights, scales, means, strict=True)])
        given = np.einsum("gdk,gk->gd", levels * scales[..., None], self._inputs / self._count).ravel()
        return IntegerWeights(
            levels.reshape(self._weights.shape).astype(np.int8),
            scales.ravel().astype(np.float32),
            (self._outputs / self._count - given).astype(np.float32),
        )


def _patches(x: Values, window: Window, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Values:
    """Return what the kernel sees for these places of the output: groups × places × K."""
    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    down, along = (
        place[:, None] * stride + np.arange(size) * gap
        for place, stride, size, gap in zip(
            (rows, columns), window.strides, window.kernel, window.dilations, strict=True
        )
    )
    seen = padded[:, down[:, :, None], along[:, None, :]]  # C × places × height × width
    grouped = seen.reshape(window.groups, -1, *seen.shape[1:]).transpose(0, 2, 1, 3, 4)
    patches: Values = grouped.reshape(window.groups, len(rows), -1)
    return patches


def _round(weights: Floats, scales: Floats, products: Values) -> Floats:
    """Round the weights (D×K) of one group, input after input."""
    size = len(products)
    damped = products + np.eye(size) * (_DAMPING * float(np.trace(products)) / size or 1.0)
    # Row k of this factor tells how the inputs after k make good for it, once those before it are fixed.
    repairs = np.linalg.cholesky(np.linalg.inv(damped)).T
    work, levels = weights.copy(), np.empty_like(weights)
    for place in range(size):
        levels[:, place] = np.clip(np.rint(work[:, place] / scales), -LEVELS, LEVELS)
        error = (work[:, place] - levels[:, place] * scales) / repairs[place, place]
        work[:, place:] -= error[:, None] * repairs[place, place:]
    return levels
