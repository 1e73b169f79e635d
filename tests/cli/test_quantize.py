"""`edge engines quantize`: from frames to two INT8 forms that agree with FP32, and what stands in the way of it."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from edge.cli.main import INTERRUPTED, main
from edge.core.records import Classes, Detections
from edge.inference import derived_files
from edge.inference.derived_files import source_sha256
from edge.precision.layer_search import Score
from edge.precision.scorer import QuantizationScorer, similarity
from tests.support.project import conveyor_copy
from tests.support.quantizable import SIDE, classifier_folder, pictures_folder


@pytest.fixture
def conveyor(tmp_path: Path) -> Path:
    return conveyor_copy(tmp_path)


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


# Of one's own: a box for each of the network's outputs, as wide as that is large.
BOXES = """
import numpy as np

def decode(outputs, options):
    (scores,) = outputs.values()
    certain = 1 / (1 + np.exp(-scores))
    left = np.arange(len(scores)) * 3.0
    boxes = np.stack([left, left * 0, left + 1 + certain, left * 0 + 8], axis=1).astype(np.float32)
    return boxes, certain.astype(np.float32), np.arange(len(scores)) % 2
"""


@pytest.fixture
def detector(classifier: Path) -> Path:
    """Give a model folder of the small network, its outputs read as boxes."""
    text = (classifier / "model.toml").read_text(encoding="utf-8")
    text = text.replace('"classify"', '"detect"').replace('"topk"', '"own_decoder:decode"').replace("= 0.0", "= 0.4")
    (classifier / "model.toml").write_text(text, encoding="utf-8")
    (classifier / "own_decoder.py").write_text(BOXES, encoding="utf-8")
    return classifier


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return pictures_folder(tmp_path)


def quantize(model: Path, source: str | Path, *arguments: str) -> int:
    state = str(model.parent / "state")
    return main(["engines", "quantize", str(model), "--calibration", str(source), "--state-dir", state, *arguments])


def report_of(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


@pytest.mark.parametrize("method", ["auto", "entropy", "percentile", "minmax", "mse"])
def test_a_classifier_becomes_int8_by_each_method(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    assert quantize(classifier, pictures, "--method", method, "--json") == 0
    report = report_of(capsys)
    assert report["frames"] == {"calibration": 6, "held_back": 6}
    for form in report["forms"].values():
        assert form["agreement"] >= 0.96
        assert len(form["table"]) == 5
    assert report["forms"]["tensorrt"]["int8_share"] > 0.5
    for name in report["files"].values():
        model = onnx.load(name)
        onnx.checker.check_model(model, full_check=True)
        origin = {each.key: each.value for each in model.metadata_props}["edge.int8_of"]
        assert origin == source_sha256(classifier / "network.onnx") == report["onnx_sha256"]


def test_a_model_of_the_installed_package_is_left_as_it_is(
    detector: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(derived_files, "_PACKAGE", detector.resolve(), raising=False)
    before = {path.name for path in detector.iterdir()}
    changed_ns = detector.stat().st_mtime_ns
    assert quantize(detector, pictures, "--json") == 0
    written = report_of(capsys)["files"]
    state = detector.parent / "state"
    command = ["engines", "verify", str(detector), "--precision", "int8", "--frames", str(pictures)]
    assert main([*command, "--state-dir", str(state), "--json"]) == 0
    assert {path.name for path in detector.iterdir()} - {"__pycache__"} == before
    assert detector.stat().st_mtime_ns == changed_ns
    assert all(Path(path).parent == state / "models" for path in written.values())


def test_a_detector_becomes_int8_and_the_report_is_kept(
    detector: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(detector, pictures, "--frames", "8", "--json") == 0
    report = report_of(capsys)
    assert Path(report["files"]["tensorrt"]) == detector / "network.int8.onnx"
    assert Path(report["files"]["cpu"]) == detector / "network.int8-cpu.onnx"
    assert report["forms"]["tensorrt"]["f1"] >= 0.95
    assert report["forms"]["tensorrt"]["int8_share"] > 0.6
    assert {report["fp32"]["ms"] > 0, report["naive"]["ms"] > 0, report["forms"]["cpu"]["ms"] > 0} == {True}
    kept = Path(report["report"]).parent
    assert json.loads((kept / "quantization.json").read_text(encoding="utf-8"))["forms"] == report["forms"]
    assert (kept / "quantization.svg").read_text(encoding="utf-8").startswith("<svg")
    assert len(list((kept / "frames").iterdir())) == 8
    assert not list(kept.glob("*-tensorrt.json"))


def test_people_get_tables(classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert quantize(classifier, pictures) == 0
    shown = capsys.readouterr().out
    for text in ("int8 tensorrt", "int8 cpu", "naive int8", "sensitivity", "network.int8.onnx", "quantization.svg"):
        assert text in shown


def test_an_interrupted_search_goes_on(
    classifier: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    measured = 0
    score = QuantizationScorer.score

    def counted(self: QuantizationScorer, data: bytes) -> Score:
        nonlocal measured
        measured += 1
        if measured == 4:
            raise KeyboardInterrupt
        return score(self, data)

    monkeypatch.setattr(QuantizationScorer, "score", counted)
    assert quantize(classifier, pictures) == INTERRUPTED
    assert not list(classifier.glob("*.int8*"))
    assert quantize(classifier, pictures) == 0
    assert "continuing an earlier search with 3 stored measurements" in caplog.text


def test_where_the_models_folder_cannot_be_written_the_state_folder_takes_the_files(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("network.int8.onnx", "network.int8-cpu.onnx"):
        (classifier / name).write_bytes(b"its owner's")
    assert quantize(classifier, pictures, "--json") == 0
    for name in report_of(capsys)["files"].values():
        assert Path(name).parent == classifier.parent / "state" / "models"
    assert (classifier / "network.int8.onnx").read_bytes() == b"its owner's"


def test_where_no_layer_can_be_quantized_there_is_no_file(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(QuantizationScorer, "score", lambda _self, _data: Score(0.5, 0.5, 0.5))
    assert quantize(classifier, pictures) == 4
    assert capsys.readouterr().out.count("no layer can be quantized within the tolerance of 0.95") == 2
    assert not list(classifier.glob("*.int8*"))


def fails(capsys: pytest.CaptureFixture[str], code: int) -> str:
    assert code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    return told


def test_no_frame_is_told_in_a_sentence(classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert quantize(classifier, tmp_path / "empty") == 2
    assert "holds no picture; wanted files such as .jpg or .png in it" in capsys.readouterr().err


def test_one_frame_works_and_is_warned_about(
    classifier: Path, pictures: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert quantize(classifier, pictures / "00.png") == 0
    assert "only 1 calibration frames" in caplog.text


def test_black_frames_are_told_in_a_sentence(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "black"
    folder.mkdir()
    for number in range(3):
        cv2.imwrite(str(folder / f"{number}.png"), np.zeros((SIDE, SIDE, 3), np.uint8))
    assert "are blank: each has a single colour; wanted frames like those that the model will process" in fails(
        capsys, quantize(classifier, folder)
    )


def test_frames_without_anything_to_find_are_told_in_a_sentence(
    conveyor: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fog"
    folder.mkdir()
    for number in range(4):
        fog = np.full((240, 320, 3), 120 + number, np.uint8)
        fog[::2] += 1
        cv2.imwrite(str(folder / f"{number}.png"), fog)
    told = fails(capsys, quantize(conveyor, folder))
    assert "the model finds nothing in the 2 frames held back for scoring" in told


def test_a_quantized_model_is_told_in_a_sentence(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert quantize(classifier, pictures) == 0
    capsys.readouterr()
    shutil.move(classifier / "network.int8.onnx", classifier / "network.onnx")
    assert "is already quantized" in fails(capsys, quantize(classifier, pictures))


def test_a_dynamic_size_is_told_in_a_sentence(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(classifier / "network.onnx")
    for axis in (2, 3):
        model.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"size{axis}"
    onnx.save(model, classifier / "network.onnx")
    assert "whose height and width are open; set size = [width, height] in [input]" in fails(
        capsys, quantize(classifier, pictures)
    )


def test_a_custom_operator_is_told_in_a_sentence(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = onnx.load(classifier / "network.onnx")
    model.graph.node[0].domain, model.graph.node[0].op_type = "acme", "Sharpen"
    model.opset_import.append(helper.make_opsetid("acme", 1))
    onnx.save(model, classifier / "network.onnx")
    assert "acme" in fails(capsys, quantize(classifier, pictures))


def test_a_model_without_weights_is_told_in_a_sentence(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("GlobalAveragePool", ["images"], ["mean"]),
        helper.make_node("Flatten", ["mean"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "plain",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, SIDE, SIDE])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), classifier / "network.onnx"
    )
    (classifier / "labels.txt").write_text("a\nb\nc\n", encoding="utf-8")
    assert "nothing to quantize" in fails(capsys, quantize(classifier, pictures))


def test_without_the_package_onnx_it_is_told(
    classifier: Path, pictures: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "edge.precision.quantizer", None)
    assert "cannot be quantized: the Python package" in fails(capsys, quantize(classifier, pictures))


def boxes(*rows: tuple[float, float, float, float, float]) -> Detections:
    table = np.array(rows, np.float32).reshape(-1, 5)
    return Detections(table[:, :4], table[:, 4], np.zeros(len(rows), np.int64))


def test_likeness_of_boxes_is_computed_by_hand() -> None:
    wanted, got = boxes((0, 0, 10, 10, 0.8)), boxes((0, 0, 10, 8, 0.6), (50, 50, 60, 60, 0.2))
    assert similarity([wanted], [got]) == pytest.approx(2 * 0.8 * 0.6 / (0.8 + 0.8))
    assert similarity([wanted], [wanted]) == pytest.approx(1)
    assert similarity([wanted], [boxes()]) == 0
    assert similarity([boxes()], [boxes()]) == 1


def test_likeness_of_classes_is_computed_by_hand() -> None:
    wanted = Classes(np.array([0.7, 0.3], np.float32), np.array([4, 2]))
    got = Classes(np.array([0.6, 0.4], np.float32), np.array([2, 4]))
    assert similarity([wanted], [got]) == pytest.approx(2 * (0.4 + 0.3) / 2)
