"""`edge engines verify`: two precisions of real models on real frames, and each wrong input in a sentence."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.capture.scene.conveyor import LABELS
from edge.cli.engines.verify import NOT_ADMITTED
from edge.cli.main import main
from edge.core.manifest import read_manifest
from edge.inference.admission import FILE, admit, read_entries
from edge.inference.model_variants import model_files
from edge.inference.runtime_identity import onnxruntime_identity
from tests.support.quantized import quantize
from tests.support.verified import SCENE, quantized_conveyor, scene, verify

COLORS = {"blue": (255, 30, 30), "green": (30, 255, 30), "red": (30, 30, 255)}


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return quantized_conveyor(tmp_path_factory.mktemp("quantized"))


@pytest.fixture
def model(quantized: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(quantized, tmp_path / "conveyor"))


@pytest.fixture
def naive(model: Path) -> Path:
    """Give the model with an INT8 form that has lost its scores: they share a tensor with the boxes."""
    (model / "conveyor.naive.onnx").replace(model / "conveyor.int8-cpu.onnx")
    return model


def refused(capsys: pytest.CaptureFixture[str], model: Path, *more: str | Path) -> str:
    """Return the sentence of a command that cannot be done."""
    arguments = ["engines", "verify", model, "--state-dir", model.parent / "state", "--precision", "int8", *more]
    assert main([str(each) for each in arguments]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    return printed.err


def test_int8_that_agrees_is_admitted_by_what_is_recorded(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(capsys, model, "--frames", SCENE, "--count", "12")
    assert (found["model"], found["form"], found["against"], found["admitted"]) == ("conveyor", "int8", "fp32", True)
    assert found["f1"] == found["agreement"] >= 0.95
    assert all(0.9 <= found[name] <= 1 for name in ("precision", "recall"))
    assert (found["frames"], found["file"], found["backend"]) == (12, "conveyor.int8-cpu.onnx", "ort-cpu")
    assert min(found["ms"], found["against_ms"]) > 0
    assert (found["top1"], found["truth"], found["reason"]) == (None, None, None)
    source = model / "conveyor.onnx"
    manifest = read_manifest(model)
    files = model_files(source, model / found["file"], "int8", manifest.reading_sha256)
    entries = read_entries(source, model.parent / "state")
    assert admit(entries, files, onnxruntime_identity(), manifest.min_agreement).reason is None
    assert found["precision_json"] == str(model / FILE)


def test_a_changed_file_or_manifest_is_no_longer_admitted(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, source = model / "conveyor.int8-cpu.onnx", model / "conveyor.onnx"
    verify(capsys, model, "--frames", SCENE, "--count", "6")

    def reason() -> str | None:
        files = model_files(source, file, "int8", read_manifest(model).reading_sha256)
        return admit(read_entries(source, model), files, onnxruntime_identity(), 0.95).reason

    assert reason() is None
    (model / "model.toml").write_text((model / "model.toml").read_text().replace("0.4", "0.3"))
    assert "model.toml has changed" in str(reason())
    (model / "model.toml").write_text((model / "model.toml").read_text().replace("0.3", "0.4"))
    file.write_bytes(file.read_bytes() + b"\x82\x01\x00")
    assert "is not the file that was verified" in str(reason())
    source.write_bytes(source.read_bytes() + b"\x82\x01\x00")
    assert "conveyor.onnx has changed" in str(reason())


def test_int8_that_lost_its_scores_is_not_admitted(naive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(capsys, naive, "--frames", SCENE, "--count", "8", code=NOT_ADMITTED)
    assert found["admitted"] is False
    assert "scores of int8 are off" in found["reason"]
    assert read_entries(naive / "conveyor.onnx", naive)[0].precision == "int8"


def test_int8_that_finds_less_than_the_models_bound_is_not_admitted(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = model / "conveyor.int8-cpu.onnx"
    spoilt = onnx.load(file)
    weights = [each for each in spoilt.graph.initializer if each.data_type == TensorProto.INT8 and len(each.dims) == 4]
    weights[0].raw_data = bytes(len(weights[0].raw_data))
    onnx.save(spoilt, file)
    with (model / "model.toml").open("a") as manifest:
        manifest.write("[accuracy]\nmin_agreement = 0.9\n")
    found = verify(capsys, model, "--frames", SCENE, "--count", "8", code=NOT_ADMITTED)
    assert f"int8 agrees with fp32 by f1 {found['f1']:.3f} on 8 frames, wanted 0.9 (" in found["reason"]


def test_fp16_is_made_and_agrees(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = verify(capsys, model, "--frames", SCENE, "--count", "6", "--precision", "fp16")
    assert found["f1"] >= 0.99
    assert (model / "conveyor.fp16.onnx").is_file()
    against_it = verify(capsys, model, "--frames", SCENE, "--count", "6", "--against", "fp16")
    assert (against_it["form"], against_it["against"]) == ("int8", "fp16")
    entries = read_entries(model / "conveyor.onnx", model)
    assert {(each.precision, each.against) for each in entries} == {("fp16", "fp32"), ("int8", "fp16")}


def test_fp16_of_a_model_of_fixed_batch_is_checked_on_whole_batches(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = model / "conveyor.onnx"
    fixed = onnx.load(path)
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    onnx.save(fixed, path)
    found = verify(capsys, model, "--frames", SCENE, "--count", "4", "--precision", "fp16")
    assert found["f1"] >= 0.99


def test_the_same_frames_have_the_same_hash_and_others_another(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hashes = [
        verify(capsys, model, "--frames", source, "--count", "5")["data_sha256"]
        for source in (SCENE, SCENE, SCENE.replace("11", "12"))
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_pipe_gets_lines_of_progress(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge.core.progress.LINE_PERIOD_S", 0.0)
    arguments = ["engines", "verify", model, "--precision", "int8", "--frames", SCENE, "--count", "2"]
    main([*map(str, arguments), "--state-dir", str(model.parent / "state")])
    assert "1/2 conveyor int8\n2/2 conveyor int8\n" in capsys.readouterr().err


def test_people_get_figures_and_a_report_with_the_worst_frames(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = tmp_path / "out.html"
    arguments = [
        "engines",
        "verify",
        model,
        "--precision",
        "int8",
        "--frames",
        SCENE,
        "--count",
        "8",
        "--report",
        report,
    ]
    assert main([*map(str, arguments), "--state-dir", str(tmp_path)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    for told in ("conveyor: int8 compared with fp32", "F1", "mean IoU", "admitted to serve here: f1", "ms, fp32"):
        assert told in out
    html = report.read_text()
    assert html.count("data:image/jpeg;base64,") == 12
    assert "admitted to serve here" in html


def labelled(folder: Path, count: int) -> Path:
    """Write pictures of the belt and a COCO file of what stands in them."""
    folder.mkdir()
    images, boxes = [], []
    for number in range(count):
        picture, true = scene(20 + number)
        cv2.imwrite(str(folder / f"{number}.png"), picture)
        images.append({"id": number, "file_name": f"{number}.png"})
        for (x1, y1, x2, y2), class_id in zip(true.boxes.tolist(), true.class_ids.tolist(), strict=True):
            boxes.append({"image_id": number, "category_id": class_id + 1, "bbox": [x1, y1, x2 - x1, y2 - y1]})
    categories = [{"id": place + 1, "name": name} for place, name in enumerate(LABELS)]
    path = folder / "truth.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    return path


def test_labels_tell_what_each_form_is_worth(naive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth = labelled(tmp_path / "pictures", 10)
    found = verify(capsys, naive, "--truth", truth, code=NOT_ADMITTED)
    assert found["frames"] == 10
    fp32, int8, lost = found["truth"]["fp32"], found["truth"]["int8"], found["truth_difference"]
    assert fp32["map50"] > 0.9
    assert fp32["map50"] >= fp32["map50_95"] > int8["map50_95"]
    assert lost == {name: int8[name] - fp32[name] for name in ("map50", "map50_95")}
    elsewhere = truth.replace(tmp_path / "truth.json")
    given = ("--truth", elsewhere, "--frames", tmp_path / "pictures")
    assert verify(capsys, naive, *given, code=NOT_ADMITTED)["truth"] == found["truth"]
    assert verify(capsys, naive, *given, "--count", "4", code=NOT_ADMITTED)["frames"] == 4
    arguments = ["engines", "verify", naive, "--precision", "int8", "--state-dir", tmp_path, *given]
    assert main([str(each) for each in arguments]) == NOT_ADMITTED
    assert "mAP50-95" in capsys.readouterr().out


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Make a model that tells a picture's colour, and its INT8 form."""
    folder = tmp_path / "colors"
    folder.mkdir()
    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 3, 1, 1], np.eye(3, dtype=np.float32).ravel())
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"]),
            helper.make_node("GlobalAveragePool", ["c"], ["p"]),
            helper.make_node("Flatten", ["p"], ["y"]),
        ],
        "colors",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        [weights],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "m.onnx")
    (folder / "labels.txt").write_text("\n".join(COLORS))
    (folder / "model.toml").write_text(
        'task = "classify"\nonnx = "m.onnx"\nlabels = "labels.txt"\n[input]\ncolor = "bgr"\nresize = "stretch"\n'
        'scale = 0.01\n[output]\ndecoder = "topk"\n'
    )
    rows = [np.full((1, 3, 8, 8), value, np.float32) for value in (0, 1, 2.55)]
    quantize(folder / "m.onnx", rows, op_types_to_quantize=["Conv"])
    return folder


def colored(root: Path) -> Path:
    for name, color in COLORS.items():
        (root / name).mkdir(parents=True)
        for number in range(2):
            cv2.imwrite(str(root / name / f"{number}.png"), np.full((9, 9, 3), color, np.uint8) - np.uint8(number))
    shutil.copy(root / "red" / "0.png", root / "green" / "wrong.png")
    return root


def test_a_classifier_is_judged_by_its_best_class(
    classifier: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = verify(capsys, classifier, "--truth", colored(tmp_path / "set"))
    assert (found["metric"], found["agreement"], found["top1"], found["top5"]) == ("top1", 1.0, 1.0, 1.0)
    assert (found["f1"], found["precision"], found["recall"], found["min_agreement"]) == (None, None, None, 0.98)
    assert found["truth"]["int8"] == {"top1": 6 / 7, "top5": 1.0}
    assert found["truth_difference"] == {"top1": 0, "top5": 0}
    report = tmp_path / "out.html"
    verify(capsys, classifier, "--frames", tmp_path / "set" / "red", "--report", report, code=NOT_ADMITTED)
    assert "Top classes of each precision" in report.read_text()


def test_too_few_frames_prove_nothing_and_push_nothing_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    verify(capsys, model, "--frames", SCENE, "--count", "6")
    before = (model / FILE).read_bytes()
    found = verify(capsys, model, "--frames", SCENE, "--count", "1", code=NOT_ADMITTED)
    assert "measured on too few frames: 1, wanted 4 or more" in found["reason"]
    assert found["precision_json"] is None
    assert (model / FILE).read_bytes() == before


def test_a_file_without_int8_is_to_be_quantized_first(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "conveyor.int8-cpu.onnx").unlink()
    assert "quantize first: edge engines quantize MODEL" in refused(capsys, model, "--frames", SCENE)


def test_int8_of_another_model_is_refused(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (model / "conveyor.onnx").write_bytes((model / "conveyor.onnx").read_bytes() + b"\x82\x01\x00")
    assert "was made from another conveyor.onnx" in refused(capsys, model, "--frames", SCENE)


def test_frames_that_show_nothing_prove_nothing(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "black").mkdir()
    for number in range(5):
        cv2.imwrite(str(tmp_path / "black" / f"{number}.png"), np.zeros((48, 64, 3), np.uint8))
    told = refused(capsys, model, "--frames", tmp_path / "black")
    assert "neither fp32 nor int8 found anything in 5 frames" in told
    assert not (model / FILE).exists()


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ((), "no frames to verify on; give --frames"),
        (("--frames", "none.mp4"), "none.mp4 does not exist"),
        (("--frames", "{empty}"), "holds no picture"),
        (("--frames", "{text}"), "notes.txt"),
        (("--frames", "ftp://host/x"), "scheme 'ftp' is not known"),
        (("--frames", "synthetic://nowhere"), "synthetic://nowhere"),
        (("--frames", SCENE, "--report", "{empty}/none/out.html"), "does not exist; make it first"),
        (("--truth", "none.json"), "none.json does not exist"),
        (("--truth", "{empty}"), "found a folder, wanted a COCO JSON file of boxes"),
        (("--truth", "{text}"), "not valid JSON"),
    ],
)
def test_wrong_input_is_told_in_a_sentence(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: tuple[str, ...], told: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("none")
    given = [each.format(empty=tmp_path / "empty", text=tmp_path / "notes.txt") for each in more]
    arguments = ["engines", "verify", str(model), "--precision", "int8", "--state-dir", str(tmp_path), *given]
    assert main(arguments) in (1, 2)
    printed = capsys.readouterr().err
    assert told in printed
    assert printed.count("\n") == 1


def test_a_precision_is_not_held_against_itself(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, model, "--frames", SCENE, "--precision", "fp16", "--against", "fp16")
    assert "--against: found fp16, as --precision" in told


def test_what_goes_beyond_fp16_on_the_frames_stays_fp32(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A model that scales up and down again inside would be infinite in FP16; the frames show where."""
    path = model / "conveyor.onnx"
    graph = onnx.load(path).graph
    (output,) = graph.output
    scaled = onnx.load(path)
    for node in scaled.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    for name, factor in (("up", 1e4), ("down", 1e-4)):
        scaled.graph.initializer.append(numpy_helper.from_array(np.float32(factor), name))
    scaled.graph.node.append(helper.make_node("Mul", ["before", "up"], ["large"], "scale up"))
    scaled.graph.node.append(helper.make_node("Mul", ["large", "down"], [output.name], "scale down"))
    onnx.save(scaled, path)
    found = verify(capsys, model, "--frames", SCENE, "--count", "4", "--precision", "fp16")
    assert found["f1"] > 0.95
    converted = onnx.load(model / "conveyor.fp16.onnx")
    types = {each.name: each.data_type for each in converted.graph.initializer}
    assert types["up"] == onnx.TensorProto.FLOAT
    assert onnx.TensorProto.FLOAT16 in types.values()
