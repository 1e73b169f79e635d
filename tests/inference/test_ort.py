"""ONNX Runtime as an engine: its label, and its errors for files that it cannot run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.core.errors import EngineError, ModelError
from edge.core.manifest import InputSettings
from edge.inference.backends.ort import OrtEngine, _with_fallbacks, best_provider
from tests.support.small_models import FLOAT, Shape, identity, numbers, reshaping, save


def refusal(path: Path) -> str:
    with pytest.raises(ModelError) as raised:
        OrtEngine(path, threads=1)
    assert len(str(raised.value).splitlines()) == 1
    assert str(path) in str(raised.value)
    return str(raised.value)


def test_the_label_names_backend_precision_and_file(tmp_path: Path) -> None:
    path = identity(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    backend, precision, shown = OrtEngine(path, threads=1).label.split("/")
    assert (backend, precision) == ("ort-cpu", "fp32")
    assert digest.startswith(shown)
    assert len(shown) >= 8


@pytest.mark.parametrize("content", [b"", b"a text file\n", bytes(1000)])
def test_a_file_that_is_no_model_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    told = refusal(tmp_path / "m.onnx")
    assert "cannot be loaded" in told
    assert "wanted a complete ONNX file: fetch or export it again" in told


def test_a_truncated_model_is_a_sentence(tmp_path: Path) -> None:
    path = identity(tmp_path)
    path.write_bytes(path.read_bytes()[:-20])
    assert "cannot be loaded" in refusal(path)


def test_a_model_that_is_not_there_is_a_sentence(tmp_path: Path) -> None:
    assert "cannot be loaded" in refusal(tmp_path / "none.onnx")


def test_a_model_without_an_input_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    assert "input" in refusal(save(tmp_path, [node], {}, {"y": (FLOAT, [2])}))


def test_an_input_without_a_batch_axis_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Identity", ["x"], ["y"])
    assert "'x'" in refusal(save(tmp_path, [node], {"x": []}, {"y": (FLOAT, [])}))


def test_a_tensor_of_text_is_a_sentence(tmp_path: Path) -> None:
    node = helper.make_node("Constant", [], ["y"], value_strings=["a"])
    keep = helper.make_node("Identity", ["x"], ["z"])
    outputs: dict[str, tuple[Any, Shape]] = {"z": (FLOAT, ["N"]), "y": (TensorProto.STRING, [1])}
    told = refusal(save(tmp_path, [node, keep], {"x": ["N"]}, outputs))
    assert "tensor 'y' is of type tensor(string); wanted a numeric tensor" in told


def test_a_model_without_outputs_is_a_sentence(tmp_path: Path) -> None:
    graph = helper.make_graph([], "none", [helper.make_tensor_value_info("x", FLOAT, [1, 3, 8, 8])], [])
    path = tmp_path / "none.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString())
    assert "has no outputs; wanted a model that returns what it finds" in refusal(path)


def versioned(folder: Path, *, opset: int = 17, ir: int = 8, node: Any = None) -> Path:
    values = [helper.make_tensor_value_info(name, FLOAT, ["N", 3, 2, 2]) for name in ("x", "y")]
    graph = helper.make_graph([node or helper.make_node("Relu", ["x"], ["y"])], "small", values[:1], values[1:])
    opsets = [helper.make_opsetid("", opset), *([helper.make_opsetid(node.domain, 1)] if node else [])]
    path = folder / "versioned.onnx"
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=ir).SerializeToString())
    return path


def test_a_file_from_the_future_is_told_the_version_that_it_needs_and_the_one_that_is_there(tmp_path: Path) -> None:
    installed = f"ONNX Runtime {onnxruntime.__version__}, which is installed,"
    told = refusal(versioned(tmp_path, ir=99))
    assert "has IR version 99" in told
    assert f"{installed} reads up to " in told
    told = refusal(versioned(tmp_path, opset=99))
    assert "has opset 99" in told
    assert f"{installed} knows up to " in told
    assert "fetch" not in told


@pytest.mark.parametrize(
    ("domain", "operator", "told"),
    [
        ("TRT", "EfficientNMS_TRT", "EfficientNMS_TRT, which only TensorRT can run: this machine's ONNX Runtime"),
        ("", "BatchedNMSDynamic_TRT", "BatchedNMSDynamic_TRT, which only TensorRT can run"),
        ("mmdeploy", "grid_sampler", "uses mmdeploy:grid_sampler, which ONNX Runtime"),
        ("", "Sponge", "uses Sponge, which ONNX Runtime"),
    ],
)
def test_an_unknown_operator_is_told_with_whoever_knows_it(
    domain: str, operator: str, told: str, tmp_path: Path
) -> None:
    refused = refusal(versioned(tmp_path, node=helper.make_node(operator, ["x"], ["y"], domain=domain)))
    assert told in refused
    assert "fetch" not in refused
    assert "export" in refused


def test_a_size_that_a_model_does_not_take_is_told_with_the_key_that_sets_it(tmp_path: Path) -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    path = save(tmp_path, [node], {"x": ["N", 3, "h", "v"], "w": [1, 3, 8, 8]}, {"y": (FLOAT, ["N", 3, 8, 8])})
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 3, 8, 8), np.float32), "w"))
    onnx.save(model, path)
    assert OrtEngine(path, threads=1, inputs=InputSettings(size=(8, 8))).fixed_batch is None
    with pytest.raises(ModelError, match=r"does not take an input with h = 16, v = 16 .*; give the size that it was"):
        OrtEngine(path, threads=1, inputs=InputSettings(size=(16, 16)))


def with_external_data(folder: Path, value: float = 0.5) -> Path:
    nodes = [helper.make_node("Mul", ["x", "w"], ["y"])]
    path = save(folder, nodes, {"x": ["N", 2], "w": [2]}, {"y": (FLOAT, ["N", 2])})
    model = onnx.load(path)
    model.graph.initializer.append(numpy_helper.from_array(np.full(2, value, np.float32), "w"))
    (folder / "small.onnx.data").unlink(missing_ok=True)
    onnx.save(model, path, save_as_external_data=True, location="small.onnx.data", size_threshold=0)
    return path


def test_external_data_is_part_of_the_model(tmp_path: Path) -> None:
    label = OrtEngine(with_external_data(tmp_path, 0.5), threads=1).label
    path = with_external_data(tmp_path, 0.25)
    assert OrtEngine(path, threads=1).label != label
    (tmp_path / "small.onnx.data").unlink()
    told = refusal(path)
    assert f"{str(tmp_path / 'small.onnx.data')!r} does not exist" in told
    assert "copy it next to small.onnx" in told


def test_an_engine_that_fails_while_it_runs_says_so_and_runs_on(tmp_path: Path) -> None:
    with OrtEngine(reshaping(tmp_path), threads=1).make_context(3) as context:
        with pytest.raises(EngineError, match="failed on a batch of 3: ") as raised:
            context.infer(3)
        assert len(str(raised.value).splitlines()) == 1
        context.inputs["x"][:] = numbers((3, 6))
        context.infer(2)
        assert np.array_equal(context.outputs["y"], numbers((3, 6))[:2])


@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider'")  # which is the case to show
def test_a_provider_that_falls_back_to_the_cpu_is_no_engine_of_the_gpu(tmp_path: Path) -> None:
    """ONNX Runtime would run on the CPU under the name of the GPU."""
    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this build of ONNX Runtime has the CUDA provider")
    assert best_provider(("tensorrt", "cuda")) is None
    assert best_provider(("cuda", "cpu")) == "cpu"
    with pytest.raises(ModelError, match="cannot run on ONNX Runtime's CUDAExecutionProvider") as raised:
        OrtEngine(identity(tmp_path), threads=1, provider="cuda")
    assert "it would run on CPUExecutionProvider" in str(raised.value)


def test_what_a_provider_leaves_is_taken_by_the_next(tmp_path: Path) -> None:
    names = [name for name, _ in _with_fallbacks("tensorrt", tmp_path)]
    assert names == ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    assert _with_fallbacks("cpu", None) == [("CPUExecutionProvider", {})]
    (_, options), *_ = _with_fallbacks("tensorrt", tmp_path)
    assert options["trt_engine_cache_path"] == str(tmp_path)
