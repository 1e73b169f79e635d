"""Preparation of models for quantization: opset, folding, layers and their work, and refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import ModelError
from edge.precision.qdq import naive_quantization
from edge.precision.quantizable_graph import layers_of, prepare
from tests.support.quantizable import SIDE, feeds, images, network, run


def test_the_opset_is_raised_and_batch_normalisation_folded(tmp_path: Path) -> None:
    source = network(tmp_path)
    model = prepare(source)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    row = images(1)[0]
    assert np.allclose(run(model, row), run(onnx.load(source), row), atol=1e-4)


def test_layers_have_their_number_of_products(tmp_path: Path) -> None:
    found = {layer.name: layer.products for layer in layers_of(prepare(network(tmp_path)))}
    assert found == {"stem": 3 * 9, "deep": 9, "mix": 8, "head": 16, "classes": 4}


def test_weights_that_are_also_inputs_are_constants(tmp_path: Path) -> None:
    path = network(tmp_path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, path)
    assert len(layers_of(prepare(path))) == 5
    assert naive_quantization(path, feeds(images(2)))


def control_flow() -> list[Any]:
    branch = helper.make_graph(
        [helper.make_node("Identity", ["images"], ["out"])],
        "branch",
        [],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
    )
    total = helper.make_node("ReduceSum", ["images"], ["total"], keepdims=0)
    yes = helper.make_node("Cast", ["total"], ["yes"], to=TensorProto.BOOL)
    return [total, yes, helper.make_node("If", ["yes"], ["seen"], "choice", then_branch=branch, else_branch=branch)]


def test_control_flow_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"If node 'choice' contains subgraphs \(control flow\); wanted a graph"):
        prepare(network(tmp_path, extra=control_flow()))


def test_a_custom_operator_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = network(tmp_path)
    model = onnx.load(path)
    model.graph.node[0].domain, model.graph.node[0].op_type = "acme", "Sharpen"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(model, path)
    with pytest.raises(
        ModelError, match=r"Sharpen node 'seen' belongs to the domain 'acme'; wanted standard ONNX operators"
    ):
        prepare(path)


def test_an_fp16_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = network(tmp_path, opset=17)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name)
    weight.CopyFrom(half)
    onnx.save(model, path)
    with pytest.raises(ModelError, match="is FP16; wanted the original FP32 model"):
        prepare(path)


def test_a_file_that_is_no_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(
        ModelError, match=r"no.onnx cannot be quantized: it cannot be read .*; wanted a complete ONNX file"
    ):
        prepare(path)
