"""FP32 → Q/DQ: prepared, placed so that TensorRT fuses it, and what cannot be quantized is told in a sentence."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from edge.core.errors import EngineError, ModelError
from edge.inference.backends.tensorrt import builder as build_module
from edge.inference.backends.tensorrt.library import load_tensorrt, make_logger
from edge.precision.activation_ranges import Probe, Range, calibrate
from edge.precision.qdq import Placement, insert_qdq, naive_quantization, serialize
from edge.precision.quantizable_graph import activations, layers_of, prepare
from edge.precision.weight_rounding import InputStatistics, Window, round_weights
from tests.support.emulated_engines import build_plan_here
from tests.support.project import CONVEYOR
from tests.support.quantizable import SIDE, images, network

PLACEMENTS: tuple[Placement, ...] = ("tensorrt", "cpu")
ALL = ["stem", "deep", "mix", "head", "classes"]


def ranges_of(model: ModelProto, rows: list[NDArray[np.float32]]) -> dict[str, Range]:
    tensors = activations(model)
    found = calibrate(Probe(model, tensors, 1), tensors, rows)
    return {name: histogram.range("minmax") for name, histogram in found.items()}


@pytest.fixture
def prepared(tmp_path: Path) -> ModelProto:
    return prepare(network(tmp_path))


def placed(model: ModelProto, layers: Collection[str] = ALL, placement: Placement = "tensorrt") -> ModelProto:
    return insert_qdq(model, layers, ranges_of(model, images(8)), {}, placement)


def run(model: ModelProto, rows: NDArray[np.float32]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found: NDArray[np.float32] = session.run(None, {"images": rows})[0]
    return found


def makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def named(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def constants(model: ModelProto) -> Mapping[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


def test_the_opset_is_raised_and_batch_normalisation_folded(tmp_path: Path) -> None:
    source = network(tmp_path)
    model = prepare(source)
    assert [(each.domain, each.version) for each in model.opset_import] == [("", 17)]
    assert "BatchNormalization" not in {node.op_type for node in model.graph.node}
    row = images(1)[0]
    assert np.allclose(run(model, row), run(onnx.load(source), row), atol=1e-4)


def test_layers_tell_their_work(prepared: ModelProto) -> None:
    found = {layer.name: layer.products for layer in layers_of(prepared)}
    assert found == {"stem": 3 * 9, "deep": 9, "mix": 8, "head": 16, "classes": 4}


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_the_result_is_valid_and_close_to_fp32(prepared: ModelProto, placement: Placement) -> None:
    model = onnx.load_from_string(serialize(placed(prepared, placement=placement), "abc"))
    assert {each.key: each.value for each in model.metadata_props} == {"edge.int8_of": "abc"}
    row = images(1)[0]
    wanted = run(prepared, row)
    assert np.abs(run(model, row) - wanted).max() < 0.05 * np.abs(wanted).max()
    assert np.abs(run(model, row) - wanted).max() > 0


def test_tensorrt_gets_symmetric_int8_with_a_scale_a_channel_and_float_biases(prepared: ModelProto) -> None:
    model = placed(prepared)
    values, made = constants(model), makers(model)
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            assert values[node.input[2]].dtype == np.int8
            assert not values[node.input[2]].any()
    for layer in ALL:
        node = named(model, layer)
        assert made[node.input[0]].op_type == "DequantizeLinear"
        dequantize = made[node.input[1]]
        outputs = {"head": 4, "classes": 5}.get(layer, 8)
        assert values[dequantize.input[0]].dtype == np.int8
        assert values[dequantize.input[1]].shape == (outputs,)
        assert values[node.input[2]].dtype == np.float32


def test_nothing_stands_between_a_layer_and_its_activation(prepared: ModelProto) -> None:
    model = placed(prepared)
    made = makers(model)
    activated = [made[node.input[0]].name for node in model.graph.node if node.op_type == "Relu"]
    assert activated == ["stem", "deep", "sum"]


def test_a_residual_sum_reads_the_skipped_tensor_quantized_and_the_layer_as_it_is(prepared: ModelProto) -> None:
    model = placed(prepared)
    kinds = sorted(makers(model)[name].op_type for name in named(model, "sum").input)
    assert kinds == ["Conv", "DequantizeLinear"]


def test_what_is_not_quantized_reads_floats(prepared: ModelProto) -> None:
    model = placed(prepared, ["head", "mix"])
    made = makers(model)
    assert made[named(model, "deep").input[0]].op_type == "Relu"
    assert {made[name].op_type for name in named(model, "join").input} == {"Relu"}
    assert made[named(model, "head").input[0]].op_type == "DequantizeLinear"


def test_without_layers_the_model_stays_as_it_is(prepared: ModelProto) -> None:
    for placement in PLACEMENTS:
        assert placed(prepared, [], placement).SerializeToString() == prepared.SerializeToString()


def test_onnxruntime_runs_the_cpu_form_on_integers(prepared: ModelProto, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.log_severity_level = 4
    data = placed(prepared, placement="cpu").SerializeToString()
    onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    found = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx", load_external_data=False).graph.node]
    assert found.count("QLinearConv") == 4
    assert "QLinearConcat" in found


def test_rounding_for_what_a_layer_sees_beats_the_nearest_level(prepared: ModelProto) -> None:
    rows, unseen = images(16), images(16, seed=5)
    ranges = ranges_of(prepared, rows)
    layers = [layer for layer in layers_of(prepared) if layer.op == "Conv"]
    probe = Probe(prepared, activations(prepared), 1)
    rounded = round_weights(prepared, layers, ranges, probe, iter(rows))
    assert set(rounded) == {"stem", "deep", "mix", "head"}
    wanted = np.concatenate([run(prepared, row) for row in unseen])
    for name in rounded:
        plain, better = (insert_qdq(prepared, [name], ranges, each, "tensorrt") for each in ({}, rounded))
        errors = [
            np.abs(np.concatenate([run(model, row) for row in unseen]) - wanted).mean() for model in (plain, better)
        ]
        assert errors[1] < errors[0]


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_rounded_weights_reach_the_file_as_they_are(prepared: ModelProto, placement: Placement) -> None:
    rows = images(4)
    ranges = ranges_of(prepared, rows)
    probe = Probe(prepared, activations(prepared), 1)
    rounded = round_weights(prepared, layers_of(prepared), ranges, probe, iter(rows))
    model = insert_qdq(prepared, ALL, ranges, rounded, placement)
    values, made = constants(model), makers(model)
    for name, found in rounded.items():
        dequantize = made[named(model, name).input[1]]
        assert np.array_equal(values[dequantize.input[0]], found.levels)
        assert np.array_equal(values[dequantize.input[1]], found.scales)


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


def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    model = prepare(network(tmp_path, batch="N"))
    for placement in PLACEMENTS:
        result = placed(model, placement=placement)
        assert run(result, np.concatenate(images(3))).shape == (3, 5)


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 20])
def test_any_opset_in_use_becomes_int8(tmp_path: Path, opset: int) -> None:
    serialize(placed(prepare(network(tmp_path, opset=opset))), "abc")


def test_weights_that_are_also_inputs_are_constants(tmp_path: Path) -> None:
    path = network(tmp_path)
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, path)
    assert len(layers_of(prepare(path))) == 5
    assert naive_quantization(path, images(2))


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


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_quantized_model_is_not_quantized_again(tmp_path: Path, prepared: ModelProto, placement: Placement) -> None:
    path = tmp_path / "again.onnx"
    onnx.save(placed(prepared, placement=placement), path)
    with pytest.raises(ModelError, match="is already quantized; wanted the original FP32 model"):
        prepare(path)


def test_an_fp16_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = network(tmp_path, opset=17)
    model = onnx.load(path)
    weight = model.graph.initializer[0]
    half = numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.float16), weight.name)
    weight.CopyFrom(half)
    onnx.save(model, path)
    with pytest.raises(ModelError, match="is FP16; wanted the FP32 model"):
        prepare(path)


def test_a_file_that_is_no_model_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "no.onnx"
    path.write_bytes(b"no model")
    with pytest.raises(
        ModelError, match=r"no.onnx cannot be quantized: it cannot be read .*; wanted a complete ONNX file"
    ):
        prepare(path)


@pytest.fixture
def builder() -> None:
    """Skip the test where NVIDIA's library is not installed, or cannot build here."""
    try:
        library = load_tensorrt()
        build_module._make_builder(library, make_logger(library))
    except EngineError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures("builder")
@pytest.mark.parametrize("batch", [1, "N"])
def test_nvidias_parser_and_builder_take_the_form(tmp_path: Path, batch: int | str) -> None:
    path = tmp_path / "quantized.onnx"
    path.write_bytes(serialize(placed(prepare(network(tmp_path, batch=batch))), "abc"))
    assert build_plan_here(path, tmp_path, 1)


@pytest.mark.usefixtures("builder")
def test_nvidias_parser_and_builder_take_the_built_in_model(tmp_path: Path) -> None:
    model = prepare(CONVEYOR / "conveyor.onnx")
    rows = [np.random.default_rng(2).random((1, 3, 320, 320), np.float32)]
    layers = [layer.name for layer in layers_of(model)]
    for number, chosen in enumerate((layers, layers[::2])):
        path = tmp_path / f"{number}.onnx"
        path.write_bytes(serialize(insert_qdq(model, chosen, ranges_of(model, rows), {}, "tensorrt"), "abc"))
        assert build_plan_here(path, tmp_path, 1)
