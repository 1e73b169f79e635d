"""Weights rounded for a layer's inputs: nearly the layer's FP32 output, and finite without input."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge.precision.weight_rounding import InputStatistics, Window


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("limit", [0, 1000])
def test_a_layer_gives_nearly_what_it_gave(groups: int, limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.precision.weight_rounding._MOST_INPUTS", limit)
    random = np.random.default_rng(groups)
    weights = random.normal(size=(6, 6 // groups, 3, 2)).astype(np.float32)
    attributes: dict[str, Any] = {"strides": [2, 1], "dilations": [1, 2], "pads": [1, 0, 2, 1], "group": groups}
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    shapes = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "w", "y")]
    graph = helper.make_graph([node], "conv", shapes[:2], shapes[2:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    samples = InputStatistics(Window(groups, (3, 2), (2, 1), (1, 2), (1, 0, 2, 1)), weights)
    x = random.normal(1, 1, (1, 6, 11, 9)).astype(np.float32)
    (y,) = session.run(None, {"x": x, "w": weights})
    samples.add(x, y + 3)
    found = samples.round()
    (again,) = session.run(None, {"x": x, "w": found.weights})
    assert np.abs(found.levels).max() == 127
    assert np.abs(again + found.bias.reshape(1, -1, 1, 1) - y - 3).max() < 0.03 * np.abs(y).max()


def test_a_layer_that_sees_and_gives_nothing_stays_finite() -> None:
    samples = InputStatistics(Window(1, (1, 1), (1, 1), (1, 1), (0, 0, 0, 0)), np.zeros((2, 3, 1, 1), np.float32))
    samples.add(np.zeros((1, 3, 4, 4), np.float32), np.zeros((1, 2, 4, 4), np.float32))
    found = samples.round()
    assert not found.levels.any()
    assert np.isfinite(found.scales).all()
