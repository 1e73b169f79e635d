"""Parameters of a quantized model: the range of each tensor by the method that its readers stand best."""

from __future__ import annotations

import numpy as np

from edge.precision.activation_ranges import Range
from edge.precision.calibration import QuantizationParameters, best_parameters
from edge.precision.quantizable_graph import QuantizableLayer
from edge.precision.weight_rounding import IntegerWeights


def layer(name: str, tensor: str) -> QuantizableLayer:
    return QuantizableLayer(name, "Conv", tensor, f"{name}.weight", None, f"{name}.output", f"{name}.output", 9)


def parameters(limit: float) -> QuantizationParameters:
    weights = IntegerWeights(np.zeros((1, 1), np.int8), np.full(1, limit, np.float32), np.zeros(1, np.float32))
    return QuantizationParameters(
        {name: Range(-limit, limit) for name in ("x", "y", "z")}, {"a": weights, "b": weights}
    )


LAYERS = [layer("a", "x"), layer("b", "x"), layer("c", "y")]
TRIED = {"percentile": parameters(1.0), "mse": parameters(2.0)}


def test_a_tensor_gets_the_range_to_which_its_readers_are_least_sensitive() -> None:
    sensitivities = {"percentile": {"a": 0.01, "b": 0.05, "c": 0.02}, "mse": {"a": 0.03, "b": 0.03, "c": 0.03}}
    chosen, by_layer, methods = best_parameters(LAYERS, TRIED, sensitivities)
    assert methods == {"a": "mse", "b": "mse", "c": "percentile"}
    assert by_layer == {"a": 0.03, "b": 0.03, "c": 0.02}
    assert {name: each.high for name, each in chosen.ranges.items()} == {"x": 2.0, "y": 1.0, "z": 1.0}


def test_weights_are_those_that_were_rounded_for_the_range() -> None:
    sensitivities = {"percentile": dict.fromkeys("abc", 0.02), "mse": dict.fromkeys("abc", 0.01)}
    chosen, _, _ = best_parameters(LAYERS, TRIED, sensitivities)
    assert {name: float(each.scales[0]) for name, each in chosen.weights.items()} == {"a": 2.0, "b": 2.0}


def test_one_method_alone_is_taken_as_it_is() -> None:
    chosen, by_layer, methods = best_parameters(LAYERS, {"mse": TRIED["mse"]}, {"mse": dict.fromkeys("abc", 0.5)})
    assert chosen.ranges == TRIED["mse"].ranges
    assert by_layer == dict.fromkeys("abc", 0.5)
    assert set(methods.values()) == {"mse"}
