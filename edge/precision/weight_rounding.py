"""Rounding of convolution weights to integers such that errors cancel on a layer's actual inputs.

Rounding each weight to the nearest level is best for independent inputs; those of a network are correlated. Here
weights are rounded one after the other, and those still to come compensate for the change of the output, as far as
inputs are correlated on calibration frames. Finally the bias compensates for the remaining shift of the mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper

from edge.inference.backends.input_tensors import Feed
from edge.precision.activation_ranges import LEVELS, Probe, Range
from edge.precision.quantizable_graph import QuantizableLayer

Floats = NDArray[np.float64]
Values = NDArray[np.float32]

_POSITIONS = 512  # of each image's output that are sampled
_DAMPING = 0.01  # fraction of the inputs' mean square, added as independent noise
# Inputs of one output value: beyond this, memory (quadratic) and time (cubic) are too much, and weights are rounded to
# the nearest level.
_MOST_INPUTS = 1152
_IMAGE_AXES = 4  # batch, channel, height, width


@dataclass(frozen=True)
class Window:
    """Geometry of a convolution."""

    groups: int
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]  # top, left, bottom, right


@dataclass(frozen=True)
class IntegerWeights:
    """Weights and bias of a quantized layer."""

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
    feeds: Iterable[Feed],
) -> dict[str, IntegerWeights]:
    """Return the integer weights of each two-dimensional convolution."""
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes = {node.name: node for node in model.graph.node}
    chosen = {layer: window for layer in layers if (window := _window(nodes[layer.name], weights[layer.weight]))}
    samples = {layer: InputStatistics(window, weights[layer.weight]) for layer, window in chosen.items()}
    for feed in feeds:
        tensors = probe(feed)
        inputs = {name: quantized(tensors[name], ranges[name]) for name in {layer.input for layer in chosen}}
        for layer, sample in samples.items():
            sample.add(inputs[layer.input][:1], tensors[layer.output][:1])
    return {layer.name: sample.round() for layer, sample in samples.items()}


def quantized(values: NDArray[Any], limits: Range) -> Values:
    """Return the values rounded to symmetric int8."""
    step = np.float32(limits.magnitude / LEVELS or 1.0)
    rounded: Values = np.clip(np.rint(values / step), -LEVELS - 1, LEVELS) * step
    return rounded


def _window(node: NodeProto, weights: Values) -> Window | None:
    """Return a node's geometry; None unless it is a two-dimensional convolution with explicit pads."""
    found = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    if node.op_type != "Conv" or weights.ndim != _IMAGE_AXES or found.get("auto_pad", b"NOTSET") != b"NOTSET":
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
    """Correlation of a layer's inputs, and the mean of its outputs: sums whose size does not grow with the frames."""

    def __init__(self, window: Window, weights: Values) -> None:
        groups, inputs = window.groups, int(np.prod(weights.shape[1:]))
        self._window = window
        self._weights = weights
        self._products = np.zeros((groups, inputs, inputs), np.float32) if inputs <= _MOST_INPUTS else None
        self._inputs = np.zeros((groups, inputs))
        self._outputs = np.zeros(len(weights))
        self._count = 0
        self._random = np.random.default_rng(0)

    def add(self, inputs: Values, outputs: Values) -> None:
        """Add one image: the quantized input (1×C×H×W), and the FP32 output (1×D×H×W)."""
        rows, columns = outputs.shape[2:]
        positions = self._random.choice(rows * columns, min(_POSITIONS, rows * columns), replace=False)
        patches = _patches(inputs[0], self._window, positions // columns, positions % columns)
        if self._products is not None:
            self._products += patches.transpose(0, 2, 1) @ patches
        self._inputs += patches.sum(axis=1, dtype=np.float64)
        self._outputs += outputs[0].reshape(len(self._weights), -1)[:, positions].sum(axis=1, dtype=np.float64)
        self._count += len(positions)

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
        computed = np.einsum("gdk,gk->gd", levels * scales[..., None], self._inputs / self._count).ravel()
        return IntegerWeights(
            levels.reshape(self._weights.shape).astype(np.int8),
            scales.ravel().astype(np.float32),
            (self._outputs / self._count - computed).astype(np.float32),
        )


def _patches(x: Values, window: Window, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Values:
    """Return the kernel's inputs at positions of the output: groups × positions × K."""
    top, left, bottom, right = window.pads
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right)))
    down, along = (
        position[:, None] * stride + np.arange(size) * gap
        for position, stride, size, gap in zip(
            (rows, columns), window.strides, window.kernel, window.dilations, strict=True
        )
    )
    taken = padded[:, down[:, :, None], along[:, None, :]]  # C × positions × height × width
    grouped = taken.reshape(window.groups, -1, *taken.shape[1:]).transpose(0, 2, 1, 3, 4)
    patches: Values = grouped.reshape(window.groups, len(rows), -1)
    return patches


def _round(weights: Floats, scales: Floats, products: Values) -> Floats:
    """Round the weights (D×K) of one group, input by input."""
    size = len(products)
    damped = products + np.eye(size) * (_DAMPING * float(np.trace(products)) / size or 1.0)
    # Row k of this factor says how the inputs after k compensate for it, once those before it are fixed.
    compensation = np.linalg.cholesky(np.linalg.inv(damped)).T
    work, levels = weights.copy(), np.empty_like(weights)
    for k in range(size):
        levels[:, k] = np.clip(np.rint(work[:, k] / scales), -LEVELS, LEVELS)
        error = (work[:, k] - levels[:, k] * scales) / compensation[k, k]
        work[:, k:] -= error[:, None] * compensation[k, k:]
    return levels
