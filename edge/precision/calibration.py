"""Calibration: ranges of tensors and integer weights of a quantized model, by one method or the better of two.

No method is best for all tensors: one that clips outliers loses information in some layers, one that keeps them is
coarse in others. So each tensor gets the range for which the layers that read it, quantized alone, are least sensitive.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto

from edge.inference.backends.input_tensors import Feed
from edge.precision.activation_ranges import METHODS, Probe, Range, calibrate
from edge.precision.quantizable_graph import QuantizableLayer, activations
from edge.precision.weight_rounding import IntegerWeights, round_weights

AUTO = "auto"
TRIED = ("percentile", "mse")  # by `auto`; the first also serves the tensors that no layer reads
CHOICES = (AUTO, *METHODS)

Inputs = Callable[[str], Iterator[Feed]]  # phase, for the progress → the model's inputs, image by image


@dataclass(frozen=True)
class QuantizationParameters:
    """Ranges and integer weights of a quantized model."""

    ranges: Mapping[str, Range]  # of each tensor
    weights: Mapping[str, IntegerWeights]  # of each layer that has any


class Calibration:
    """Statistics of a model's tensors on calibration frames."""

    def __init__(self, model: ModelProto, layers: Sequence[QuantizableLayer], inputs: Inputs, threads: int) -> None:
        self._model, self._layers, self._inputs = model, layers, inputs
        tensors = activations(model)
        self._probe = Probe(model, tensors, threads)
        self._histograms = calibrate(self._probe, tensors, inputs("calibrating"))
        products = {layer.name: self._histograms[layer.counted].size * layer.products for layer in layers}
        total = sum(products.values())
        self.fractions = {name: count / total for name, count in products.items()}  # of all multiplications

    def parameters(self, method: str) -> QuantizationParameters:
        """Return ranges by this method, and weights rounded for them."""
        ranges = {name: histogram.range(method) for name, histogram in self._histograms.items()}
        feeds = self._inputs(f"rounding weights, {method}")
        return QuantizationParameters(ranges, round_weights(self._model, self._layers, ranges, self._probe, feeds))


def best_parameters(
    layers: Sequence[QuantizableLayer],
    tried: Mapping[str, QuantizationParameters],
    sensitivities: Mapping[str, Mapping[str, float]],
) -> tuple[QuantizationParameters, dict[str, float], dict[str, str]]:
    """Choose the method for each tensor; return the parameters, each layer's sensitivity, and its method.

    `sensitivities` are those of each layer, by method. The method of a tensor is the one for which the squares of its
    readers' sensitivities add up to the least.
    """
    readers: dict[str, list[str]] = {}
    for layer in layers:
        readers.setdefault(layer.input, []).append(layer.name)
    first = next(iter(tried))
    methods = {
        tensor: min(tried, key=lambda method: sum(sensitivities[method][name] ** 2 for name in names))
        for tensor, names in readers.items()
    }
    chosen = {layer.name: methods[layer.input] for layer in layers}
    ranges = {name: tried[methods.get(name, first)].ranges[name] for name in tried[first].ranges}
    weights = {name: tried[method].weights[name] for name, method in chosen.items() if name in tried[method].weights}
    by_layer = {name: sensitivities[method][name] for name, method in chosen.items()}
    return QuantizationParameters(ranges, weights), by_layer, chosen
