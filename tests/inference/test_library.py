"""TensorRT's answers, read alike by the builder and the engine."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import EngineError
from edge.inference import engine_provider
from edge.inference.backends.tensorrt import library
from edge.inference.backends.tensorrt.library import is_out_of_memory
from edge.inference.engine_provider import EngineEnvironment, EngineProvider
from tests.support.project import CONVEYOR


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("[defaultAllocator.cpp] Requested size could not be allocated", True),
        ("CUDA runtime error: out of memory", True),
        ("OutOfMemory (Requested size was 4096)", True),
        ("std::bad_alloc", True),
        ("no implementation for node conv", False),
        ("", False),
    ],
)
def test_out_of_memory_is_recognised_in_each_of_its_wordings(reason: str, *, expected: bool) -> None:
    assert is_out_of_memory(reason) is expected


def test_tensorrt_is_not_imported_where_there_is_no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tensorrt.py").write_text("raise SystemExit('TensorRT was imported')", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)

    def no_device() -> None:
        raise EngineError("no GPU can be used: there is none")

    monkeypatch.setattr(engine_provider, "open_device", no_device)
    settings = ModelSettings.model_validate({"path": str(CONVEYOR)})
    environment = EngineEnvironment(tmp_path, "a board", EnginesSettings())
    provider = EngineProvider(
        CONVEYOR / "conveyor.onnx", settings, environment, 1, reading_sha256="", min_agreement=0.95
    )
    assert provider.why_not_tensorrt() == "no GPU can be used: there is none"


def test_a_missing_tensorrt_is_told_before_a_missing_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "MODULES", ("no_such_module",))
    with pytest.raises(EngineError, match="TensorRT is not installed"):
        library.check_installed()
