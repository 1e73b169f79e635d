"""Ground truth: what fits the model and the images, and one sentence for what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections
from edge.precision.ground_truth import accuracy, read_boxes, read_classes

LABELS = ("bolt", "nut", "cell phone")


def coco(folder: Path, **parts: Any) -> Path:
    """Write a COCO file of one picture with a nut, but for these parts of it, and the pictures `a` and `b`."""
    document = {
        "images": [{"id": 7, "file_name": "a.png", "width": 8, "height": 8}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 12, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 0}],
        "categories": [{"id": 12, "name": "nut"}],
    } | parts
    path = folder / "truth.json"
    path.write_text(json.dumps({key: value for key, value in document.items() if value is not None}))
    for name in ("a", "b"):
        cv2.imwrite(str(folder / f"{name}.png"), np.zeros((8, 8, 3), np.uint8))
    return path


def box(category: int, image: int = 7, **more: Any) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": [0, 0, 1, 1], **more}


def test_boxes_become_corners_with_the_models_class_of_the_categorys_name(tmp_path: Path) -> None:
    ((path, boxes),) = read_boxes(coco(tmp_path), tmp_path, LABELS).items()
    assert path == tmp_path / "a.png"
    assert boxes.boxes.tolist() == [[1, 2, 4, 6]]
    assert (boxes.class_ids.tolist(), boxes.crowd.tolist()) == ([1], [False])


def test_names_are_the_same_whatever_their_case_and_blanks(tmp_path: Path) -> None:
    path = coco(tmp_path, categories=[{"id": 12, "name": "Cell_Phone"}])
    assert read_boxes(path, tmp_path, LABELS)[tmp_path / "a.png"].class_ids.tolist() == [2]


def test_categories_without_names_are_class_ids(tmp_path: Path) -> None:
    for labels in (LABELS, ()):
        path = coco(tmp_path, annotations=[box(2), box(0)], categories=None)
        assert read_boxes(path, tmp_path, labels)[tmp_path / "a.png"].class_ids.tolist() == [2, 0]


def test_pictures_without_boxes_are_there_and_categories_without_boxes_need_no_label(tmp_path: Path) -> None:
    images = [{"id": 7, "file_name": "a.png"}, {"id": 9, "file_name": "b.png"}]
    path = coco(tmp_path, images=images, categories=[{"id": 12, "name": "nut"}, {"id": 13, "name": "horse"}])
    assert len(read_boxes(path, tmp_path, LABELS)[tmp_path / "b.png"].class_ids) == 0


def test_crowds_are_marked(tmp_path: Path) -> None:
    path = coco(tmp_path, annotations=[box(12), box(12, iscrowd=1)])
    assert read_boxes(path, tmp_path, LABELS)[tmp_path / "a.png"].crowd.tolist() == [False, True]


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            {"categories": [{"id": 12, "name": "horse"}]},
            "categories 'horse', wanted labels of the model ('bolt', 'nut'",
        ),
        ({"annotations": [box(12), box(44)]}, "categories '44'"),
        ({"categories": None}, "category ids '12' and no names, wanted class ids of the model: 0 to 2"),
        ({"categories": None, "annotations": [box(-1)]}, "category ids '-1'"),
        ({"categories": None, "annotations": [box(2), box(3)]}, "category ids '3' and no names"),
        ({"images": [{"id": 7, "file_name": "c.png"}]}, "1 of its 1 images are not in"),
        ({"images": []}, "lists no images"),
        ({"images": None}, "images: Field required"),
        ({"annotations": [box(12, image=8)]}, "a box refers to image 8, which is not in the file"),
        ({"annotations": [box(12, bbox=[0, 0, 1])]}, "annotations.0.bbox"),
        ({"annotations": [box(12, bbox=[0, 0, -1, 1])]}, "annotations.0.bbox.2"),
    ],
)
def test_a_coco_file_that_does_not_fit_is_told_in_a_sentence(
    tmp_path: Path, parts: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_boxes(coco(tmp_path, **parts), tmp_path, LABELS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "not valid JSON"), ("[1]", "not a COCO file"), ("\xff", "not valid JSON")]
)
def test_another_file_is_no_coco_file(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "truth.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=message):
        read_boxes(path, tmp_path, LABELS)


def test_files_and_folders_that_are_not_there_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_boxes(tmp_path / "none.json", tmp_path, LABELS)
    with pytest.raises(ConfigError, match="found no folder"):
        read_boxes(coco(tmp_path), tmp_path / "none", LABELS)


def folders(root: Path, *names: str) -> Path:
    """Make a folder with a picture for each name."""
    for name in names:
        (root / "set" / name).mkdir(parents=True)
        cv2.imwrite(str(root / "set" / name / "one.png"), np.zeros((4, 4, 3), np.uint8))
    return root / "set"


@pytest.mark.parametrize(
    ("names", "labels", "ids"),
    [
        (("nut", "bolt"), LABELS, {"nut": 1, "bolt": 0}),
        (("cell_phone",), LABELS, {"cell_phone": 2}),
        (("0", "2"), LABELS, {"0": 0, "2": 2}),
        (("7", "10"), (), {"7": 7, "10": 10}),
        (("2", "1"), ("2", "1", "0"), {"2": 0, "1": 1}),  # a label's name goes before a number
        (("n02000000", "n01000000"), ("a", "b"), {"n02000000": 1, "n01000000": 0}),
    ],
)
def test_folders_are_labels_or_class_ids_or_imagenets(
    tmp_path: Path, names: tuple[str, ...], labels: tuple[str, ...], ids: dict[str, int]
) -> None:
    found = read_classes(folders(tmp_path, *names), labels)
    assert {path.parent.name: class_id for path, class_id in found.items()} == ids


@pytest.mark.parametrize(
    ("names", "labels", "message"),
    [
        (("nut", "horse"), LABELS, "found folders 'horse', wanted labels of the model"),
        (("0", "3"), LABELS, "found folders '0', '3'"),
        (("nut",), (), "wanted class ids"),
        (("n02000000",), ("a", "b"), "found folders 'n02000000'"),
    ],
)
def test_folders_of_other_names_are_told(
    tmp_path: Path, names: tuple[str, ...], labels: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_classes(folders(tmp_path, *names), labels)
    assert message in str(caught.value)


def test_a_set_without_folders_or_pictures_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="contains no folders"):
        read_classes(tmp_path, LABELS)
    (tmp_path / "nut").mkdir()
    (tmp_path / "nut" / "notes.txt").touch()
    with pytest.raises(ConfigError, match="contains no image"):
        read_classes(tmp_path, LABELS)


def test_accuracy_of_classes_is_the_share_of_pictures() -> None:
    found = [
        Classes(np.ones(len(ids), np.float32), np.array(ids, np.int64)) for ids in ([3, 1], [2, 1], [], [9] * 5 + [1])
    ]
    assert accuracy([3, 1, 1, 1], found) == {"top1": 1 / 4, "top5": 2 / 4}


def test_accuracy_of_boxes_is_mean_average_precision(tmp_path: Path) -> None:
    boxes = read_boxes(coco(tmp_path), tmp_path, LABELS)[tmp_path / "a.png"]
    exact = Detections(boxes.boxes.astype(np.float32), np.ones(1, np.float32), boxes.class_ids)
    assert accuracy([boxes], [exact]) == {"map50": 1.0, "map50_95": 1.0}
    assert accuracy([], []) == {}
