"""How quantizing a layer shifts the mean of what it gives, channel by channel: its bias makes good for that."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

from edge.backends.calibrate import LEVELS, Probe, Range
from edge.backends.prepare import Layer

Means = NDArray[np.float64]  # of each channel
_IMAGE_AXES = (0, 2, 3)


def bias_shifts(
    model: ModelProto,
    layers: Iterable[Layer],
    ranges: Mapping[str, Range],
    probe: Probe,
    pictures: Iterable[NDArray[Any]],
) -> dict[str, NDArray[np.float32]]:
    """Return for each convolution with a bias what to add to it."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    chosen = [layer for layer in layers if _is_corrected(layer, weights)]
    means = _means({layer.input: ranges[layer.input] for layer in chosen}, probe, pictures)
    return {layer.name: _shift(numpy_helper.to_array(weights[layer.weight]), *means[layer.input]) for layer in chosen}


def _is_corrected(layer: Layer, weights: Mapping[str, TensorProto]) -> bool:
    """Tell whether it is a convolution over pictures with a bias of constants."""
    is_conv = layer.op == "Conv" and len(weights[layer.weight].dims) == len(_IMAGE_AXES) + 1
    return is_conv and layer.bias in weights


def _means(
    ranges: Mapping[str, Range], probe: Probe, pictures: Iterable[NDArray[Any]]
) -> dict[str, tuple[Means, Means]]:
    """Return the mean of each channel of these tensors, as it is and quantized."""
    sums: dict[str, list[Any]] = {name: [0.0, 0.0] for name in ranges}
    count = 0
    for picture in pictures:
        found = probe(picture)
        count += 1
        for name, limits in ranges.items():
            sums[name][0] += found[name].mean(_IMAGE_AXES, np.float64)
            sums[name][1] += _quantized(found[name], limits).mean(_IMAGE_AXES, np.float64)
    return {name: (exact / count, rounded / count) for name, (exact, rounded) in sums.items()}


def _quantized(values: NDArray[Any], limits: Range) -> NDArray[np.float32]:
    step = np.float32(limits.magnitude / LEVELS or 1.0)
    return np.asarray(np.clip(np.rint(values / step), -LEVELS - 1, LEVELS) * step, np.float32)


def _shift(weights: NDArray[np.float32], exact: Means, rounded: Means) -> NDArray[np.float32]:
    """Return how much less the quantized layer gives in the mean; what padding does at the borders is left out."""
    true = weights.sum(axis=(2, 3), dtype=np.float64)  # D × C of a group
    kept = _rounded(weights).sum(axis=(2, 3), dtype=np.float64)
    groups = len(exact) // true.shape[1]
    channel = np.arange(len(true)) * groups // len(true)  # the group of each output
    by_group = [np.asarray(each).reshape(groups, -1)[channel] for each in (exact, rounded)]
    lost: Means = (true * by_group[0]).sum(axis=1) - (kept * by_group[1]).sum(axis=1)
    return lost.astype(np.float32)


def _rounded(weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the weights as int8 with one scale for each output holds them."""
    steps = np.abs(weights).max(axis=(1, 2, 3), keepdims=True) / LEVELS
    steps[steps == 0] = 1.0
    rounded: NDArray[np.float32] = np.rint(weights / steps) * steps
    return rounded
