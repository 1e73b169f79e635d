"""`edge engines add`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge.cli.engines.draft import draft
from edge.cli.engines.draft_input import draft_input
from edge.cli.main import main
from edge.core.labels import names_of_metadata
from edge.core.manifest import read_labels, read_manifest
from edge.inference.backends.engine import TensorSpec

FLOAT = np.dtype(np.float32)
FILES = {"onnx": "m.onnx"}
INPUT = draft_input([TensorSpec("images", (None, 3, 64, 64), FLOAT)], [], {})


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


@pytest.mark.parametrize(
    ("shapes", "decoder"),
    [
        ({"output": (1, 3549, 85)}, "yolox"),
        ({"output": (1, 84, 8400)}, "yolov8"),
        ({"output": (1, 300, 6)}, "yolov10"),
        ({"scores": (1, 4420, 2), "boxes": (1, 4420, 4)}, "ssd"),
        ({"logits": (1, 300, 80), "boxes": (1, 300, 4)}, "detr"),
        ({"probabilities": (1, 1000)}, "topk"),
        ({"a": (1, 3, 5, 7)}, "decoder:decode"),
    ],
)
def test_the_decoder_is_guessed_by_the_shapes_of_the_outputs(
    shapes: dict[str, tuple[int, ...]], decoder: str, tmp_path: Path
) -> None:
    outputs = tuple(TensorSpec(name, shape, FLOAT) for name, shape in shapes.items())
    text, _ = draft(INPUT, outputs, FILES, None)
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    assert read_manifest(tmp_path).output.decoder == decoder


def test_a_gray_model_gets_a_gray_manifest(tmp_path: Path) -> None:
    gray = draft_input([TensorSpec("images", (1, 1, 64, 64), FLOAT)], [], {})
    text, _ = draft(gray, (TensorSpec("p", (1, 10), FLOAT),), FILES, None)
    (tmp_path / "model.toml").write_text(text, encoding="utf-8")
    assert read_manifest(tmp_path).input.color == "gray"


def test_add_makes_a_folder_that_list_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_model(Path("net.onnx"), [1, 10])
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
