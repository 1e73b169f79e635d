"""Readings of the model families, with numbers worked out by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.core.manifest import Manifest
from edge.core.records import Detections, Geometry
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode import Decoder
from edge.inference.decode.families import ALIASES, FAMILIES

INPUT_PX = (32, 32)
AS_IS = Geometry(INPUT_PX, 1.0, 1.0, 0.0, 0.0)
NOWHERE = Path("no such folder")

# Two boxes: corners 8, 4, 24, 12 of class 1, and 2, 10, 6, 30 of class 0, among three rows; the third is nothing.
FOUND = ([[8, 4, 24, 12], [2, 10, 6, 30]], [0.9, 0.6], [1, 0])
CORNERS = [[8, 4, 24, 12], [2, 10, 6, 30], [1, 1, 2, 2]]
CENTERS = [[16, 8, 16, 8], [4, 20, 4, 20], [1.5, 1.5, 1, 1]]
UNIT_CORNERS = [[0.25, 0.125, 0.75, 0.375], [0.0625, 0.3125, 0.1875, 0.9375], [0.1, 0.1, 0.2, 0.2]]
UNIT_CENTERS = [[0.5, 0.25, 0.5, 0.25], [0.125, 0.625, 0.125, 0.625], [0.15, 0.15, 0.1, 0.1]]
UNIT_YX = [[0.125, 0.25, 0.375, 0.75], [0.3125, 0.0625, 0.9375, 0.1875], [0.1, 0.1, 0.2, 0.2]]
SCORES = [[0.1, 0.9], [0.6, 0.2], [0.1, 0.1]]
LOGIT_09, LOGIT_06 = math.log(9), math.log(1.5)  # sigmoid 0.9 and 0.6


def float32(values: Any) -> NDArray[np.float32]:
    return np.asarray(values, np.float32)


def int32(values: Any) -> NDArray[np.int32]:
    return np.asarray(values, np.int32)


def int64(values: Any) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


def columns(*parts: Any) -> NDArray[np.float32]:
    """Put columns beside one another."""
    return np.concatenate([np.asarray(part, np.float32).reshape(len(part), -1) for part in parts], axis=1)


def open_decoder(
    name: str, arrays: dict[str, NDArray[Any]], labels: int = 2, whole: tuple[str, ...] = (), **keys: Any
) -> Decoder:
    manifest = Manifest.model_validate({"task": "detect", "onnx": "m.onnx", "output": {"decoder": name, **keys}})
    specs = [
        TensorSpec(key, array.shape if key in whole else (1, *array.shape), array.dtype)
        for key, array in arrays.items()
    ]
    return Decoder(manifest, [f"label {number}" for number in range(labels)], specs, INPUT_PX, NOWHERE)


def assert_finds(model: Decoder, outputs: dict[str, NDArray[Any]], wanted: Any = FOUND) -> None:
    found = model.decode(outputs, AS_IS)
    assert isinstance(found, Detections)
    assert found.boxes.dtype == found.scores.dtype == np.float32
    np.testing.assert_allclose(found.boxes, wanted[0], atol=1e-3)
    np.testing.assert_allclose(found.scores, wanted[1], atol=1e-5)
    assert found.class_ids.tolist() == wanted[2]


# Name, outputs of one picture by name, those without a batch axis.
OBJECTNESS = columns(CENTERS, [1, 0.75, 0.1], [[0.1, 0.9], [0.8, 0.2], [0.9, 0.1]])  # 0.75·0.8 = 0.6
BEST = [0.9, 0.6, 0.1]
CLASSES = [1, 0, 1]
CASES: dict[str, tuple[str, dict[str, NDArray[Any]], tuple[str, ...]]] = {
    "YOLOv8, 9, 11, 12": ("yolov8", {"a": columns(CENTERS, SCORES).T}, ()),
    "YOLOv10, YOLO26": ("yolov10", {"a": columns(CORNERS, BEST, CLASSES)}, ()),
    "YOLOv5": ("yolov5", {"a": OBJECTNESS}, ()),
    "YOLOv7": ("yolov7", {"a": OBJECTNESS}, ()),
    "YOLOv6": ("yolov6", {"a": OBJECTNESS}, ()),
    "YOLOX, decoded": ("yolox-decoded", {"a": OBJECTNESS}, ()),
    "YOLOv7, end to end": ("yolov7-end2end", {"a": columns([0, 0, 0], CORNERS, CLASSES, BEST)}, ("a",)),
    "YOLO-NAS": ("yolo-nas", {"913": columns(CORNERS), "904": columns(SCORES)}, ()),
    "YOLO-NAS, the other way round": ("yolo-nas", {"904": columns(SCORES), "913": columns(CORNERS)}, ()),
    "YOLO-NAS, flat": ("yolo-nas-flat", {"a": columns([0, 0, 0], CORNERS, BEST, CLASSES)}, ("a",)),
    "DeepStream-Yolo": ("deepstream-yolo", {"output": columns(CORNERS, BEST, CLASSES)}, ()),
    "EfficientNMS_TRT": (
        "efficientnms",
        {
            "num_dets": int32([2]),
            "det_boxes": columns([*CORNERS[:2], [0, 0, 9, 9]]),
            "det_scores": float32([0.9, 0.6, 0.8]),  # the third is behind the count
            "det_classes": int32([1, 0, -1]),
        },
        (),
    ),
    "BatchedNMS_TRT, whatever the names": (
        "batchednms",
        {
            "a": int32([2]),
            "b": columns(CORNERS),
            "c_scores": float32(BEST),
            "d_classes": float32([1, 0, -1]),
        },
        (),
    ),
    "MMDeploy": ("rtmdet", {"dets": columns(CORNERS, BEST), "labels": int64(CLASSES)}, ()),
    "torchvision": (
        "torchvision",
        {"boxes": columns(CORNERS), "labels": int64([2, 1, 2]), "scores": float32(BEST)},
        ("boxes", "labels", "scores"),
    ),
    "TensorFlow": (
        "tensorflow",
        {
            "detection_boxes": columns(UNIT_YX),
            "detection_classes": float32([2, 1, 1]),
            "detection_scores": float32(BEST),
            "num_detections": float32(3),
        },
        (),
    ),
    "SSD, decoded": (
        "ssd",
        {"scores": columns([0, 0.2, 0.8], SCORES), "boxes": columns(UNIT_CORNERS)},
        (),
    ),
    "DETR": (
        "detr",
        {
            # Softmax of log 0.05, log 0.9, log 0.05; of log 0.6, log 0.2, log 0.2; of log 0.01, log 0.01, log 0.98.
            "logits": np.log(float32([[0.05, 0.9, 0.05], [0.6, 0.2, 0.2], [0.01, 0.01, 0.98]])),
            "pred_boxes": columns(UNIT_CENTERS),
        },
        (),
    ),
    "RT-DETR by Hugging Face": (
        "rt-detr",
        {"logits": float32([[-3, LOGIT_09], [LOGIT_06, -3], [-3, -3]]), "pred_boxes": columns(UNIT_CENTERS)},
        (),
    ),
    "TAO DINO": (
        "detr",
        {"pred_logits": float32([[-3, LOGIT_09], [LOGIT_06, -3], [-3, -3]]), "pred_boxes": columns(UNIT_CENTERS)},
        (),
    ),
    "RF-DETR": (
        "rf-detr",
        {
            "dets": columns(UNIT_CENTERS),
            "labels": float32([[-3, LOGIT_09, -8], [LOGIT_06, -3, -8], [-3, -3, -8]]),
        },
        (),
    ),
    "D-FINE, DEIM, RT-DETR v2": (
        "d-fine",
        {"labels": int64(CLASSES), "boxes": columns(CORNERS), "scores": float32(BEST)},
        (),
    ),
    "RT-DETR by Ultralytics": ("rtdetr-ultralytics", {"a": columns(UNIT_CENTERS, SCORES)}, ()),
    "RT-DETR by Ultralytics, best class": ("rtdetr-top", {"a": columns(UNIT_CENTERS, BEST, CLASSES)}, ()),
    "PaddleDetection": (
        "paddle",
        {"multiclass_nms3_0.tmp_0": columns(CLASSES, BEST, CORNERS), "multiclass_nms3_0.tmp_2": int32(3)},
        ("multiclass_nms3_0.tmp_0",),
    ),
    "ONNX NonMaxSuppression": (
        "onnx-nms",
        {
            "boxes": columns(CORNERS)[:, (1, 0, 3, 2)],
            "scores": columns(SCORES).T,
            "selected": int64([[0, 1, 0], [0, 0, 1], [0, 0, 2]]),
        },
        ("selected",),
    ),
    "OpenVINO's DetectionOutput": (
        "openvino",
        {"a": columns([0, 0, -1], CLASSES, [0.9, 0.6, 0.9], UNIT_CORNERS)},
        ("a",),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_family_is_read_exactly(case: str) -> None:
    name, outputs, whole = CASES[case]
    assert_finds(open_decoder(name, outputs, whole=whole), outputs)


def test_every_family_has_a_case() -> None:
    tested = {ALIASES.get(name, name) for name, _, _ in CASES.values()}
    assert tested | {"yolox"} == set(FAMILIES)  # yolox, raw, has its tests in test_decode
    assert set(ALIASES.values()) <= set(FAMILIES)


@pytest.mark.parametrize("case", [name for name, (_, outputs, _) in CASES.items() if len(outputs) > 1])
def test_the_order_of_outputs_does_not_matter(case: str) -> None:
    name, outputs, whole = CASES[case]
    assert_finds(open_decoder(name, dict(reversed(outputs.items())), whole=whole), outputs)


def test_yolov5_with_its_raw_scales_beside_the_rows() -> None:
    outputs = {"output": OBJECTNESS} | {f"scale{n}": np.zeros((3, n, n, 7), np.float32) for n in (4, 2, 1)}
    assert_finds(open_decoder("yolov5", outputs), outputs)


# --- each part can be set


@pytest.mark.parametrize(
    ("keys", "rows"),
    [
        ({"boxes": "xyxy"}, columns(CORNERS, SCORES)),
        ({"boxes": "xywh"}, columns([[8, 4, 16, 8], [2, 10, 4, 20], [1, 1, 1, 1]], SCORES)),
        ({"boxes": "yxyx"}, columns([[4, 8, 12, 24], [10, 2, 30, 6], [1, 1, 2, 2]], SCORES)),
        ({"boxes": "yxyx", "units": "unit"}, columns(UNIT_YX, SCORES)),
        ({"units": "unit"}, columns(UNIT_CENTERS, SCORES)),
        ({"activation": "sigmoid"}, columns(CENTERS, [[-5, LOGIT_09], [LOGIT_06, -5], [-5, -5]])),
        ({"background": "last"}, columns(CENTERS, SCORES, [0.99, 0.99, 0.99])),
        ({"background": "first"}, columns(CENTERS, [0.99, 0.99, 0.99], SCORES)),
        (
            {"activation": "softmax", "background": "first"},
            columns(CENTERS, np.log(float32([[0.05, 0.05, 0.9], [0.2, 0.6, 0.2], [0.98, 0.01, 0.01]]))),
        ),
    ],
)
def test_parts_of_a_reading_are_set_in_the_manifest(keys: dict[str, Any], rows: NDArray[np.float32]) -> None:
    outputs = {"output0": rows}
    assert_finds(open_decoder("yolov8", outputs, layout="rows", **keys), outputs)


def test_outputs_are_named_where_nothing_else_tells() -> None:
    outputs = {"a": float32(BEST), "b": columns(CORNERS), "c": float32(CLASSES)}
    with pytest.raises(ModelError, match=r"nothing tells which is which; name them in \[output\], as in outputs = "):
        open_decoder("d-fine", outputs)
    assert_finds(open_decoder("d-fine", outputs, outputs={"a": ["score"], "b": ["box"], "c": ["class"]}), outputs)


def test_boxes_in_pixels_of_the_source_stay() -> None:
    outputs = {"output0": columns(CORNERS, BEST, CLASSES)}
    found = open_decoder("yolov10", outputs, units="source").decode(outputs, Geometry((64, 40), 0.5, 0.8, 3.0, 6.0))
    assert isinstance(found, Detections)
    np.testing.assert_allclose(found.boxes, FOUND[0])


def test_suppression_across_classes() -> None:
    outputs = {"output0": columns([[16, 8, 16, 8], [16, 8, 16, 7]], [[0.9, 0.1], [0.1, 0.8]])}
    assert len(open_decoder("yolov8", outputs, layout="rows").decode(outputs, AS_IS).scores) == 2
    agnostic = open_decoder("yolov8", outputs, layout="rows", class_agnostic=True).decode(outputs, AS_IS)
    assert agnostic.class_ids.tolist() == [0]


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"boxes": "cxywh"}, "[output] boxes: found 'cxywh', wanted one of 'cxcywh', 'xyxy', 'xywh', 'yxyx'"),
        ({"units": 1}, "[output] units: found 1, wanted one of 'input', 'unit', 'source'"),
        ({"activaton": "none"}, "[output] activaton: unknown key for decoder 'yolov8'; did you mean 'activation'?"),
        ({"class_agnostic": "yes"}, "[output] class_agnostic: found 'yes', wanted true or false"),
        (
            {"outputs": ["a"]},
            """[output] outputs: found ['a'], wanted a table such as {boxes = ["box"], scores = ["scores"]}""",
        ),
        (
            {"outputs": {"x": ["box", "scores"]}},
            "[output] outputs: found 'x', wanted names of the model's outputs: 'output0'",
        ),
        (
            {"outputs": {"output0": ["box"]}},
            "[output] outputs: found box, wanted 'box' and 'scores' or 'score' among them",
        ),
        ({"outputs": {"output0": ["box", "box"]}}, "[output] outputs: found a part twice, wanted each part once"),
        (
            {"outputs": {"output0": ["boxes"]}},
            (
                "[output] outputs: found ['boxes'] for output 'output0', wanted a list of picture, box, objectness, "
                "scores, score, class, count, kept, unused"
            ),
        ),
    ],
)
def test_a_key_that_does_not_fit_is_refused(keys: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        open_decoder("yolov8", {"output0": columns(CENTERS, SCORES).T}, **keys)
    assert str(refused.value) == sentence
