"""A stored plan, inspected."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli.main import main
from edge.core.engine_file import MAGIC
from edge.inference import inspected_model
from edge.inference.backends.tensorrt import library as trt_library
from tests.support.absent_gpu import absent_gpu
from tests.support.inspected import NEEDS_A_GPU, look
from tests.support.project import conveyor_copy
from tests.support.real_tensorrt import real_tensorrt


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspected_model, "find_gpu", absent_gpu)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return conveyor_copy(tmp_path, "*.fp16.onnx")


@pytest.fixture
def _tensorrt() -> None:
    real_tensorrt()


@pytest.mark.usefixtures("_tensorrt")
def test_the_manifest_and_the_header_of_a_stored_plan_are_told(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = str(model / "state")
    assert main(["engines", "build", str(model), "--state-dir", state, "--max-batch", "2", "--for", "any"]) == 0
    report = look(model, capsys, "--max-batch", "2")
    assert set(report["why"]) == NEEDS_A_GPU
    assert report["plan"]["built"]["profile"]["images"]["max"][0] == 2
    assert report["plan"]["sha256"]
    trt = trt_library.load_tensorrt()
    assert report["header"]["version"].startswith(trt.__version__.rsplit(".", 1)[0])
    assert report["header"]["magic"] in {magic.decode() for magic in MAGIC.values()}
    assert "plan" in look(model, capsys)["why"], "batches of 4 were not built"
