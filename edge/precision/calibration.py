"""What a quantized model computes with: ranges of tensors and integer weights, by one method or the best of two.

No method is the best for all tensors: one that clips outliers loses what they mean in some layers, one that keeps them
is coarse in others. So each tensor gets the range with which the layers that read it, quantized alone, do least harm.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray
from onnx import ModelProto

from edge.precision.activation_ranges import METHODS, Probe, Range, calibrate
from edge.precision.quantizable_graph import QuantizableLayer, activations
from edge.precision.weight_rounding import IntegerWeights, round_weights

AUTO = "auto"
TRIED = ("percentile", "mse")  # by `auto`; the first also serves the tensors that no layer reads
CHOICES = (AUTO, *METHODS)

Inputs = Callable[[str], Iterator[NDArray[Any]]]  # what is done → the model's inputs, a picture after the other


@dataclass(frozen=True)
class Numbers:
    """What a quantized model computes with."""

    ranges: Mapping[str, Range]  # of each tensor
    weights: Mapping[str, IntegerWeights]  # of each layer that has any


class Calibration:
    """What the tensors of a model are on calibration frames."""

    def __init__(self, model: ModelProto, layers: Sequence[QuantizableLayer], inputs: Inputs, threads: int) -> None:
        self._model, self._layers, self._inputs = model, layers, inputs
        tensors = activations(model)
        self._probe = Probe(model, tensors, threads)
        self._histograms = calibrate(self._probe, tensors, inputs("calibrating"))
        products = {layer.name: self._histograms[layer.counted].size * layer.products for layer in layers}
        total = sum(products.values())
        self.shares = {name: count / total for name, count in products.items()}  # of all multiplications

    def numbers(self, method: str) -> Numbers:
        """Return ranges by this method, and weights rounded for them."""
        ranges = {name: histogram.range(method) for name, histogram in self._histograms.items()}
        pictures = self._inputs(f"rounding weights, {method}")
        return Numbers(ranges, round_weights(self._model, self._layers, ranges, self._probe, pictures))


def best_of(
    layers: Sequence[QuantizableLayer], tried: Mapping[str, Numbers], harms: Mapping[str, Mapping[str, float]]
) -> tuple[Numbers, dict[str, float], dict[str, str]]:
    """Give each tensor the method whose range does least harm; return the numbers, each layer's harm, and its method.

    `harms`: of each method, what each layer does when it alone is quantized. They add up by their squares.
    """
    readers: dict[str, list[str]] = {}
    for layer in layers:
        readers.setdefault(layer.input, []).append(layer.name)
    first = next(iter(tried))
    methods = {
        tensor: min(tried, key=lambda method: sum(harms[method][name] ** 2 for name in names))
        for tensor, names in readers.items()
    }
    chosen = {layer.name: methods[layer.input] for layer in layers}
    ranges = {name: tried[methods.get(name, first)].ranges[name] for name in tried[first].ranges}
    weights = {name: tried[method].weights[name] for name, method in chosen.items() if name in tried[method].weights}
    return Numbers(ranges, weights), {name: harms[method][name] for name, method in chosen.items()}, chosen
