"""`model.toml`: as designed, or one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

from edge.core.errors import ModelError
from edge.core.manifest import Manifest, find_model, read_labels, read_manifest

DESIGNED = """
task = "detect"                  # classify, detect, segment, pose, image
onnx = "yolox_nano.onnx"         # relative to this file
labels = "coco.names"            # one a line

[input]
color = "bgr"                    # bgr, rgb, gray
resize = "letterbox"             # letterbox, stretch, crop
anchor = "top-left"              # letterbox only: top-left or center
pad = 114
scale = 1.0                      # x = (pixel - mean) * scale / std, per channel
mean = [0, 0, 0]
std = [1, 1, 1]

[output]
decoder = "yolox"                # a built-in name, or "package.module:function" for one's own
score_threshold = 0.35
iou_threshold = 0.45
"""
SMALLEST = 'task = "detect"\nonnx = "m.onnx"\n[output]\ndecoder = "yolox"\n'
LINES = DESIGNED.splitlines()


def read(folder: Path, text: str | bytes) -> Manifest:
    (folder / "model.toml").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_manifest(folder)


def refusal(folder: Path, text: str) -> str:
    with pytest.raises(ModelError) as raised:
        read(folder, text)
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_the_designed_manifest_is_read(tmp_path: Path) -> None:
    manifest = read(tmp_path, DESIGNED)
    assert (manifest.task, manifest.onnx, manifest.labels) == ("detect", "yolox_nano.onnx", "coco.names")
    assert (manifest.input.color, manifest.input.resize, manifest.input.anchor) == ("bgr", "letterbox", "top-left")
    assert (manifest.input.pad, manifest.input.scale) == (114, 1.0)
    assert (manifest.input.mean, manifest.input.std) == ((0, 0, 0), (1, 1, 1))
    assert manifest.output.decoder == "yolox"
    assert (manifest.output.score_threshold, manifest.output.iou_threshold) == (0.35, 0.45)


def test_normalisation_left_out_changes_no_pixel(tmp_path: Path) -> None:
    settings = read(tmp_path, SMALLEST).input
    assert (settings.scale, settings.mean, settings.std) == (1.0, (0, 0, 0), (1, 1, 1))


def test_keys_of_ones_own_reach_the_decoder(tmp_path: Path) -> None:
    output = read(tmp_path, SMALLEST + 'anchors = [1, 2]\n[output.deep]\nname = "x"\n').output
    assert output.model_extra == {"anchors": [1, 2], "deep": {"name": "x"}}


def test_one_number_serves_a_gray_model(tmp_path: Path) -> None:
    assert read(tmp_path, SMALLEST + "[input]\nmean = [3]\nstd = [2.5]").input.std == (2.5,)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "task: missing; this key must be set"),
        (SMALLEST.replace("detect", "find"), "task: found 'find', wanted 'classify'"),
        (SMALLEST.replace("onnx", "onx"), "onx: unknown key; did you mean 'onnx'?"),
        (SMALLEST.replace('"m.onnx"', "7"), "onnx: found 7, wanted a string"),
        (SMALLEST + '[input]\ncolour = "bgr"', "[input] colour: unknown key; did you mean 'color'?"),
        (SMALLEST + '[input]\nresize = "fit"', "[input] resize: found 'fit', wanted 'letterbox', 'stretch' or 'crop'"),
        (SMALLEST + "[input]\npad = 256", "[input] pad: found 256, wanted less than or equal to 255"),
        (SMALLEST + "[input]\nscale = 0", "[input] scale: found 0, wanted greater than 0"),
        (SMALLEST + "[input]\nmean = [1, 2]", "[input] mean: found [1, 2], wanted a list of one number a channel"),
        (SMALLEST + "[input]\nmean = 3", "[input] mean: found 3, wanted a list of one number a channel"),
        (SMALLEST + '[input]\nmean = ["a", 1, 2]', "[input] mean: found"),
        (SMALLEST + "[input]\nstd = [1, 0, 1]", "[input] std: found"),
        (SMALLEST + "[input]\nstd = [1, nan, 1]", "[input] std: found"),
        (SMALLEST + "score_threshold = 1.1", "[output] score_threshold: found 1.1, wanted less than or equal to 1"),
        (SMALLEST + "[input]\nsize = [640]", "[input] size: found [640], wanted [width, height]"),
        (SMALLEST + "[input]\nsize = [0, 640]", "[input] size: found [0, 640], wanted [width, height] in pixels"),
        (SMALLEST + "[input]\nresize_to = 256", "[input]: found resize_to with resize = 'letterbox', wanted it with"),
        (SMALLEST + "[input]\nvalues = 3", "[input] values: found 3, wanted a table of inputs"),
        (SMALLEST + '[input.values]\na = "source"', "[input.values]: a: found 'source', wanted 'source-size', 'input-"),
        (SMALLEST + "max_detections = 0", "[output] max_detections: found 0, wanted greater than or equal to 1"),
    ],
)
def test_a_wrong_value_is_told_with_its_place_and_what_is_wanted(tmp_path: Path, text: str, told: str) -> None:
    refused = refusal(tmp_path, text)
    assert refused.startswith(f"{tmp_path / 'model.toml'}: ")
    assert told in refused
    assert "wanted" in refused or "unknown key" in refused or "missing" in refused


def test_a_folder_without_manifest_is_told_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"contains no model\.toml; wanted a model folder: draft one with `edge"):
        read_manifest(tmp_path)


def test_labels_are_one_a_line(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("person\ntraffic light\ncafé\n", encoding="utf-8")
    manifest = read(tmp_path, 'labels = "names.txt"\n' + SMALLEST)
    assert read_labels(tmp_path, manifest) == ("person", "traffic light", "café")


def test_a_byte_order_mark_is_no_part_of_the_first_label(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xef\xbb\xbfperson\r\ncar\r\n")
    assert read_labels(tmp_path, read(tmp_path, 'labels = "names.txt"\n' + SMALLEST)) == ("person", "car")


def test_without_a_labels_file_the_labels_are_those_in_the_onnx_file(tmp_path: Path) -> None:
    manifest = read(tmp_path, SMALLEST)
    assert read_labels(tmp_path, manifest) == ()  # whoever opens the file says that it is missing
    model = onnx.ModelProto()
    for expected in ((), ("red", "green")):
        (tmp_path / "m.onnx").write_bytes(model.SerializeToString())
        assert read_labels(tmp_path, manifest) == expected
        helper.set_model_props(model, {"names": "{0: 'red', 1: 'green'}"})


@pytest.mark.parametrize("name", ["none.txt", ".", "x" * 300, "a\0b", "a\nb", "model.bin"])
def test_a_labels_file_that_cannot_be_read_is_a_sentence(tmp_path: Path, name: str) -> None:
    (tmp_path / "model.bin").write_bytes(b"\xff")
    manifest = read(tmp_path, f"labels = {json.dumps(name)}\n" + SMALLEST)
    with pytest.raises(ModelError, match=r"labels.* cannot be read .*; wanted a UTF-8 text file") as raised:
        read_labels(tmp_path, manifest)
    assert len(str(raised.value).splitlines()) == 1


def test_a_model_is_found_by_its_folder_or_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "engines/mine").mkdir(parents=True)
    (tmp_path / "engines/mine/model.toml").touch()
    monkeypatch.chdir(tmp_path)
    assert find_model("mine").resolve() == find_model("engines/mine").resolve() == tmp_path / "engines/mine"


def test_the_built_in_model_is_found_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert read_manifest(find_model("conveyor")).task == "detect"


@pytest.mark.parametrize("name", ["no-such-model", "", "x" * 300, "a\0b", "a\nb"])
def test_a_model_that_is_nowhere_is_told_where_it_was_looked_for(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"neither a folder with a model\.toml nor a name under engines/") as raised:
        find_model(name)
    assert len(str(raised.value).splitlines()) == 1


def test_a_model_is_also_its_manifest_or_the_onnx_file_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "model.toml").write_text(SMALLEST, encoding="utf-8")
    (tmp_path / "m.onnx").touch()
    assert find_model(str(tmp_path / "m.onnx")) == find_model(str(tmp_path / "model.toml")) == tmp_path


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("own.onnx", "own.onnx is an ONNX file without a model.toml; draft one with `edge engines add own.onnx`"),
        ("none.onnx", "none.onnx does not exist; wanted a model's folder or name, or the ONNX file to draft one from"),
        ("own.pt", "own.pt is no ONNX file; wanted a model's folder or name: export it to ONNX"),
        ("conveyer", "did you mean 'conveyor'?"),
        ("min", "did you mean 'mine'?"),
    ],
)
def test_a_file_or_a_misspelt_name_is_answered_with_the_way_to_a_model(
    name: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for file in ("own.onnx", "own.pt", "engines/mine/model.toml"):
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        Path(file).touch()
    with pytest.raises(ModelError) as raised:
        find_model(name)
    assert told in str(raised.value)


@given(st.one_of(st.binary(), st.text().map(str.encode)))
def test_any_bytes_are_a_manifest_or_one_line(content: bytes) -> None:
    reads_or_says_one_line(content)


@given(st.data())
def test_any_mutation_is_a_manifest_or_one_line(data: st.DataObject) -> None:
    lines = list(LINES)
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.sampled_from([n for n, line in enumerate(lines) if line]))
        key = lines[number].partition("=")[0]
        value: Any = data.draw(
            st.one_of(st.text(), st.integers(), st.floats(), st.lists(st.floats(), max_size=4), st.booleans())
        )
        written = json.dumps(value, ensure_ascii=False).replace("NaN", "nan").replace("Infinity", "inf")
        lines[number] = data.draw(st.sampled_from([f"{key}= {written}", "", f"x{lines[number]}", written]))
    reads_or_says_one_line("\n".join(lines).encode())


def reads_or_says_one_line(content: bytes) -> None:
    told = "no word"
    with TemporaryDirectory() as folder:
        try:
            assert read(Path(folder), content).task in ("classify", "detect")
        except ModelError as error:
            told = str(error)
    assert len(told.splitlines()) == 1


@pytest.mark.parametrize(
    ("text", "bound"),
    [
        (SMALLEST, 0.95),
        (SMALLEST.replace("detect", "classify"), 0.98),
        (SMALLEST + "[accuracy]\nmin_agreement = 0.9\n", 0.9),
        (SMALLEST + "[accuracy]\n", 0.95),
    ],
)
def test_the_least_agreement_is_set_or_that_of_the_task(tmp_path: Path, text: str, bound: float) -> None:
    assert read(tmp_path, text).min_agreement == bound


@pytest.mark.parametrize("value", ["0", "1.01", "-1", "nan", '"0.9"', "true"])
def test_a_least_agreement_that_is_no_share_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(ModelError, match=r"\[accuracy\] min_agreement: found"):
        read(tmp_path, SMALLEST + f"[accuracy]\nmin_agreement = {value}\n")


def test_the_hash_of_the_reading_changes_with_what_changes_the_findings_and_with_nothing_else(tmp_path: Path) -> None:
    same = read(tmp_path, DESIGNED).reading_sha256
    assert read(tmp_path, DESIGNED + "# a comment\n[accuracy]\nmin_agreement = 0.5\n").reading_sha256 == same
    assert read(tmp_path, DESIGNED.replace("coco.names", "other.names")).reading_sha256 == same
    for old, new in (("0.35", "0.36"), ('"bgr"', '"rgb"'), ("pad = 114", "pad = 0"), ('"yolox"', '"yolov8"')):
        assert read(tmp_path, DESIGNED.replace(old, new)).reading_sha256 != same
