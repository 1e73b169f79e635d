"""A TensorRT engine file as a model, on the emulation: added, served, refused, and with its ONNX file as fallback."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.cli.main import main
from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import ModelError
from edge.core.manifest import find_model, read_labels, read_manifest
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.served_model import ServedModel
from tests.support.emulated_engines import build_plan_here, emulated_gpu
from tests.support.small_models import FLOAT, Shape

METADATA = {"task": "detect", "imgsz": [48, 64], "names": {"0": "red", "1": "green"}}
# Corners in pixels of the input, and classes; best first.
FOUND = [([10.0, 12.0, 30.0, 40.0], 1), ([40.0, 4.0, 60.0, 20.0], 0)]


def detector(folder: Path, batch: int | str = "N", size: tuple[int | str, int | str] = (48, 64)) -> Path:
    """Write a detector that finds the same boxes in every picture, as rows of corners, score and class."""
    rows = np.zeros((1, 300, 6), np.float32)
    for row, (box, class_id) in enumerate(FOUND):
        rows[0, row] = (*box, 0.9 - row / 10, class_id)
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=1),
        helper.make_node("Mul", ["mean", "zero"], ["nothing"]),
        helper.make_node("Squeeze", ["nothing", "axis"], ["flat"]),
        helper.make_node("Add", ["flat", "rows"], ["output0"]),
    ]
    shape: Shape = [batch, 3, *size]
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("images", FLOAT, shape)],
        [helper.make_tensor_value_info("output0", FLOAT, [batch, 300, 6])],
        [
            helper.make_tensor("zero", FLOAT, [], [0.0]),
            helper.make_tensor("axis", TensorProto.INT64, [1], [3]),
            helper.make_tensor("rows", FLOAT, rows.shape, rows.ravel()),
        ],
    )
    path = folder / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def emulation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.chdir(tmp_path)
    with emulated_gpu() as module:
        yield module


def engine_file(onnx_file: Path, *, metadata: dict[str, Any] | None = None, max_batch: int = 4) -> Path:
    """Build a plan as trtexec does, or with metadata as Ultralytics writes it."""
    plan = build_plan_here(onnx_file, onnx_file.parent, max_batch)
    text = json.dumps(metadata).encode() if metadata else b""
    path = onnx_file.with_suffix(".engine")
    path.write_bytes((len(text).to_bytes(4, "little") + text if text else b"") + plan)
    return path


def served(name: str, **settings: Any) -> ServedModel:
    keys = {"path": str(find_model(name)), "max_batch": 8, "lanes": 1} | settings
    environment = EngineEnvironment(Path("state").resolve(), "a board", EnginesSettings())
    return ServedModel(name, ModelSettings.model_validate(keys), environment)


def found_by(model: ServedModel) -> list[tuple[list[float], int]]:
    with model.predictor.session() as session:
        session.warm_up()
        findings = session.predict(np.full((48, 64, 3), 90, np.uint8))
    return [(findings.boxes[row].tolist(), int(findings.class_ids[row])) for row in range(len(findings.scores))]  # type: ignore[union-attr]


def test_an_engine_file_is_added_and_served_as_it_is(
    emulation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engine_file(detector(tmp_path), metadata=METADATA)
    assert main(["engines", "add", "net.engine"]) == 0
    assert "built by TensorRT 10.3.0.30" in capsys.readouterr().out
    folder = Path("engines/net")
    manifest = read_manifest(folder)
    assert (manifest.engine, manifest.onnx) == ("net.engine", "")
    assert read_labels(folder, manifest) == ("red", "green")
    assert (folder / "net.engine").read_bytes() == path.read_bytes()
    model = served("net")
    assert model.engine.label == f"trt/engine/{manifest.engine_sha256[:12]}"  # type: ignore[index]
    assert (model.missing_reason, model.max_batch) == (None, 4)  # the plan's own largest
    assert found_by(model) == FOUND
    model.close()
    assert find_model("engines/net/net.engine") == folder
    assert main(["engines", "list", "--json"]) == 0
    listed = {each["name"]: each for each in json.loads(capsys.readouterr().out)}
    assert (listed["net"]["problem"], listed["net"]["labels"]) == (None, 2)
    cv2.imwrite("picture.png", np.full((48, 64, 3), 90, np.uint8))
    assert main(["detect", "net", "picture.png"]) == 0
    assert json.loads(capsys.readouterr().out)["detections"][0]["label"] == "green"


def test_what_was_not_added_or_was_changed_since_is_never_loaded(emulation: Any, tmp_path: Path) -> None:
    engine_file(detector(tmp_path))
    assert main(["engines", "add", "net.engine"]) == 0
    copy = Path("engines/net/net.engine")
    copy.chmod(0o666)
    with pytest.raises(ModelError, match="that no one else may write: an engine file is code"):
        served("net")
    copy.chmod(0o644)
    copy.write_bytes(copy.read_bytes() + b"x")
    with pytest.raises(ModelError, match="only the one that was added is loaded"):
        served("net")


def test_an_engine_file_of_another_version_or_gpu_is_refused_by_both_names(emulation: Any, tmp_path: Path) -> None:
    path = engine_file(detector(tmp_path))
    assert main(["engines", "add", "net.engine"]) == 0
    other = bytearray(path.read_bytes())
    other[24] = 8
    Path("old.engine").write_bytes(other)
    Path("rtx.engine").write_bytes(b"vtrt" + path.read_bytes()[4:])
    with emulated_gpu(device="thor"), pytest.raises(ModelError) as raised:
        served("net")
    assert "was built for a GPU of compute capability 8.7, and this machine's" in str(raised.value)
    assert "has 11.0" in str(raised.value)


@pytest.mark.parametrize(
    ("magic", "version", "told"),
    [
        (b"ftrt", (8, 6, 1, 6), "was built by TensorRT 8.6.1.6, and TensorRT 10.3.0"),
        (b"vtrt", (1, 7, 1, 116), "was built by TensorRT-RTX 1.7.1.116, and TensorRT 10.3.0"),
    ],
)
def test_add_refuses_an_engine_file_that_this_machine_cannot_load(
    magic: bytes,
    version: tuple[int, ...],
    told: str,
    emulation: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = engine_file(detector(tmp_path))
    path.write_bytes(magic + path.read_bytes()[4:24] + bytes(version) + path.read_bytes()[28:])
    assert main(["engines", "add", "net.engine"]) == 2
    assert told in (text := capsys.readouterr().err)
    assert "or with --onnx FILE.onnx" in text
    assert not Path("engines").exists()
    # With the ONNX file beside it the model is added, and that is served here.
    assert main(["engines", "add", "net.engine", "--onnx", "net.onnx"]) == 0
    model = served("net", backend="auto")
    assert model.engine.label.startswith("ort-cpu/fp32/")
    assert found_by(model) == FOUND
    # A plan of the ONNX file is built instead.
    assert (model.can_build, model.provider.target) == (True, "fp16")
    assert "no plan of this model is stored" in (model.missing_reason or "")


def test_without_a_gpu_the_onnx_file_beside_it_serves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with emulated_gpu():
        engine_file(detector(tmp_path))
    monkeypatch.setattr("edge.inference.engine_provider.check_installed", raise_not_installed)
    monkeypatch.setattr("edge.inference.backends.tensorrt.library.check_installed", raise_not_installed)
    assert main(["engines", "add", "net.engine"]) == 2
    assert main(["engines", "add", "net.engine", "--onnx", "net.onnx"]) == 0
    model = served("net")
    assert model.engine.label.startswith("ort-cpu/fp32/")
    assert model.missing_reason is not None
    assert "TensorRT is not installed" in model.missing_reason
    assert found_by(model) == FOUND
    assert served("net", backend="onnxruntime").missing_reason is None


def raise_not_installed() -> None:
    from edge.core.errors import EngineError  # noqa: PLC0415 -- of the test alone

    raise EngineError("TensorRT is not installed")


def test_an_engine_file_is_benchmarked_by_its_own_name(
    emulation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = engine_file(detector(tmp_path))
    bench = ["bench", "net.engine", "--quick", "--frames", "3", "--json", "--state-dir", "state"]
    assert main(bench) == 2  # a plan is code: one that was not added is never loaded
    assert "draft one with `edge engines add net.engine`" in capsys.readouterr().err
    assert main(["engines", "add", "net.engine"]) == 0
    capsys.readouterr()
    assert main([*bench, "--precision", "fp32,fp16"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["precision"] for row in rows] == ["engine"]
    path.write_bytes(path.read_bytes() + b"x")
    assert main(bench) == 2


def test_an_engine_file_is_inspected(emulation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    engine_file(detector(tmp_path), metadata=METADATA)
    assert main(["engines", "add", "net.engine"]) == 0
    capsys.readouterr()
    assert main(["engines", "inspect", "net", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert (report["header"], report["plan"]["built_by"]) == (
        {"magic": "ftrt", "version": "10.3.0.30"},
        "TensorRT 10.3.0.30",
    )
    assert [(each["name"], each["shape"]) for each in report["tensors"]] == [
        ("images", [None, 3, 48, 64]),
        ("output0", [None, 300, 6]),
    ]
    assert set(report["why"]) == {"onnx_nodes", "network"}
    assert main(["engines", "inspect", "net"]) == 0
    assert "TensorRT 10.3.0.30" in capsys.readouterr().out


def test_an_engine_file_is_verified_against_its_onnx_file(
    emulation: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    engine_file(detector(tmp_path))
    assert main(["engines", "add", "net.engine", "--onnx", "net.onnx"]) == 0
    Path("frames").mkdir()
    for level in range(4):
        cv2.imwrite(f"frames/{level}.png", np.full((48, 64, 3), 60 + level, np.uint8))
    verify = [
        "engines",
        "verify",
        "net",
        "--precision",
        "engine",
        "--frames",
        "frames",
        "--state-dir",
        "state",
        "--json",
    ]
    capsys.readouterr()
    assert main(verify) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["form"], measured["against"], measured["agreement"]) == ("engine", "fp32", 1.0)
    assert measured["precision_json"] is None  # it serves without this proof, as its owner added it


def test_a_fixed_batch_is_the_plans(emulation: Any, tmp_path: Path) -> None:
    engine_file(detector(tmp_path, batch=2))
    assert main(["engines", "add", "net.engine"]) == 0
    model = served("net")
    assert (model.engine.fixed_batch, model.max_batch) == (2, 2)
    assert found_by(model) == FOUND
