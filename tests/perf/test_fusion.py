"""Layers before and after fusion: counted alike from each source, and told beside the published numbers."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console

from edge.core.errors import EngineError, ModelError
from edge.inference import inspected_model
from edge.inference.backends.ort_profile import profile_layers, read_profile
from edge.inference.backends.tensorrt import library as trt_library
from edge.perf.bench import fusion as fusion_module
from edge.perf.bench.fusion import PUBLISHED, Fusion, fusion, show_fusion
from edge.perf.bench.networks import find, write
from edge.perf.bench.networks.catalog import graph_of
from tests.support.absent_gpu import absent_gpu
from tests.support.inspected import GPU, SAMPLES, TIMES_MS, answer_of, put_plan_on_gpu
from tests.support.project import conveyor_copy
from tests.support.real_tensorrt import real_tensorrt

MANIFEST = """
task = "classify"
onnx = "{onnx}"
[output]
decoder = "topk"
"""


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (inspected_model, fusion_module):
        monkeypatch.setattr(module, "find_gpu", absent_gpu)


@pytest.fixture
def _tensorrt() -> None:
    real_tensorrt()


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Return a model of five nodes that ONNX Runtime makes three of: Conv + BatchNormalization + Relu are one."""
    return save_small(tmp_path / "small", "small.onnx")


def save_small(folder: Path, name: str) -> Path:
    folder.mkdir()
    weights = {"w": (8, 3, 3, 3), "scale": (8,), "shift": (8,), "mean": (8,), "variance": (8,)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="conv", pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "variance"], ["n"], name="norm"),
        helper.make_node("Relu", ["n"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["y"], name="flatten"),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 8])],
        [helper.make_tensor(key, TensorProto.FLOAT, shape, [0.5] * prod(shape)) for key, shape in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / name)
    (folder / "model.toml").write_text(MANIFEST.format(onnx=name), encoding="utf-8")
    return folder


def told(found: Fusion, columns: int = 100) -> str:
    console = Console(width=columns)
    with console.capture() as captured:
        show_fusion(found, console)
    return captured.get()


def test_what_onnx_runtime_fuses_is_counted_as_one_layer(small: Path, tmp_path: Path) -> None:
    found = fusion(small, "fp32", tmp_path / "state")
    assert found.network == "small"
    assert found.onnx_layers == 5
    assert found.built is not None
    document = found.to_json()["built"]
    assert document["count"] == 3
    assert document["by_kind"] == {"Conv": 1, "GlobalAveragePool": 1, "Flatten": 1}
    assert document["by_precision"] == {"FP32": 3}
    assert document["source"].startswith("ONNX Runtime ")
    assert {each["time_ms"] for each in document["layers"]} == {None}
    assert "no GPU here" in found.why["inspector"] or "TensorRT is not installed" in found.why["inspector"]
    assert found.published is None


def test_reformats_are_counted_apart_from_layers(small: Path, tmp_path: Path) -> None:
    layers = profile_layers(small / "small.onnx", tmp_path / "scratch")
    reformats = {each.kind for each in layers if each.is_reformat}
    assert reformats <= {"ReorderInput", "ReorderOutput"}, "which there are depends on the processor"
    assert not list((tmp_path / "scratch").iterdir()), "the profile is removed"


@pytest.mark.usefixtures("_tensorrt")
def test_nvidias_parser_tells_each_node_of_the_file_and_constants_apart(small: Path, tmp_path: Path) -> None:
    found = fusion(small, "fp32", tmp_path / "state")
    assert found.parsed is not None
    document = found.to_json()["parsed"]
    assert "TensorRT" in document["source"]
    assert document["by_kind"]["CONVOLUTION"] == 1
    assert "CONSTANT" not in document["by_kind"]
    assert document["count"] >= 5
    assert set(found.why) == {"inspector"}


def test_without_tensorrt_the_rest_is_told(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_library, "MODULES", ())
    found = fusion(small, "fp32", tmp_path / "state")
    assert found.to_json()["parsed"] is None
    assert set(found.why) == {"parsed", "inspector"}
    assert found.built is not None
    assert "TensorRT is not installed" in " ".join(told(found).split())


def test_an_int8_form_that_is_not_there_is_the_reason_of_all_that_needs_it(small: Path, tmp_path: Path) -> None:
    found = fusion(small, "int8", tmp_path / "state")
    assert found.built is None
    assert "quantize first" in found.why["built"]
    assert found.onnx_layers == 5, "that is the FP32 file's"


def test_a_published_network_stands_beside_its_published_layers(tmp_path: Path) -> None:
    found = fusion(save_small(tmp_path / "any", "vgg19.onnx"), "fp32", tmp_path / "state")
    assert found.network == "VGG-19"
    published = found.to_json()["published"]
    assert (published["before"], published["after"]) == (43, 27)
    text = told(found)
    for shown in ("43", "27", "do not include the Flatten"):
        assert shown in text


def test_published_counts_follow_from_the_layers_of_the_papers() -> None:
    """Ours have one Flatten more; ResNet-152 is counted with two layers for each normalisation."""
    nodes = {name: Counter(node.op for node in graph_of(name).nodes) for name in PUBLISHED}
    for name, counts in nodes.items():
        twice = counts["BatchNormalization"] if name == "ResNet-152" else 0
        assert counts.total() - counts["Flatten"] + twice == PUBLISHED[name].before


def test_mobilenet_loses_its_normalisations_and_activations(tmp_path: Path) -> None:
    found = fusion(write(find("MobileNet-v2"), tmp_path / "networks"), "fp32", tmp_path / "state")
    assert found.operators is not None
    assert found.built is not None
    built = found.to_json()["built"]
    assert found.onnx_layers == sum(found.operators.values())
    assert built["by_kind"]["Conv"] == found.operators["Conv"] == 52
    assert not {"BatchNormalization", "Clip", "Relu"} & set(built["by_kind"]), "they are in the convolutions"
    assert built["count"] <= 52 + found.operators["Add"] + 4


def put_fusion_on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fusion_module, "find_gpu", lambda: GPU)
    # The plan that test_inspect.py stores is for batches up to 4.
    monkeypatch.setattr(
        fusion_module,
        "InspectedModel",
        lambda onnx, precision, _, *others: inspected_model.InspectedModel(onnx, precision, 4, *others),
    )


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("sample", [path.stem for path in sorted(SAMPLES.glob("*.json"))])
def test_on_a_gpu_the_inspector_tells_layers_precision_and_time(
    sample: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conveyor_copy(tmp_path, "*.fp16.onnx")
    put_plan_on_gpu(folder, monkeypatch, answer_of(sample), TIMES_MS)
    put_fusion_on_gpu(monkeypatch)
    found = fusion(folder, "fp16", folder / "state")
    assert dict(found.why) == {}
    built = found.to_json()["built"]
    assert "engine inspector" in built["source"]
    assert {each["name"]: each["time_ms"] for each in built["layers"]}.items() >= TIMES_MS.items()
    assert "0.750" in told(found)


@pytest.mark.usefixtures("_tensorrt")
def test_on_a_gpu_a_plan_that_is_not_kept_is_built_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = conveyor_copy(tmp_path)
    monkeypatch.setattr(inspected_model, "find_gpu", lambda: GPU)
    put_fusion_on_gpu(monkeypatch)
    built: list[str] = []

    class Builder:
        """Stands for the building, which needs a GPU."""

        def __init__(self, *_: object, **__: object) -> None:
            pass

        def open_or_build(self, precision: str) -> ExitStack:
            built.append(precision)
            put_plan_on_gpu(folder, monkeypatch, answer_of("trt-10.3-detailed"), TIMES_MS)
            return ExitStack()

    monkeypatch.setattr(fusion_module, "make_provider", Builder)
    for _ in range(2):
        found = fusion(folder, "fp16", folder / "state")
        assert dict(found.why) == {}
    assert built == ["fp16"], "the second time it is kept"


@pytest.mark.parametrize("columns", [80, 150])
def test_the_tables_fit_their_terminal_and_say_what_a_layer_is(columns: int, small: Path, tmp_path: Path) -> None:
    text = told(fusion(small, "fp32", tmp_path / "state"), columns)
    assert "Layers counted: in the ONNX file, every node but constants" in text
    assert max(len(line) for line in text.splitlines()) <= columns


def test_a_model_that_onnx_runtime_cannot_open_is_told(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(ModelError, match=r"broken\.onnx cannot be loaded"):
        profile_layers(tmp_path / "broken.onnx", tmp_path)


def test_a_scratch_folder_that_cannot_be_made_is_told(small: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EngineError, match=r"file/scratch cannot be written"):
        profile_layers(small / "small.onnx", tmp_path / "file" / "scratch")


def test_what_a_loop_runs_several_times_is_one_layer(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["go"], ["goes_on"], name="on"),
            helper.make_node("Sin", ["before"], ["after"], name="sine"),
        ],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, ["N", 4]),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, ["N", 4]),
        ],
    )
    shape: list[str | int | None] = ["N", 4]
    graph = helper.make_graph(
        [helper.make_node("Loop", ["turns", "", "x"], ["y"], name="loop", body=body)],
        "looped",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(np.array(5, np.int64), "turns")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "l.onnx")
    kinds = [each.kind for each in profile_layers(tmp_path / "l.onnx", tmp_path)]
    assert kinds.count("Sin") == 1
    assert kinds.count("Loop") == 1


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=6,
)
events = st.fixed_dictionaries(
    {},
    optional={
        "name": json_values | st.just("conv_kernel_time"),
        "args": json_values
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(("op_name", "output_type_shape", "node_index"), json_values)
        ),
    },
)


@given(st.lists(events | json_values, max_size=4) | json_values)
def test_any_profile_is_read_or_refused_in_a_sentence(profile: Any) -> None:
    try:
        layers = read_profile(json.dumps(profile))
    except EngineError:
        return
    assert all(layer.name == "conv" for layer in layers)
    assert layers
