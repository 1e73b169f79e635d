"""`edge engines verify` with a builder process."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.inference.admission import read_entries
from tests.support.emulated_engines import emulated_gpu
from tests.support.verified import SCENE, quantized_conveyor, verify


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_conveyor(tmp_path_factory.mktemp("quantized"))


@pytest.fixture
def model(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "conveyor"))


def test_a_gpu_has_an_entry_of_its_own(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(capsys, model, "--frames", SCENE, "--count", "4", "--precision", "fp16")
    (model / "conveyor.int8-cpu.onnx").rename(model / "conveyor.int8.onnx")
    with emulated_gpu():
        found = verify(capsys, model, "--frames", SCENE, "--count", "4", "--precision", "fp16")
        int8 = verify(capsys, model, "--frames", SCENE, "--count", "4")
    assert (found["backend"], found["instructions"]) == ("trt", None)
    assert found["library"].startswith("tensorrt ")
    assert "sm_" in found["gpu"]
    assert int8["backend"] == "trt"
    entries = read_entries(model / "conveyor.onnx", model)
    assert sorted((each.backend, each.precision) for each in entries) == [
        ("ort-cpu", "fp16"),
        ("trt", "fp16"),
        ("trt", "int8"),
    ]
