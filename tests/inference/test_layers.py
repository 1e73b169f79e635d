"""Layers of a model, from each version's inspector, from a parsed network, and from the ONNX file."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import EngineError, ModelError
from edge.inference.backends.tensorrt.layers import (
    EngineLayer,
    IoTensor,
    LayerTensor,
    count,
    make_layer_times,
    onnx_facts,
    parse_network,
    precision_of,
    read_layers,
    with_times,
)
from tests.support.project import CONVEYOR
from tests.support.real_tensorrt import real_tensorrt

SAMPLES = Path(__file__).parents[1] / "data" / "inspector"
CONVOLUTION = "/stem/Conv + /stem/Relu"


def sample(name: str) -> tuple[EngineLayer, ...]:
    labelled = json.loads((SAMPLES / f"{name}.json").read_text(encoding="utf-8"))
    return read_layers(json.dumps(labelled["answer"]))


@pytest.mark.parametrize("path", sorted(SAMPLES.glob("*.json")), ids=lambda path: path.stem)
def test_every_sample_says_what_it_is_modelled_on_and_where_it_is_from(path: Path) -> None:
    about = json.loads(path.read_text(encoding="utf-8"))["about"]
    assert about["modelled_on"].startswith("TensorRT 1")
    assert "not recorded" in about["origin"]


def test_tensorrt_10_tells_type_and_format_in_one_entry() -> None:
    reformat, convolution, sigmoid = sample("trt-10.3-detailed")
    assert convolution == EngineLayer(
        CONVOLUTION,
        "CaskConvolution",
        "FP16",
        "sm80_xmma_fprop_implicit_gemm_f16f16_f16f16_f16_nhwckrsc_nhwc_tilesize64x32x64",
        ("/stem/Conv", "/stem/Relu"),
        is_reformat=False,
        inputs=(
            LayerTensor(f"Reformatted Input Tensor 0 to {CONVOLUTION}", (1, 3, 320, 320), "FP16", "Row major linear"),
        ),
        outputs=(LayerTensor("/stem/Relu_output_0", (1, 16, 160, 160), "FP16", "Row major linear"),),
    )
    assert reformat.is_reformat
    assert reformat.outputs[0].format == "Channel major"
    assert (sigmoid.precision, sigmoid.is_reformat) == ("FP32", False)


def test_tensorrt_11_tells_them_in_two() -> None:
    convolution, sigmoid = sample("trt-11.4-detailed")
    assert convolution.inputs == (LayerTensor("images_fp16", (1, 3, 320, 320), "FP16", "Row major linear"),)
    assert (convolution.precision, sigmoid.precision) == ("INT8", "FP16")
    assert convolution.outputs[0].format == "Thirty-two wide channel vectorized row major"


def test_without_detailed_profiling_there_are_names_only() -> None:
    layers = sample("trt-10.13-names-only")
    assert layers[1:] == (EngineLayer(CONVOLUTION), EngineLayer("/head/Sigmoid"))
    assert layers[0].is_reformat
    counts = count(layers)
    assert (counts.layers, counts.reformats, counts.origins, counts.by_precision) == (2, 1, None, {})


def test_a_network_fused_into_one_layer_is_counted_by_its_origins() -> None:
    (fused,) = sample("trt-10.16-foreign-node")
    assert fused.origins == ("/stem/Conv", "/stem/Relu", "/head[0]")
    counts = count([fused])
    assert (counts.layers, counts.origins) == (1, 3)


def test_an_origin_that_is_told_twice_counts_once() -> None:
    entry = {"Name": "l", "Metadata": "[ONNX Layer: a]\x1e[ONNX Layer: b]\x1e[ONNX Layer: a]"}
    (found,) = read_layers(json.dumps({"Layers": [entry]}))
    assert found.origins == ("a", "b")


def test_the_part_of_a_dla_is_one_layer() -> None:
    counts = count(sample("trt-10.3-dla"))
    assert counts.by_kind == {"DLA": 1, "PointWiseV2": 1}
    assert counts.by_precision == {"FP16": 1, "FP32": 1}


def test_reformats_are_counted_apart() -> None:
    counts = count(sample("trt-10.3-detailed"))
    assert (counts.layers, counts.reformats, counts.origins) == (2, 1, 3)
    assert counts.by_kind == {"CaskConvolution": 1, "PointWiseV2": 1}


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [
        ("FLOAT", "FP32"),
        ("Row major linear FP32", "FP32"),
        ("Half", "FP16"),
        ("BFloat16", "BF16"),
        ("FP8", "FP8"),
        ("UINT8", "UINT8"),
        ("Int8", "INT8"),
        ("INT64", "INT64"),
        ("Bool", "BOOL"),
        ("E8M0", None),
    ],
)
def test_a_type_has_one_name_however_it_is_spelt(dtype: str, precision: str | None) -> None:
    assert precision_of(dtype) == precision


def test_a_tensor_of_unknown_entries_keeps_what_is_known() -> None:
    entry = {"Name": "l", "Outputs": [{"Name": "o", "Dimensions": ["many"], "Kind": 3}, "text"]}
    (found,) = read_layers(json.dumps({"Layers": [entry]}))
    assert found.outputs == (LayerTensor("o", None, None, None),)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ("", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "has no list 'Layers'"),
        ('{"Layers": 3}', "has no list 'Layers'"),
        ('{"Layers": [3]}', "a layer of an unknown form (3)"),
        ('{"Layers": [{"name": "l"}]}', "a layer of an unknown form"),
    ],
)
def test_an_answer_of_an_unknown_form_is_refused_in_one_sentence(answer: str, told: str) -> None:
    with pytest.raises(EngineError) as refused:
        read_layers(answer)
    assert told in str(refused.value)
    assert "\n" not in str(refused.value)


KEYS = st.sampled_from(
    ["Layers", "Name", "LayerType", "Inputs", "Outputs", "Metadata", "TacticName", "Dimensions", "Format/Datatype"]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS | st.text(max_size=3), inner, max_size=5),
    max_leaves=20,
)
ENTRY = st.fixed_dictionaries({"Name": st.text()}, optional={"Outputs": st.lists(JSON), "Metadata": st.text()})


@given(JSON | st.fixed_dictionaries({"Layers": st.lists(ENTRY | JSON)}))
def test_any_json_gives_records_or_one_error(answer: Any) -> None:
    try:
        layers = read_layers(json.dumps(answer))
    except EngineError:
        return
    counts = count(layers)
    assert counts.layers + counts.reformats == len(layers) == len(answer["Layers"])


@given(st.lists(st.text(st.characters(exclude_characters="\x1e", exclude_categories=["Cs"]), min_size=1), unique=True))
def test_origins_come_back_whatever_the_nodes_are_called(names: list[str]) -> None:
    names = [f"{name.replace('[ONNX EngineLayer: ', '')}_" for name in names]
    metadata = "\x1e".join(f"[ONNX Layer: {name}]" for name in names)
    (found,) = read_layers(json.dumps({"Layers": [{"Name": "l", "Metadata": metadata}]}))
    assert found.origins == tuple(dict.fromkeys(names))


def test_times_join_their_layers_and_none_is_lost() -> None:
    layers = (EngineLayer("a", "Convolution"), EngineLayer("b"))
    joined = with_times(layers, {"a": 0.5, "Reformatting CopyNode for Output": 0.25})
    assert joined == [
        (layers[0], 0.5),
        (layers[1], None),
        (EngineLayer("Reformatting CopyNode for Output", is_reformat=True), 0.25),
    ]


def test_the_profiler_gives_each_layer_the_median_of_its_runs() -> None:
    trt = real_tensorrt()
    times = make_layer_times(trt)
    assert isinstance(times, trt.IProfiler)
    for time_ms in (2.0, 9.0, 1.0):
        times.report_layer_time("a", time_ms)
    times.report_layer_time("b", 0.5)
    assert times.median_ms() == {"a": 2.0, "b": 0.5}


def write_model(path: Path, *nodes: onnx.NodeProto) -> Path:
    """Write a model with an input x, a weight w (named as an input too, as old files do), and an output y."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4]),
            helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]),
        ],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, ["batch", 4])],
        [numpy_helper.from_array(np.array([1, 2, 3, 4], np.float32), "w")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


HALVED = (
    helper.make_node("Mul", ["x", "w"], ["m"], "scale"),
    helper.make_node("Cast", ["m"], ["y"], "half", to=TensorProto.FLOAT16),
)


def test_a_parsed_network_tells_its_layers_and_their_onnx_nodes(tmp_path: Path) -> None:
    layers = parse_network(real_tensorrt(), write_model(tmp_path / "net.onnx", *HALVED))
    by_origin = {each.origins: each for each in layers if each.kind in ("ELEMENTWISE", "CAST")}
    assert by_origin["scale",].precision == "FP32"
    assert by_origin["half",].precision == "FP16"
    assert by_origin["half",].outputs[0] == LayerTensor("y", (-1, 4), "FP16", None)


def test_a_model_that_tensorrt_does_not_take_is_told_with_its_reason(tmp_path: Path) -> None:
    strange = helper.make_node("Strange", ["x"], ["y"], "odd", domain="mine")
    with pytest.raises(EngineError, match=r"model net\.onnx \(node 'odd', operator Strange: .+\); .*onnxruntime"):
        parse_network(real_tensorrt(), write_model(tmp_path / "net.onnx", strange))


def test_a_tensorrt_that_gives_no_builder_is_told(tmp_path: Path) -> None:
    def no_builder(logger: Any) -> None:
        raise TypeError("factory function returned nullptr")

    without_driver = SimpleNamespace(ILogger=real_tensorrt().ILogger, Builder=no_builder, __version__="10.3.0")
    hashable = type("Module", (), {**vars(without_driver), "Builder": staticmethod(no_builder)})
    with pytest.raises(EngineError, match=r"TensorRT 10\.3\.0 cannot read models here .*driver"):
        parse_network(hashable, tmp_path / "net.onnx")


def test_the_onnx_file_tells_its_nodes_and_tensors(tmp_path: Path) -> None:
    constant = helper.make_node("Constant", [], ["c"], value_float=1.0)
    facts = onnx_facts(write_model(tmp_path / "net.onnx", constant, *HALVED))
    assert facts.nodes == {"Mul": 1, "Cast": 1}
    assert facts.tensors == (IoTensor("x", "input", (None, 4), "FP32"), IoTensor("y", "output", (None, 4), "FP16"))


def test_the_built_in_model_has_109_nodes() -> None:
    assert sum(onnx_facts(CONVEYOR / "conveyor.onnx").nodes.values()) == 109


def test_a_file_that_is_no_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"this is text")
    with pytest.raises(ModelError, match=r"net\.onnx cannot be read"):
        onnx_facts(tmp_path / "net.onnx")


def test_without_the_package_onnx_its_name_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModelError, match=r"package onnx is not installed"):
        onnx_facts(CONVEYOR / "conveyor.onnx")
