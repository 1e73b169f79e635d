"""`edge engines build` with its builder process."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from pathlib import Path

import psutil
import pytest

from edge.cli.main import INTERRUPTED, main
from edge.core.config import EnginesSettings, ModelSettings
from edge.inference import engine_provider, plan_build
from edge.inference.backends.tensorrt.library import library_name
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.served_model import ServedModel
from tests.support import stand_in_tensorrt
from tests.support.absent_gpu import absent_gpu
from tests.support.plan_samples import ORIN
from tests.support.process import Child, clean_environment
from tests.support.project import ROOT, conveyor_copy
from tests.support.real_tensorrt import real_tensorrt
from tests.support.waiting import eventually

FOR_ANY = ("--for", "any")  # GPU: there may be none here


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Give a copy of the built-in model, as its FP16 form is written beside it."""
    return conveyor_copy(tmp_path, "*.fp16.onnx", "*.py")


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have TensorRT-RTX and no GPU; skip the test where the library is another one."""
    if library_name(real_tensorrt()) != "tensorrt-rtx":
        pytest.skip("the installed TensorRT builds for a GPU only")
    monkeypatch.setattr(plan_build, "find_gpu", absent_gpu)


def printed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main([str(each) for each in arguments]) == 0
    return capsys.readouterr().out


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_is_built_kept_and_found_again(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ("engines", "build", model, "--state-dir", tmp_path / "state", "--max-batch", "2", *FOR_ANY)
    text = printed(capsys, *command)
    (path,) = (tmp_path / "state" / "plans").glob("conveyor-*.plan")
    for part in (f"built: {path}", "MB, ", "network layers, built in ", "tensorrt-rtx", "for any GPU that it supports"):
        assert part in text
    found = json.loads(printed(capsys, *command, "--json"))
    assert (found["plan"], found["built_now"], found["size"]) == (str(path), False, path.stat().st_size)
    assert (found["key"]["precision"], found["key"]["gpu"]) == ("fp16", None)
    assert next(iter(found["built"]["profile"].values()))["max"][0] == 2


@pytest.mark.usefixtures("no_gpu")
def test_json_is_one_document_and_a_damaged_plan_is_built_anew(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "engines",
        "build",
        model,
        "--state-dir",
        tmp_path / "state",
        "--precision",
        "fp32",
        "--json",
        *FOR_ANY,
    )
    first = json.loads(printed(capsys, *command))
    assert first["built_now"]
    Path(first["plan"]).write_bytes(b"vtrt")
    second = json.loads(printed(capsys, *command))
    assert second["built_now"]
    assert Path(second["plan"]).stat().st_size == second["size"] > 1000


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_for_other_machines_changes_nothing_here(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(engine_provider, "open_device", absent_gpu)
    state = tmp_path / "state"
    assert main(["engines", "build", str(model), "--state-dir", str(state)]) == 1
    assert "`--for any`" in capsys.readouterr().err
    assert not list(state.rglob("*.plan"))
    printed(capsys, "engines", "build", model, "--state-dir", state, *FOR_ANY)
    settings = ModelSettings.model_validate({"path": str(model)})
    served = ServedModel("conveyor", settings, EngineEnvironment(state, "a board", EnginesSettings()))
    assert served.engine.label.startswith("ort-cpu/")
    assert served.missing_reason is None


@pytest.mark.usefixtures("no_gpu")
def test_what_cannot_be_built_is_told_in_a_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["engines", "build", str(model), "--state-dir", str(tmp_path / "state"), "--device", "dla0", *FOR_ANY])
        == 1
    )
    assert "device 'dla0' cannot be used" in capsys.readouterr().err


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder in which the stand-in is a module that is found before any installed one."""
    modules = tmp_path / "modules"
    modules.mkdir()
    for name in ("tensorrt", "tensorrt_rtx"):
        shutil.copy(stand_in_tensorrt.__file__, modules / f"{name}.py")
    monkeypatch.setenv("PYTHONPATH", f"{modules}:{ROOT}")
    monkeypatch.delenv("STAND_IN", raising=False)
    return modules


def test_a_dlas_layers_and_those_left_to_the_gpu_are_told(
    model: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(stand_in))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(plan_build, "find_gpu", lambda: ORIN)
    text = printed(capsys, "engines", "build", model, "--state-dir", tmp_path / "state", "--device", "dla1")
    sys.modules.pop("tensorrt")
    assert "for Orin, compute capability 8.7, on " in text
    assert "2 layers on the DLA, 1 on the GPU: resize" in text
    assert "no GPU" not in text


def test_ctrl_c_ends_command_and_builder(
    model: Path, tmp_path: Path, stand_in: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (stand_in / "tensorrt.py").unlink()
    monkeypatch.setenv("STAND_IN", "hang")
    arguments = ("engines", "build", model, "--precision", "fp32", *FOR_ANY, "--state-dir", tmp_path / "state")
    child = Child([sys.executable, "-m", "edge", *arguments], tmp_path, "build", clean_environment())
    child.start()
    try:
        eventually(lambda: bool(busy_builders(child)), "the builder is at work")
        builders = busy_builders(child)
        assert child.end(signal.SIGINT) == INTERRUPTED, child.log
    finally:
        child.kill()
    assert not any(each.is_running() for each in builders)
    assert not list((tmp_path / "state").rglob("*.plan"))


def busy_builders(child: Child) -> list[psutil.Process]:
    """Return the builders that have stood back already, so are past their start."""
    return [each for each in psutil.Process(child.process.pid).children() if each.nice() == 19]


@pytest.mark.usefixtures("no_gpu")
def test_a_plan_that_cannot_be_kept_is_a_failure(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "plans").write_text("in the way", encoding="utf-8")
    arguments = ["engines", "build", str(model), "--precision", "fp32", *FOR_ANY]
    assert main([*arguments, "--state-dir", str(tmp_path / "state")]) == 1
    assert "cannot be stored in" in capsys.readouterr().err
