"""Draft of `[input]`: which input takes the picture, its size, its type, and what further inputs get."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.cli.engines.draft import custom_draft, draft
from edge.cli.engines.draft_input import draft_input, image_size
from edge.core.errors import ModelError
from edge.core.manifest import InputSettings, read_manifest
from edge.inference.backends.engine import TensorSpec

BOXES = [TensorSpec("output0", (None, 84, 8400), np.dtype(np.float32))]


def spec(*shape: int | None, name: str = "images", dtype: str = "float32") -> TensorSpec:
    return TensorSpec(name, shape, np.dtype(dtype))


def drafted(folder: Path, *inputs: TensorSpec, **given: Any) -> InputSettings:
    """Return the settings of the written draft, as they are read back."""
    metadata = given.pop("metadata", {})
    outputs = given.pop("outputs", BOXES)
    output = custom_draft("decoder:decode")
    text = draft(draft_input(inputs, outputs, metadata, **given), output, {"onnx": 'a "b".onnx'}, None)
    (folder / "model.toml").write_text(text, encoding="utf-8")
    manifest = read_manifest(folder)
    assert manifest.onnx == 'a "b".onnx'
    return manifest.input


@pytest.mark.parametrize(
    ("picture", "color", "scale"),
    [
        (spec(1, 3, 640, 640), "rgb", 1 / 255),
        (spec(1, 3, 640, 640, dtype="float16"), "rgb", 1 / 255),
        (spec(None, 640, 640, 3, dtype="uint8"), "rgb", 1.0),
        (spec(None, 640, 640, 3, dtype="int8"), "rgb", 1.0),
        (spec(None, 3, 640, 640, dtype="float64"), "rgb", 1 / 255),
        (spec(1, 4, 640, 640), "rgba", 1 / 255),
        (spec(1, 640, 640, 1), "gray", 1 / 255),
        (spec(3, 640, 640), "rgb", 1 / 255),
    ],
)
def test_color_and_scale_are_those_of_the_input(picture: TensorSpec, color: str, scale: float, tmp_path: Path) -> None:
    settings = drafted(tmp_path, picture)
    assert (settings.color, settings.size) == (color, None)
    assert settings.scale == pytest.approx(scale)
    assert settings.mean[0] == (128 if picture.dtype.name == "int8" else 0)


@pytest.mark.parametrize(
    ("shape", "given", "size", "told"),
    [
        ((None, 3, None, None), {"metadata": {"imgsz": "[384, 640]"}}, (640, 384), "metadata"),
        ((None, 3, None, None), {"metadata": {"imgsz": "[384, 640]"}, "size": (320, 192)}, (320, 192), "as given"),
        ((None, None, None, None), {}, (640, 640), "so many boxes"),
        ((None, 3, None, None), {"outputs": [spec(1, 25200, 85)]}, (640, 640), "so many boxes"),
        ((None, 3, None, None), {"outputs": [spec(1, 3549, 85)]}, (416, 416), "so many boxes"),
        ((None, 3, None, None), {"outputs": [spec(None, 1000)]}, (640, 640), "assumed"),
        ((None, 3, 320, None), {"outputs": []}, (320, 320), "assumed"),
        ((None, None, None, 3), {"outputs": []}, (640, 640), "assumed"),
    ],
)
def test_an_open_size_is_set_and_said_where_it_comes_from(
    shape: tuple[int | None, ...], given: dict[str, Any], size: tuple[int, int], told: str, tmp_path: Path
) -> None:
    keys = {"outputs": BOXES, "metadata": {}} | given
    found = draft_input([spec(*shape)], keys["outputs"], keys["metadata"], size=keys.get("size"))
    assert found.size == size
    assert told in " ".join(found.notes)
    assert drafted(tmp_path, spec(*shape), **given).size == size


def test_open_channels_are_those_in_the_metadata(tmp_path: Path) -> None:
    for said, color in (("1", "gray"), ("4", "rgba"), ("3", "rgb"), ("7", "rgb"), ("x", "rgb")):
        assert drafted(tmp_path, spec(None, None, None, None), metadata={"channels": said}).color == color


def test_further_inputs_get_values_that_leave_boxes_in_the_inputs_pixels(tmp_path: Path) -> None:
    inputs = [
        spec(None, 2, name="orig_target_sizes", dtype="int64"),
        spec(None, 3, 640, 640),
        spec(None, 2, name="im_shape"),
        spec(None, 2, name="scale_factor"),
        spec(None, 640, 640, name="pixel_mask", dtype="int64"),
        spec(1, name="iou_threshold"),
        spec(name="a.b: score", dtype="float32"),
        spec(None, 2, name="anything", dtype="int32"),
    ]
    assert drafted(tmp_path, *inputs).values == {
        "orig_target_sizes": "input-size",
        "im_shape": "input-size",
        "scale_factor": 1,
        "pixel_mask": 1,
        "iou_threshold": 0.45,
        "a.b: score": 0.01,
        "anything": "input-size",
    }


def test_inputs_that_nobody_can_draft_are_told_with_the_option_that_helps(tmp_path: Path) -> None:
    unknown = spec(None, 77, name="tokens", dtype="int64")
    with pytest.raises(ModelError, match=r"input 'tokens' .* not known what it takes; give it with --value tokens="):
        draft_input([spec(None, 3, 640, 640), unknown], BOXES, {})
    assert drafted(tmp_path, spec(None, 3, 640, 640), unknown, values={"tokens": 7}).values == {"tokens": 7}
    for other in (spec(1, 16000), spec(1, 10, 640, 640), spec(1, 3, 640, 640, dtype="int64"), spec()):
        with pytest.raises(ModelError, match="takes no picture; wanted N×C×H×W"):
            draft_input([other], BOXES, {})
    pictures = [spec(None, 3, 640, 640, name=name) for name in ("left", "right")]
    with pytest.raises(ModelError, match=r"the model has 2 inputs .* of which 2 may take the picture; wanted one"):
        draft_input(pictures, BOXES, {})


@pytest.mark.parametrize(
    ("text", "size"),
    [("[384, 640]", (640, 384)), ("640", (640, 640)), ("(1, 2)", (2, 1)), ("[0, 5]", None), ("[1]", None), ("x", None)],
)
def test_the_size_in_metadata_has_the_height_first(text: str, size: tuple[int, int] | None) -> None:
    assert image_size({"imgsz": text}) == size


def test_what_does_not_fit_the_model_is_refused_and_not_left_out() -> None:
    picture = spec(1, 3, 416, 416)
    with pytest.raises(ModelError, match=r"--value image: the model has no such input; .* did you mean 'images'\?"):
        draft_input([picture], BOXES, {}, values={"image": 1})
    with pytest.raises(ModelError, match="--size: found 640,640, and the model's input is 416,416, which is fixed"):
        draft_input([picture], BOXES, {}, size=(640, 640))
    assert draft_input([picture], BOXES, {}, size=(416, 416)).size is None
