"""A stored plan, inspected."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from edge.cli.main import main
from edge.core.errors import EngineError
from edge.inference import inspected_model
from edge.inference.backends.cuda import Gpu
from edge.inference.backends.tensorrt import library as trt_library
from edge.inference.backends.tensorrt.plan_store import MAGIC
from tests.support.inspected import look
from tests.support.project import CONVEYOR

NO_GPU = "no GPU here"
NEEDS_A_GPU = {"device_memory_bytes", "layers", "layer_times_ms"}


@pytest.fixture(autouse=True)
def _without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_gpu() -> Gpu:
        raise EngineError(NO_GPU)

    monkeypatch.setattr(inspected_model, "find_gpu", find_gpu)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return a copy of the built-in model, beside which files may be made."""
    return Path(shutil.copytree(CONVEYOR, tmp_path / "conveyor", ignore=shutil.ignore_patterns("*.fp16.onnx")))


@pytest.fixture
def _tensorrt() -> None:
    try:
        trt_library.load_tensorrt()
    except EngineError as error:
        pytest.skip(str(error))


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
