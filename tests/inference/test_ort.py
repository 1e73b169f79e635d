"""ONNX Runtime as an engine: its label, and its errors for files that it cannot run."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper

from edge.core.errors import EngineError, ModelError
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
