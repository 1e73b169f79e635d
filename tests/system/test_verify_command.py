"""`edge engines verify` with a builder process."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from edge.inference.admission import FILE, read_entries
from tests.support.emulated_engines import emulated_gpu
from tests.support.project import CONVEYOR
from tests.support.quantized import quantize
from tests.support.verified import scene, verify

SCENE = "synthetic://conveyor?seed=11&frames=400&size=320x240"


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a copy of the built-in model with an INT8 form whose convolutions alone are quantized."""
    folder = tmp_path_factory.mktemp("quantized") / "conveyor"
    shutil.copytree(CONVEYOR, folder, ignore=shutil.ignore_patterns("*.fp16.onnx", "*.int8*", "*.py", FILE))
    rows = []
    for number in range(6):
        row = np.full((320, 320, 3), 114, np.uint8)
        row[:240] = scene(number)[0]
        rows.append(row.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    quantize(folder / "conveyor.onnx", rows, "int8-cpu", op_types_to_quantize=["Conv"])
    quantize(folder / "conveyor.onnx", rows, "naive")
    return folder


@pytest.fixture
def model(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "conveyor"))


@pytest.fixture
def naive(model: Path) -> Path:
    """Give the model with an INT8 form that has lost its scores: they share a tensor with the boxes."""
    (model / "conveyor.naive.onnx").replace(model / "conveyor.int8-cpu.onnx")
    return model


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
