"""`edge engines inspect`: its answer without a GPU, with one, and the reasons for gaps."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.cli.main import main
from edge.inference import inspected_model
from edge.inference.backends.tensorrt import library as trt_library
from tests.support.absent_gpu import NO_GPU, absent_gpu
from tests.support.inspected import NEEDS_A_GPU, SAMPLES, TIMES_MS, answer_of, look, put_plan_on_gpu
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


def look_at_tables(model: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    capsys.readouterr()
    assert main(["engines", "inspect", str(model), "--state-dir", str(model / "state"), *options]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("_tensorrt")
def test_without_a_gpu_the_network_is_told_and_the_rest_is_null_with_the_reason(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = look(model, capsys)
    assert [(each["name"], each["mode"], each["shape"]) for each in report["tensors"]] == [
        ("images", "input", [None, 3, 320, 320]),
        ("output", "output", [None, 10, 2100]),
    ]
    assert report["onnx_nodes"]["by_operator"]["Conv"] == 42
    assert report["network"]["by_kind"]["CONVOLUTION"] == 42
    assert {each["precision"] for each in report["network"]["layers"] if each["kind"] == "CONVOLUTION"} == {"FP16"}
    assert {name for name, reason in report["why"].items() if reason == NO_GPU} == NEEDS_A_GPU
    assert "precision fp16, device gpu and batches up to 4" in report["why"]["plan"]
    assert "edge engines build" in report["why"]["plan"]


@pytest.mark.usefixtures("_tensorrt")
def test_precision_fp32_leaves_the_network_as_it_is(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "FP16" not in look(model, capsys, "--precision", "fp32")["network"]["by_precision"]


def test_without_tensorrt_the_onnx_file_is_told(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt_library, "MODULES", ())
    report = look(model, capsys)
    assert report["onnx_nodes"]["count"] == 109
    assert set(report["why"]) == {"network", "plan", "header", *NEEDS_A_GPU}
    assert "TensorRT is not installed" in report["why"]["network"]


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("sample", [path.stem for path in sorted(SAMPLES.glob("*.json"))])
def test_with_a_gpu_nothing_is_null_in_any_form_of_the_answer(
    sample: str, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_plan_on_gpu(model, monkeypatch, answer_of(sample), TIMES_MS)
    report = look(model, capsys)
    assert report["why"] == {}
    assert report["device_memory_bytes"] == 12_000_000
    assert report["tensors"][0]["dtype"] == "FP16"
    assert {each["name"]: each["time_ms"] for each in report["layers"]["layers"]}.items() >= TIMES_MS.items()


@pytest.mark.usefixtures("_tensorrt")
def test_what_a_plan_does_not_tell_is_null_with_its_own_reason(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    put_plan_on_gpu(model, monkeypatch, None, None)
    assert set(look(model, capsys)["why"]) == {"layers", "layer_times_ms"}


@pytest.mark.usefixtures("_tensorrt")
@pytest.mark.parametrize("columns", [80, 150])
def test_the_tables_tell_it_to_people_in_the_width_of_their_terminal(
    columns: int, model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    without_gpu = look_at_tables(model, capsys)
    assert "Layers before fusion" in without_gpu
    assert "not available here: GPU memory, layers after fusion, time by layer: no GPU here" in without_gpu
    put_plan_on_gpu(model, monkeypatch, answer_of("trt-10.3-detailed"), TIMES_MS)
    with_gpu = look_at_tables(model, capsys)
    for told in ("Reformat", "0.750", "12.0 MB", "1 FP16, 1", "/stem/Conv", "12 layers; on the GPU: /head/TopK"):
        assert told in with_gpu
    for untold in ("not available", "Layers before fusion"):
        assert untold not in with_gpu
    assert max(len(line) for line in (without_gpu + with_gpu).splitlines()) <= columns


def test_a_model_that_is_not_there_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["engines", "inspect", "nowhere"]) == 2
    assert "'nowhere'" in capsys.readouterr().err
