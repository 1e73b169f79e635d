"""`edge engines add`."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.cli.main import main
from edge.core.labels import names_of_metadata
from edge.core.manifest import read_labels, read_manifest
from edge.inference.decode.families import FAMILIES
from edge.inference.proof.pictures import built_in_picture
from tests.support.painted_models import SIDE, write_painted
from tests.support.promised_png import png_of_size


def write_model(path: Path, output_shape: list[int | str | None], metadata: dict[str, str] | None = None) -> None:
    """Write a model of one constant output."""
    size = [each for each in output_shape if isinstance(each, int)]
    value = numpy_helper.from_array(np.zeros(size, np.float32), "value")
    nodes = [helper.make_node("Constant", [], ["y"], value=value)]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, output_shape)
    graph = helper.make_graph(nodes, "model", [image], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)


def test_add_makes_a_folder_that_list_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 2])
    Path("names.txt").write_text("a\nb\n", encoding="utf-8")
    assert main(["engines", "add", "net.onnx", "--labels", "names.txt"]) == 0
    capsys.readouterr()
    assert main(["engines", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert listed["net"]["decoder"] == "topk"
    assert listed["net"]["labels"] == 2
    assert listed["net"]["problem"] is None
    assert "conveyor" in listed


def test_add_never_writes_over_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 10])
    assert main(["engines", "add", "net.onnx"]) == 0
    manifest = Path("engines/net/model.toml")
    manifest.write_text("mine", encoding="utf-8")
    assert main(["engines", "add", "net.onnx"]) == 2
    assert manifest.read_text(encoding="utf-8") == "mine"
    assert "--name" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"this is text", b""])
def test_add_refuses_what_is_no_model(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "net.onnx").write_bytes(content)
    assert main(["engines", "add", str(tmp_path / "net.onnx")]) == 2
    assert "wanted a complete ONNX file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("names", "written"),
    [("{0: 'red', 1: 'green'}", "red\ngreen\n"), ("{0: '0 red', 1: '1 green'}", None), ("no names", None)],
)
def test_names_in_the_file_become_its_labels(
    names: str, written: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 2], {"names": names})
    assert main(["engines", "add", "net.onnx"]) == 0
    folder = Path("engines/net")
    manifest = read_manifest(folder)
    assert manifest.labels == ("labels.txt" if written else None)
    assert not written or (folder / "labels.txt").read_text() == written
    # Names that a labels file cannot hold are read from the model itself.
    assert read_labels(folder, manifest) == names_of_metadata({"names": names})


def test_labels_that_cannot_be_read_are_refused_before_anything_is_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 2])
    Path("labels.txt").write_bytes("rot\ngrün\n".encode("latin-1"))
    assert main(["engines", "add", "net.onnx", "--labels", "labels.txt"]) == 2
    assert "wanted a UTF-8 text file" in capsys.readouterr().err
    assert not Path("engines").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["folder"], "folder is a folder; wanted an ONNX file"),
        (["net.onnx", "--labels", "folder"], "folder is a folder; wanted a text file"),
        (["net.onnx", "--labels", "no.txt"], "no.txt does not exist; wanted a text file"),
        (["net.onnx", "--labels", "empty.txt"], "--labels empty.txt is empty; wanted one label a line"),
    ],
)
def test_add_tells_a_wrong_path_for_what_it_is(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 10])
    Path("folder").mkdir()
    Path("empty.txt").write_text("\n", encoding="utf-8")
    assert main(["engines", "add", *arguments]) == 2
    assert capsys.readouterr().err == f"edge: {told}\n"
    assert not Path("engines").exists()


def test_external_data_is_copied_with_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 400])
    model = onnx.load("net.onnx")
    model.graph.initializer.append(model.graph.node[0].attribute[0].t)
    model.graph.initializer[0].name = "w"
    model.graph.node[0].CopyFrom(helper.make_node("Identity", ["w"], ["y"]))
    onnx.save(model, "net.onnx", save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert main(["engines", "add", "net.onnx"]) == 0
    capsys.readouterr()
    copy = Path("engines/net/weights.bin")
    assert copy.read_bytes() == Path("weights.bin").read_bytes()
    copy.unlink()
    assert main(["engines", "list", "--json"]) == 0
    listed = {entry["name"]: entry for entry in json.loads(capsys.readouterr().out)}
    assert "weights.bin' does not exist" in listed["net"]["problem"]
    Path("weights.bin").unlink()
    assert main(["engines", "add", "net.onnx", "--name", "other"]) == 2
    assert "'weights.bin' does not exist, and it holds values of the model" in capsys.readouterr().err
    assert not Path("engines/other").exists()


@pytest.mark.parametrize("name", ["../elsewhere", "a/b", "..", ""])
def test_add_makes_no_folder_elsewhere(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 10])
    with pytest.raises(SystemExit):
        main(["engines", "add", "net.onnx", "--name", name])
    assert f"argument --name: found {name!r}, wanted a name without /" in capsys.readouterr().err


# --- what is drafted is proven


def add(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    """Run the command; return its exit code and what it printed, errors included."""
    code = main(["engines", "add", *words])
    told = capsys.readouterr()
    return code, told.out + told.err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("labels.txt").write_text("red\ngreen\nblue\n", encoding="utf-8")
    Path("two.txt").write_text("red\ngreen\n", encoding="utf-8")
    return tmp_path


def test_a_reading_is_drafted_in_full_and_serves(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_painted(Path("net.onnx"), FAMILIES["rf-detr"].reading, ["q7", "q8"])
    code, told = add(capsys, "net.onnx", "--labels", "labels.txt", "--save", "out.png")
    assert code == 0
    assert "measured:\n  • decoder 'rf-detr' (q7: box; q8: scores): centre x, centre y, width, height" in told
    assert "assumed:\n  • input: rgb, stretch" in told
    drafted = read_manifest(Path("engines/net")).output.model_dump(exclude_unset=True)
    wanted = {"decoder": "rf-detr", "layout": "rows", "boxes": "cxcywh", "units": "unit", "activation": "sigmoid"}
    assert drafted.items() >= (wanted | {"background": "last", "nms": False}).items()
    shown = np.asarray(cv2.imread("out.png"))
    assert shown.shape == (SIDE, SIDE, 3)
    assert not np.array_equal(shown, built_in_picture(SIDE, SIDE))

    cv2.imwrite("picture.png", built_in_picture(SIDE, SIDE))
    assert main(["detect", "net", "picture.png"]) == 0
    found = json.loads(capsys.readouterr().out)["detections"]
    assert [(each["label"], round(each["score"], 3)) for each in found] == [("red", 0.8), ("green", 0.7)]
    for each, box in zip(found, ([8, 13, 28, 20], [54, 60, 19, 28]), strict=True):
        np.testing.assert_allclose(each["box"], box, atol=1.5)


def test_two_readings_that_remain_are_both_named_and_drawn_and_none_is_drafted(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    reading = replace(FAMILIES["torchvision"].reading, outputs=(("box",), ("class",), ("score",)))
    write_painted(Path("net.onnx"), reading, ["a", "b", "c"])
    code, told = add(capsys, "net.onnx", "--labels", "labels.txt", "--save", "out.png")
    assert code == 2
    assert "net.onnx: 2 readings fit its outputs" in told
    assert "(1) decoder" in told
    assert "(2) decoder 'torchvision'" in told
    assert Path("out-1.png").is_file()
    assert Path("out-2.png").is_file()
    assert not Path("engines").exists()
    code, told = add(capsys, "net.onnx", "--labels", "labels.txt", "--decoder", "torchvision")
    assert code == 0, told
    assert read_manifest(Path("engines/net")).output.decoder == "torchvision"


def test_a_family_that_the_values_refute_is_not_drafted(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_painted(Path("net.onnx"), FAMILIES["ssd"].reading, ["a", "b"])
    code, told = add(capsys, "net.onnx", "--labels", "labels.txt", "--decoder", "yolo-nas")
    assert code == 2
    assert "--decoder yolo-nas: the model's values do not fit it; what fits: decoder 'ssd'" in told
    code, told = add(capsys, "net.onnx", "--decoder", "decoder:decode")
    assert code == 0
    assert read_manifest(Path("engines/net")).output.decoder == "decoder:decode"


def test_a_model_that_no_reading_fits_is_refused_with_what_was_seen(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    random = np.random.default_rng(0)
    raw = {"scores": random.dirichlet((9, 1, 1), (1, 400)), "boxes": random.normal(0, 1.5, (1, 400, 4))}
    nodes = [
        helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value.astype(np.float32), name))
        for name, value in raw.items()
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, value.shape) for name, value in raw.items()]
    graph = helper.make_graph(nodes, "raw", [image], outputs)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), "net.onnx")
    code, told = add(capsys, "net.onnx", "--labels", "two.txt")
    assert code == 2
    assert re.search(r"as 'ssd', .*; export it with its post-processing, or write a decoder of one's own", told)
    assert not Path("engines").exists()


@pytest.mark.parametrize("task", ["pose", "obb", "segment"])
def test_a_task_that_cannot_be_served_is_refused_by_the_files_metadata(
    task: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_painted(Path("net.onnx"), FAMILIES["yolov8"].reading, ["output0"], metadata={"task": task})
    code, told = add(capsys, "net.onnx")
    assert code == 2
    assert f"found task '{task}' in its metadata, wanted 'detect' or 'classify'" in told
    assert not Path("engines").exists()


@pytest.mark.parametrize("name", ['my "best" net', "back\\slash", "net 'a'"])
def test_names_with_quotes_and_backslashes_give_valid_toml(
    name: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(Path(f"{name}.onnx"), [1, 3])
    Path(f'{name} "labels".txt').write_text("a\nb\nc\n", encoding="utf-8")
    code, told = add(capsys, f"{name}.onnx", "--labels", f'{name} "labels".txt')
    assert code == 0, told
    manifest = read_manifest(Path("engines") / name)
    assert manifest.onnx == f"{name}.onnx"
    assert read_labels(Path("engines") / name, manifest) == ("a", "b", "c")


def test_a_labels_file_of_the_models_own_name_gets_another(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(Path("net.onnx"), [1, 3])
    Path("other").mkdir()
    Path("other/net.onnx").write_text("a\nb\nc\n", encoding="utf-8")
    assert add(capsys, "net.onnx", "--labels", "other/net.onnx")[0] == 0
    manifest = read_manifest(Path("engines/net"))
    assert manifest.labels == "labels.txt"
    assert read_labels(Path("engines/net"), manifest) == ("a", "b", "c")


@pytest.mark.parametrize(
    ("operator", "factor", "activation"),
    [("Softmax", 1, "none"), ("Sigmoid", 1, "none"), ("Identity", 1, "none"), ("Identity", 20, "softmax")],
)
def test_a_classifiers_activation_is_decided_once(
    operator: str, factor: float, activation: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Constant", [], ["factor"], value=numpy_helper.from_array(np.float32(factor), "f")),
        helper.make_node("Mul", ["mean", "factor"], ["scaled"]),
        helper.make_node(operator, ["scaled"], ["last"]),
        helper.make_node("Flatten", ["last"], ["y"]),
    ]
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 3])
    model = helper.make_model(
        helper.make_graph(nodes, "m", [image], [output]), opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    )
    onnx.save(model, "net.onnx")
    # Between 0 and 255 as the second encoding has it, so that only an operator tells probabilities from raw values.
    code, told = add(capsys, "net.onnx")
    assert code == 0, told
    wanted = activation if operator != "Identity" else "softmax"
    assert read_manifest(Path("engines/net")).output.model_dump()["activation"] == wanted


def test_a_picture_that_is_none_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(Path("net.onnx"), [1, 3])
    for path in ("nowhere.png", "labels.txt"):
        code, told = add(capsys, "net.onnx", "--try", path)
        assert code == 2
        assert f"--try {path}: found no picture there" in told


def test_a_picture_that_is_too_large_is_not_decoded(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_model(Path("net.onnx"), [1, 3])
    Path("large.png").write_bytes(png_of_size(30_000, 30_000))
    code, told = add(capsys, "net.onnx", "--try", "large.png")
    assert code == 2
    assert "large.png: found pictures of 30000×30000" in told


def test_a_gray_model_gets_a_gray_manifest(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 1, 64, 64])
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 1])
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Sigmoid", ["mean"], ["score"]),
        helper.make_node("Reshape", ["score", "shape"], ["y"]),
    ]
    shape = numpy_helper.from_array(np.array([1, 1], np.int64), "shape")
    graph = helper.make_graph(nodes, "gray", [image], [output], [shape])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), "net.onnx")
    code, told = add(capsys, "net.onnx")
    assert code == 0, told
    settings = read_manifest(Path("engines/net")).input
    assert (settings.color, settings.mean, settings.std) == ("gray", (0,), (1,))
    assert "input: gray, crop, scale 0.00392157, mean [0]; check how yours was trained" in told
