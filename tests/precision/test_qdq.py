"""Q/DQ insertion: preparation, placement that TensorRT fuses, and refusals of what cannot be quantized."""

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

from edge.core.errors import ModelError
from edge.precision.activation_ranges import Probe, Range, calibrate
from edge.precision.qdq import Placement, insert_qdq, naive_quantization, serialize
from edge.precision.quantizable_graph import activations, layers_of, prepare
from edge.precision.weight_rounding import round_weights
from tests.support.emulated_engines import build_plan_here
from tests.support.project import CONVEYOR
from tests.support.quantizable import feeds, images, network, run
from tests.support.real_tensorrt import building_tensorrt

PLACEMENTS: tuple[Placement, ...] = ("tensorrt", "cpu")
ALL = ["stem", "deep", "mix", "head", "classes"]


def ranges_of(model: ModelProto, rows: list[NDArray[np.float32]]) -> dict[str, Range]:
    tensors = activations(model)
    found = calibrate(Probe(model, tensors, 1), tensors, feeds(rows))
    return {name: histogram.range("minmax") for name, histogram in found.items()}


@pytest.fixture
def prepared(tmp_path: Path) -> ModelProto:
    return prepare(network(tmp_path))


def placed(model: ModelProto, layers: Collection[str] = ALL, placement: Placement = "tensorrt") -> ModelProto:
    return insert_qdq(model, layers, ranges_of(model, images(8)), {}, placement)


def makers(model: ModelProto) -> dict[str, NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}


def named(model: ModelProto, name: str) -> NodeProto:
    found: NodeProto = next(node for node in model.graph.node if node.name == name)
    return found


def constants(model: ModelProto) -> Mapping[str, NDArray[Any]]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


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
    rounded = round_weights(prepared, layers, ranges, probe, feeds(rows))
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
    rounded = round_weights(prepared, layers_of(prepared), ranges, probe, feeds(rows))
    model = insert_qdq(prepared, ALL, ranges, rounded, placement)
    values, made = constants(model), makers(model)
    for name, found in rounded.items():
        dequantize = made[named(model, name).input[1]]
        assert np.array_equal(values[dequantize.input[0]], found.levels)
        assert np.array_equal(values[dequantize.input[1]], found.scales)


def test_a_free_batch_stays_free(tmp_path: Path) -> None:
    model = prepare(network(tmp_path, batch="N"))
    for placement in PLACEMENTS:
        result = placed(model, placement=placement)
        assert run(result, np.concatenate(images(3))).shape == (3, 5)


@pytest.mark.parametrize("opset", [7, 11, 13, 17, 20])
def test_any_opset_in_use_becomes_int8(tmp_path: Path, opset: int) -> None:
    serialize(placed(prepare(network(tmp_path, opset=opset))), "abc")


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_a_quantized_model_is_not_quantized_again(tmp_path: Path, prepared: ModelProto, placement: Placement) -> None:
    path = tmp_path / "again.onnx"
    onnx.save(placed(prepared, placement=placement), path)
    with pytest.raises(ModelError, match="is already quantized; wanted the original FP32 model"):
        prepare(path)


@pytest.fixture
def builder() -> None:
    building_tensorrt()


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


def test_a_second_input_is_fed_and_kept(tmp_path: Path) -> None:
    """As that of D-FINE, which takes the size of the picture."""
    extra = [
        helper.make_node("Cast", ["sizes"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["real"], ["side"], axes=[0, 1], keepdims=0),
        helper.make_node("Sub", ["side", "side"], ["nothing"]),
        helper.make_node("Add", ["images", "nothing"], ["seen"]),
    ]
    path = network(tmp_path, extra=extra)
    model = onnx.load(path)
    model.graph.input.append(helper.make_tensor_value_info("sizes", TensorProto.INT64, [1, 2]))
    onnx.save(model, path)
    prepared = prepare(path)
    both = [{"images": each, "sizes": np.array([[16, 16]])} for each in images(4)]
    tensors = activations(prepared)
    probe = Probe(prepared, tensors, 1)
    ranges = {name: each.range("minmax") for name, each in calibrate(probe, tensors, both).items()}
    rounded = round_weights(prepared, layers_of(prepared), ranges, probe, both)
    quantized = insert_qdq(prepared, ALL, ranges, rounded, "cpu")
    assert {value.name for value in quantized.graph.input} == {"images", "sizes"}
    session = onnxruntime.InferenceSession(quantized.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).run(None, both[0])[0]
    assert np.abs(session.run(None, both[0])[0] - wanted).max() < 0.1
    assert naive_quantization(path, both)
