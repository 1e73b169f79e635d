"""Decoding with numbers worked out by hand, and the errors word by word."""

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edge.core.errors import EngineError, ModelError
from edge.core.manifest import InputSettings, Manifest
from edge.core.records import Classes, Detections, Geometry
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode import MOST_CANDIDATES, Decoder
from edge.inference.decode.families import NAMES
from edge.inference.preprocess import Preprocessor
from tests.support.project import real_data

Shapes = Mapping[str, tuple[int | None, ...]]

INPUT_PX = (32, 32)
AS_IS = Geometry(INPUT_PX, 1.0, 1.0, 0.0, 0.0)  # the source picture is the input
NOWHERE = Path("no such folder")


def decoder(
    name: str,
    shapes: Shapes | None = None,
    labels: int = 0,
    *,
    folder: Path = NOWHERE,
    input_px: tuple[int, int] = INPUT_PX,
    **output: Any,
) -> Decoder:
    task = output.pop("task", "classify" if name == "topk" else "detect")
    manifest = Manifest.model_validate({"task": task, "onnx": "m.onnx", "output": {"decoder": name, **output}})
    specs = [TensorSpec(each, shape, np.dtype(np.float32)) for each, shape in (shapes or {}).items()]
    return Decoder(manifest, [f"label {index}" for index in range(labels)], specs, input_px, folder)


def detections(model: Decoder, outputs: Any, geometry: Geometry = AS_IS, **keys: Any) -> Detections:
    outputs = outputs if isinstance(outputs, dict) else {"output": outputs}
    found = model.decode({name: np.asarray(array, np.float32) for name, array in outputs.items()}, geometry, **keys)
    assert isinstance(found, Detections)
    assert found.boxes.dtype == np.float32
    assert found.boxes.shape == (len(found.scores), 4)
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    return found


def classes(model: Decoder, output: list[float], **keys: Any) -> Classes:
    found = model.decode({"output": np.array(output, np.float32)}, AS_IS, **keys)
    assert isinstance(found, Classes)
    assert found.scores.dtype == np.float32
    assert found.class_ids.dtype == np.int64
    return found


def assert_found(found: Detections, boxes: Any, scores: Any, class_ids: list[int]) -> None:
    np.testing.assert_allclose(found.boxes, boxes, atol=1e-4)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    assert found.class_ids.tolist() == class_ids


# yolov10's rows are what is found, as they stand, so all that the runtime does after a decoder is tested on them.
def end_to_end(**output: Any) -> Decoder:
    return decoder("yolov10", {"output": (1, None, 6)}, 3, **output)


# --- yolox: 32×32 has 4·4 cells of stride 8, 2·2 of stride 16 and 1 of stride 32


def yolox_output(**rows: list[float]) -> NDArray[np.float32]:
    output = np.zeros((21, 7), np.float32)
    for name, row in rows.items():
        output[int(name.removeprefix("row"))] = row
    return output


YOLOX = {"output": (1, 21, 7)}


def test_yolox_boxes_grow_from_the_cells_of_three_strides() -> None:
    output = yolox_output(
        # Stride 8, column 1, row 2: centre (1.5·8, 2.25·8) = (12, 18), size (e^ln2·8, e^0·8) = (16, 8).
        row9=[0.5, 0.25, math.log(2), 0, 0.8, 0.5, 0.9],  # 0.8·0.9 = 0.72
        # Stride 16, column 0, row 1: centre (0.5·16, 1.5·16) = (8, 24), size (8, 16).
        row18=[0.5, 0.5, math.log(0.5), 0, 0.5, 1.0, 0.2],  # 0.5·1.0 = 0.5
        # Stride 32: centre (0.5·32, 0.5·32) = (16, 16), size (32, 32).
        row20=[0.5, 0.5, 0, 0, 0.9, 0.1, 0.4],  # 0.9·0.4 = 0.36
    )
    found = detections(decoder("yolox", YOLOX, 2), output)
    assert_found(found, [[4, 14, 20, 22], [4, 16, 12, 32], [0, 0, 32, 32]], [0.72, 0.5, 0.36], [1, 0, 1])


def test_yolox_scores_are_objectness_times_class_score() -> None:
    output = yolox_output(row0=[0.5, 0.5, 0, 0, 0.6, 0.6, 0.1], row5=[0.5, 0.5, 0, 0, 0.6, 0.1, 0.9])
    found = detections(decoder("yolox", YOLOX, 2, score_threshold=0.5), output)
    assert_found(found, [[8, 8, 16, 16]], [0.54], [1])  # 0.6·0.6 = 0.36 is below


def test_yolox_on_a_wide_input_counts_columns_first() -> None:
    # 64×32: stride 8 has rows of 8 cells, so row 9 is column 1 of row 1.
    output = np.zeros((42, 6), np.float32)
    output[9] = [0.5, 0.5, 0, 0, 1, 1]
    found = detections(
        decoder("yolox", {"output": (1, 42, 6)}, 1, input_px=(64, 32)), output, Geometry((64, 32), 1, 1, 0, 0)
    )
    assert_found(found, [[8, 8, 16, 16]], [1], [0])


def test_yolox_sizes_beyond_all_bounds_are_dropped_without_a_warning() -> None:
    output = yolox_output(row9=[0, 0, 1000, 0, 1, 1, 0], row10=[math.nan, 0, 0, 0, 1, 1, 0])
    output[11] = [0, 0, 0, 0, math.nan, math.nan, 0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(detections(decoder("yolox", YOLOX, 2), output).scores) == 0


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_outputs_of_another_precision_are_read(dtype: type[np.generic]) -> None:
    output = yolox_output(row9=[0.5, 0.25, 0, 0, 0.75, 0.5, 1]).astype(dtype)
    found = decoder("yolox", YOLOX, 2).decode({"output": output}, AS_IS)
    assert isinstance(found, Detections)
    assert_found(found, [[8, 14, 16, 22]], [0.75], [1])
    assert found.boxes.dtype == found.scores.dtype == np.float32


# --- yolov8


def test_yolov8_reads_centre_and_size_column_by_column() -> None:
    output = np.array(
        [
            # centre x, centre y, width, height, two classes: a column each
            [16, 10, 8, 4, 0.2, 0.7],  # 12…20, 8…12
            [8, 8, 4, 4, 0.9, 0.1],  # 6…10, 6…10
            [20, 20, 4, 4, 0.1, 0.2],  # below 0.25
        ]
    ).T
    found = detections(decoder("yolov8", {"output": (1, 6, 3)}, 2), output)
    assert_found(found, [[6, 6, 10, 10], [12, 8, 20, 12]], [0.9, 0.7], [0, 1])


def test_yolov8_without_labels_takes_any_number_of_classes() -> None:
    output = np.array([[16, 16, 8, 8, 0, 0, 0, 0, 0, 0.5]]).T
    assert_found(detections(decoder("yolov8", {"output": (1, 10, 1)}), output), [[12, 12, 20, 20]], [0.5], [5])


# --- yolov10


def test_yolov10_rows_are_taken_as_they_stand_even_on_one_another() -> None:
    output = [[1, 2, 11, 12, 0.5, 2], [1, 2, 11, 12, 0.9, 2], [0, 0, 8, 8, 0.1, 0]]
    assert_found(detections(end_to_end(), output), [[1, 2, 11, 12]] * 2, [0.9, 0.5], [2, 2])


# --- ssd


def ssd_outputs(classes: int) -> dict[str, list[list[float]]]:
    scores = [[0.1, 0.9, 0.0], [0.9, 0.1, 0.0], [0.2, 0.1, 0.7]]
    return {
        "scores": [row[:classes] for row in scores],
        "boxes": [[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1], [0.5, 0.5, 1, 1]],  # of 32: 8, 8, 16, 24 and 16, 16, 32, 32
    }


@pytest.mark.parametrize(
    ("labels", "class_ids"),
    [
        (3, [1, 2]),  # the labels tell background too
        (2, [0, 1]),  # they do not
        (0, [0, 1]),  # there are none
    ],
)
def test_ssd_leaves_out_background_and_counts_as_the_labels_do(labels: int, class_ids: list[int]) -> None:
    model = decoder("ssd", {"scores": (1, 3, 3), "boxes": (1, 3, 4)}, labels)
    assert_found(detections(model, ssd_outputs(3)), [[8, 8, 16, 24], [16, 16, 32, 32]], [0.9, 0.7], class_ids)


def test_ssd_of_one_class_as_a_face_finder_has() -> None:
    model = decoder("ssd", {"scores": (1, 3, 2), "boxes": (1, 3, 4)}, 1)
    assert_found(detections(model, ssd_outputs(2)), [[8, 8, 16, 24]], [0.9], [0])


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a"), ("boxes", "scores_4"), ("pred_Boxes", "z"), ("z", "score")])
def test_boxes_and_scores_are_told_apart_by_name_or_by_shape(names: tuple[str, str]) -> None:
    boxes, scores = names
    columns = 4 if len(boxes + scores) > 2 else 3  # of four columns both, only the names tell
    raw = np.zeros((1, columns), np.float32)
    raw[0, 1] = 0.9
    for order in (names, names[::-1]):
        shapes = {name: (1, 1, 4 if name == boxes else columns) for name in order}
        model = decoder("ssd", shapes, columns)
        found = detections(model, {scores: raw, boxes: np.array([[0, 0, 0.5, 0.5]])})
        assert_found(found, [[0, 0, 16, 16]], [0.9], [1])


# --- detr


DETR_BOXES = [[0.5, 0.5, 0.5, 0.25], [0.25, 0.25, 0.5, 0.5]]  # of 32: 8, 12, 24, 20 and 0, 0, 16, 16


def test_detr_with_a_column_more_than_labels_takes_softmax_without_the_last() -> None:
    model = decoder("detr", {"logits": (1, 2, 3), "pred_boxes": (1, 2, 4)}, 2)
    # Softmax of log(1), log(6), log(3): 0.1, 0.6, 0.3. The second row is "no object": 0.1, 0.1, 0.8.
    logits = np.log([[1.0, 6.0, 3.0], [1.0, 1.0, 8.0]])
    assert_found(detections(model, {"logits": logits, "pred_boxes": DETR_BOXES}), [[8, 12, 24, 20]], [0.6], [1])


def test_detr_with_as_many_columns_as_labels_takes_sigmoid() -> None:
    model = decoder("detr", {"logits": (1, 2, 2), "pred_boxes": (1, 2, 4)}, 2)
    # Sigmoid of ±log(3) is 0.75 and 0.25, of log(4) 0.8; that of -2000 is 0, and must not overflow.
    logits = [[math.log(3), -math.log(3)], [-2000, math.log(4)]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = detections(model, {"logits": logits, "pred_boxes": DETR_BOXES})
    assert_found(found, [[0, 0, 16, 16], [8, 12, 24, 20]], [0.8, 0.75], [1, 0])


def test_detr_keeps_boxes_on_one_another() -> None:
    model = decoder("detr", {"logits": (1, 2, 2), "pred_boxes": (1, 2, 4)}, 2)
    found = detections(model, {"logits": [[5, -5], [4, -5]], "pred_boxes": [DETR_BOXES[0]] * 2})
    assert found.class_ids.tolist() == [0, 0]


# --- topk


def test_topk_takes_softmax_where_the_values_are_no_probabilities() -> None:
    found = classes(decoder("topk", {"output": (1, 3)}, 3), np.log([2.0, 5.0, 3.0]).tolist())
    np.testing.assert_allclose(found.scores, [0.5, 0.3, 0.2], atol=1e-6)
    assert found.class_ids.tolist() == [1, 2, 0]


def test_topk_takes_probabilities_as_they_are() -> None:
    found = classes(decoder("topk", {"output": (1, 3)}, 3), [0.2, 0.5, 0.3])
    np.testing.assert_allclose(found.scores, [0.5, 0.3, 0.2], atol=1e-6)


@pytest.mark.parametrize(
    ("softmax", "scores"),
    [
        (True, [1 / (1 + 2 / math.e), 1 / (math.e + 2), 1 / (math.e + 2)]),  # e^1 : e^0 : e^0
        (False, [1, 0, 0]),
    ],
)
def test_topk_does_as_the_manifest_says(softmax: bool, scores: list[float]) -> None:  # noqa: FBT001 -- a key's value
    found = classes(decoder("topk", {"output": (1, 3)}, 3, softmax=softmax), [0.0, 1.0, 0.0])
    np.testing.assert_allclose(found.scores, [score for score in scores if score > 0], atol=1e-6)


@pytest.mark.parametrize(("keys", "count"), [({}, 5), ({"top_k": 2}, 2), ({"top_k": 50}, 8)])
def test_topk_tells_the_best_five_unless_told_otherwise(keys: dict[str, Any], count: int) -> None:
    found = classes(decoder("topk", {"output": (1, 8)}, 8, **keys), list(range(8)))
    assert found.class_ids.tolist() == list(range(7, 7 - count, -1))


def test_topk_has_a_threshold_only_where_one_was_written() -> None:
    output = [0.1, 0.7, 0.2]
    assert len(classes(decoder("topk", {"output": (1, 3)}), output).scores) == 3
    assert len(classes(decoder("topk", {"output": (1, 3)}, score_threshold=0.25), output).scores) == 1
    assert len(classes(decoder("topk", {"output": (1, 3)}), output, score_threshold=0.15).scores) == 2


def test_topk_takes_the_axes_that_pooling_left() -> None:
    model = decoder("topk", {"output": (1, 3, 1, 1)}, 3)
    found = model.decode({"output": np.array([0.2, 0.5, 0.3], np.float32).reshape(3, 1, 1)}, AS_IS)
    assert found.class_ids.tolist() == [1, 2, 0]


def test_topk_of_an_output_that_is_no_number_finds_nothing() -> None:
    assert len(classes(decoder("topk", {"output": (1, 2)}), [math.nan, math.nan]).scores) == 0


# --- what the runtime does after the decoder


def test_boxes_are_told_in_pixels_of_the_source() -> None:
    # A source of 64×40 shown at half its size, 6 pixels down.
    geometry = Geometry((64, 40), 0.5, 0.5, 0.0, 6.0)
    found = detections(end_to_end(), [[1, 8, 11, 16, 0.9, 0]], geometry)
    assert_found(found, [[2, 4, 22, 20]], [0.9], [0])


def test_boxes_are_clipped_to_the_picture_and_dropped_where_nothing_is_left() -> None:
    geometry = Geometry((64, 40), 0.5, 0.5, 0.0, 6.0)  # it ends at y = 26 of the input
    output = [
        [-5, 0, 40, 31, 0.9, 0],  # more than all of it
        [4, 26, 10, 32, 0.8, 0],  # in the padding
        [4, 8, 4, 12, 0.7, 0],  # no width
        [9, 8, 4, 12, 0.6, 0],  # less than none
    ]
    assert_found(detections(end_to_end(), output, geometry), [[0, 0, 64, 40]], [0.9], [0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("column", range(5))
def test_what_is_not_a_number_is_dropped(bad: float, column: int) -> None:
    row = [1.0, 2.0, 11.0, 12.0, 0.9, 0.0]
    output = [row.copy(), row]
    output[0][column] = bad
    assert_found(detections(end_to_end(), output), [[1, 2, 11, 12]], [0.9], [0])


def test_a_score_at_the_threshold_counts_and_a_streams_own_threshold_stands_in() -> None:
    output = [[0, 0, 8, 8, 0.75, 0], [0, 0, 8, 8, 0.5, 0], [0, 0, 8, 8, 0.25, 0]]
    model = end_to_end(score_threshold=0.5)
    assert detections(model, output).scores.tolist() == [0.75, 0.5]
    assert detections(model, output, score_threshold=0.6).scores.tolist() == [0.75]
    assert detections(model, output, score_threshold=0.1).scores.tolist() == [0.75, 0.5, 0.25]
    assert detections(model, output).scores.tolist() == [0.75, 0.5]


def test_of_boxes_on_one_another_the_best_of_each_class_stays() -> None:
    output = [
        [0, 0, 10, 10, 0.8, 0],
        [0, 0, 10, 11, 0.9, 0],  # shares 100 of 110 with the first: 0.91
        [0, 0, 10, 10, 0.7, 1],  # of another class
        [5, 0, 15, 10, 0.6, 0],  # shares 50 of 160 with the best: 0.31
    ]
    found = detections(end_to_end(nms=True), output)
    assert_found(found, [[0, 0, 10, 11], [0, 0, 10, 10], [5, 0, 15, 10]], [0.9, 0.7, 0.6], [0, 1, 0])
    assert detections(end_to_end(nms=True, iou_threshold=0.3), output).class_ids.tolist() == [0, 1]


def test_suppression_can_be_switched_off() -> None:
    output = np.array([[16, 16, 8, 8, 0.9], [16, 16, 8, 8, 0.8]]).T
    assert len(detections(decoder("yolov8", {"output": (1, 5, 2)}, 1), output).scores) == 1
    assert len(detections(decoder("yolov8", {"output": (1, 5, 2)}, 1, nms=False), output).scores) == 2


def test_a_box_as_large_as_numbers_go_leaves_those_of_other_classes_alone() -> None:
    output = [[-1e30, -1e30, 1e30, 1e30, 0.9, 1], [0, 0, 8, 8, 0.8, 2], [20, 20, 30, 30, 0.7, 2]]
    assert detections(end_to_end(nms=True), output).class_ids.tolist() == [1, 2, 2]


def test_the_best_are_kept_where_there_are_too_many() -> None:
    output = [[0, 0, 8, 8, 0.3 + index / 100, 0] for index in range(40)]
    found = detections(end_to_end(max_detections=2), output)
    np.testing.assert_allclose(found.scores, [0.69, 0.68], atol=1e-6)


def test_findings_do_not_change_with_the_outputs_they_were_read_from() -> None:
    output = np.array([[1, 2, 11, 12, 0.9, 1]], np.float32)
    found = end_to_end().decode({"output": output}, AS_IS)
    assert isinstance(found, Detections)
    output[:] = 0
    assert_found(found, [[1, 2, 11, 12]], [0.9], [1])


def test_a_class_without_a_label_is_an_error_not_a_result() -> None:
    with pytest.raises(EngineError) as failed:
        detections(end_to_end(), [[0, 0, 8, 8, 0.9, 3]])
    assert str(failed.value) == (
        "decoder 'yolov10' returned class id 3, wanted 0 to 2, as in the labels file; correct one of them"
    )


def test_outputs_that_cannot_be_read_at_run_time_are_an_engine_error() -> None:
    with pytest.raises(EngineError, match=r"^decoder 'yolov10' failed \(IndexError: .*\); correct it, or name another"):
        detections(end_to_end(), [[1, 2, 3]])


# --- one's own decoder


def write(folder: Path, code: str, name: str = "decoder.py") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import numpy as np\n" + code, encoding="utf-8")
    return folder


ONE_BOX = """
def decode(outputs, options):
    return np.float32([[0, 0, {0}, {0}]]), np.float32([0.9]), np.int64([0])
"""


def test_a_decoder_of_ones_own_lies_in_the_models_folder(tmp_path: Path) -> None:
    write(tmp_path, ONE_BOX.format(8))
    geometry = Geometry((64, 64), 0.5, 0.5, 0, 0)
    assert_found(detections(decoder("decoder:decode", folder=tmp_path), {}, geometry), [[0, 0, 16, 16]], [0.9], [0])


def test_two_models_may_both_have_a_decoder_of_the_same_name(tmp_path: Path) -> None:
    first, second = (write(tmp_path / str(side), ONE_BOX.format(side)) for side in (8, 16))
    models = [decoder("decoder:decode", folder=folder) for folder in (first, second)]
    assert [detections(model, {}).boxes[0, 2] for model in models] == [8, 16]
    assert "decoder" not in sys.modules


def test_a_decoder_in_the_models_folder_may_have_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "SIDE = 4\n", "own/sizes.py")
    write(tmp_path, "from .sizes import SIDE\n" + ONE_BOX.format("SIDE"), "own/boxes.py")
    assert detections(decoder("own.boxes:decode", folder=tmp_path), {}).boxes[0, 2] == 4


def test_a_decoder_may_be_installed_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, ONE_BOX.format(8), "installed_decoders/boxes.py")
    monkeypatch.syspath_prepend(tmp_path)
    assert len(detections(decoder("installed_decoders.boxes:decode", folder=NOWHERE), {}).scores) == 1


def test_a_decoder_is_told_all_keys_and_the_threshold_in_force(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    raise RuntimeError(sorted(options.items()))\n")
    model = decoder("decoder:decode", folder=tmp_path, labels=3, input_px=(64, 32), anchors=[1, 2], iou_threshold=0.5)
    wanted = {
        "decoder": "decoder:decode",
        "score_threshold": 0.6,
        "iou_threshold": 0.5,
        "nms": None,
        "max_detections": 300,
        "anchors": [1, 2],
        "input_width": 64,
        "input_height": 32,
        "label_count": 3,
    }
    with pytest.raises(EngineError) as told:
        model.decode({}, AS_IS, 0.6)
    assert str(sorted(wanted.items())) in str(told.value)
    with pytest.raises(EngineError, match=r"'score_threshold', 0\.25"):
        model.decode({}, AS_IS)


def test_thresholds_and_suppression_are_the_runtimes(tmp_path: Path) -> None:
    code = """
def decode(outputs, options):
    return np.float64([[0, 0, 8, 8], [0, 0, 8, 7], [0, 0, 8, 8]]), np.float64([0.9, 0.8, 0.1]), np.int32([0, 0, 1])
"""
    write(tmp_path, code)
    assert_found(detections(decoder("decoder:decode", folder=tmp_path), {}), [[0, 0, 8, 8]], [0.9], [0])
    assert len(detections(decoder("decoder:decode", folder=tmp_path, nms=False), {}).scores) == 2


def test_a_decoder_may_find_nothing_in_any_shape(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    return [], [], []\n")
    assert len(detections(decoder("decoder:decode", folder=tmp_path), {}).scores) == 0


def test_a_classifier_may_have_a_decoder_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    return None, np.float32([0.1, 0.9]), np.int64([4, 2])\n")
    found = decoder("decoder:decode", folder=tmp_path, task="classify").decode({}, AS_IS)
    assert isinstance(found, Classes)
    assert found.class_ids.tolist() == [2, 4]


WANTED = "wanted boxes float32 N×4, scores float32 N, class ids int64 N"


@pytest.mark.parametrize(
    ("returned", "sentence"),
    [
        ("None", "returned NoneType, wanted a tuple: boxes, scores, class ids"),
        ("(np.zeros((1, 4)), np.zeros(1))", "returned tuple, wanted a tuple: boxes, scores, class ids"),
        (
            "np.zeros((1, 5)), np.zeros(1), np.zeros(1, int)",
            f"returned float64 1×5, float64 1, int64 1; {WANTED}",
        ),
        (
            "np.zeros((2, 4)), np.zeros(1), np.zeros(1, int)",
            f"returned float64 2×4, float64 1, int64 1; {WANTED}",
        ),
        (
            "np.zeros((1, 4)), np.zeros(1), np.zeros(1)",
            f"returned float64 1×4, float64 1, float64 1; {WANTED}",
        ),
        (
            "np.zeros((1, 4)), np.ones(1), np.int64([-1])",
            "returned class id -1, wanted 0 or more; correct one of them",
        ),
        (
            "outputs['logits'], 1, 2",
            "failed (KeyError: 'logits'); correct it, or name another in [output] of model.toml",
        ),
    ],
)
def test_what_a_decoder_returns_is_checked(tmp_path: Path, returned: str, sentence: str) -> None:
    write(tmp_path, f"def decode(outputs, options):\n    return {returned}\n")
    model = decoder("decoder:decode", folder=tmp_path)
    with pytest.raises(EngineError) as failed:
        model.decode({}, AS_IS)
    assert str(failed.value) == f"decoder 'decoder:decode' {sentence}"


def test_what_is_no_array_is_an_engine_error(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    return np.zeros((2, 4)), [[1], [2, 3]], [0, 0]\n")
    with pytest.raises(EngineError, match=r"^decoder 'decoder:decode' failed \(ValueError: "):
        decoder("decoder:decode", folder=tmp_path).decode({}, AS_IS)


@pytest.mark.parametrize("raised", ["SystemExit(3)", "GeneratorExit()", "BaseException('why')"])
def test_a_decoder_may_raise_anything(tmp_path: Path, raised: str) -> None:
    write(tmp_path, f"def decode(outputs, options):\n    raise {raised}\n")
    model = decoder("decoder:decode", folder=tmp_path)
    with pytest.raises(EngineError, match=rf"failed \({raised.partition('(')[0]}"):
        model.decode({}, AS_IS)


def test_only_a_persons_ctrl_c_is_one(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    raise KeyboardInterrupt\n")
    model = decoder("decoder:decode", folder=tmp_path)
    with pytest.raises(KeyboardInterrupt):
        model.decode({}, AS_IS)
    with ThreadPoolExecutor() as lane, pytest.raises(EngineError, match=r"failed \(KeyboardInterrupt\)"):
        lane.submit(model.decode, {}, AS_IS).result()


def test_a_long_message_of_a_decoder_is_cut(tmp_path: Path) -> None:
    write(tmp_path, "def decode(outputs, options):\n    raise RuntimeError('x' * 100_000)\n")
    with pytest.raises(EngineError) as failed:
        decoder("decoder:decode", folder=tmp_path).decode({}, AS_IS)
    assert len(str(failed.value)) < 1000


def test_of_too_many_boxes_the_best_are_suppressed_and_the_others_dropped(tmp_path: Path) -> None:
    code = f"""
def decode(outputs, options):
    boxes = np.tile(np.float32([0, 0, 8, 8]), ({MOST_CANDIDATES} + 2, 1))
    boxes[-1] = 16, 16, 24, 24
    boxes[0] = 8, 8, 16, 16
    scores = np.linspace(0.9, 0.5, len(boxes), dtype=np.float32)
    return boxes, scores, np.zeros(len(boxes), np.int64)
"""
    found = detections(decoder("decoder:decode", folder=write(tmp_path, code)), {})
    assert found.boxes.tolist() == [[8, 8, 16, 16], [0, 0, 8, 8]]


@pytest.mark.parametrize(
    ("name", "code", "sentence"),
    [
        (
            "missing_module:decode",
            "",
            (
                "cannot be imported (ModuleNotFoundError: No module named 'missing_module'); "
                "wanted a module 'missing_module' in {} or on sys.path"
            ),
        ),
        (
            "decoder:decode",
            "raise RuntimeError('no licence')",
            "cannot be imported (RuntimeError: no licence); wanted a module 'decoder' in {} or on sys.path",
        ),
        (
            "decoder:decode",
            "raise SystemExit(3)",
            "cannot be imported (SystemExit: 3); wanted a module 'decoder' in {} or on sys.path",
        ),
        ("decoder:decode", "", ": found nothing named 'decode' in decoder, wanted a function"),
        ("decoder:decode", "decode = 3", ": found int named 'decode' in decoder, wanted a function"),
    ],
)
def test_a_decoder_that_is_not_there_is_refused(tmp_path: Path, name: str, code: str, sentence: str) -> None:
    write(tmp_path, code)
    with pytest.raises(ModelError) as refused:
        decoder(name, folder=tmp_path)
    told = str(refused.value).removeprefix(f"decoder {name!r}").strip()
    assert told == sentence.format(tmp_path)


# --- models that do not fit


@pytest.mark.parametrize(
    ("name", "shapes", "labels", "sentence"),
    [
        (
            "yolox",
            {"output": (1, 21, 8)},
            2,
            "output 'output': found 1×21×8, wanted N×21×7 for decoder 'yolox' with 2 labels",
        ),
        (
            "yolox",
            {"output": (None, 20, 85)},
            0,
            "output 'output': found ?×20×85, wanted N×21×(5+C) for decoder 'yolox' with no labels",
        ),
        (
            "yolov8",
            {"output0": (1, 8400, 84)},
            80,
            "output 'output0': found 1×8400×84, wanted N×84×boxes for decoder 'yolov8' with 80 labels",
        ),
        (
            "yolov10",
            {"output0": (1, 84, 8400)},
            80,
            "output 'output0': found 1×84×8400, wanted N×boxes×6 for decoder 'yolov10' with 80 labels",
        ),
        (
            "ssd",
            {"scores": (1, 9, 5), "boxes": (1, 9, 4)},
            3,
            "output 'scores': found 1×9×5, wanted N×boxes×4 for decoder 'ssd' with 3 labels",
        ),
        (
            "ssd",
            {"scores": (1, 9, 5), "boxes": (1, 9, 1, 4)},
            4,
            "output 'boxes': found 1×9×1×4, wanted N×boxes×4 for decoder 'ssd' with 4 labels",
        ),
        (
            "detr",
            {"logits": (1, 9, 5), "boxes": (1, 9, 4)},
            3,
            "output 'logits': found 1×9×5, wanted N×boxes×4 for decoder 'detr' with 3 labels",
        ),
        (
            "topk",
            {"output": (1, 1001)},
            1000,
            "output 'output': found 1×1001, wanted N×1000 for decoder 'topk' with 1000 labels",
        ),
    ],
)
def test_an_output_of_another_shape_is_refused(name: str, shapes: Shapes, labels: int, sentence: str) -> None:
    with pytest.raises(ModelError) as refused:
        decoder(name, shapes, labels)
    assert str(refused.value) == f"{sentence}; correct one of them in model.toml"


@pytest.mark.parametrize("name", ["yolox", "yolov8", "yolov10", "topk"])
def test_sizes_that_are_known_only_at_run_time_are_not_checked(name: str) -> None:
    rank = 2 if name == "topk" else 3
    decoder(name, {"output": (None,) * rank}, 5)


@pytest.mark.parametrize(
    ("name", "shapes", "keys", "sentence"),
    [
        (
            "yolov8",
            {"output0": (1, 116, 8400), "output1": (1, 32, 160, 160)},
            {},
            (
                "the model has 2 outputs ('output0' 1×116×8400, 'output1' 1×32×160×160), wanted 1 for decoder 'yolov8'"
                "; name another decoder in [output] or export the model without the others"
            ),
        ),
        (
            "ssd",
            {"a": (1, 9, 4), "b": (1, 9, 4)},
            {},
            "outputs 'a' and 'b': either could be the boxes; name them 'scores' and 'boxes'",
        ),
        (
            "detr",
            {"logits": (1, 9, 4), "boxes": (1, 9, 4)},
            {},
            "labels: found none, wanted a file of them in model.toml: decoder 'detr' needs their number",
        ),
        (
            "topk",
            {"output": (1, 9)},
            {"task": "detect"},
            "decoder 'topk': found task 'detect', wanted 'classify'; correct one of them in model.toml",
        ),
        (
            "yolox",
            {"output": (1, 21, 85)},
            {"task": "classify"},
            "decoder 'yolox': found task 'classify', wanted 'detect'; correct one of them in model.toml",
        ),
        (
            "yolo",
            {},
            {},
            (
                f"[output] decoder: found 'yolo', wanted {', '.join(NAMES)}, or "
                "'package.module:function'; did you mean 'yolox'?"
            ),
        ),
        ("topk", {"output": (1, 9)}, {"top_k": 0}, "[output] top_k: found 0, wanted a whole number, 1 or more"),
        ("topk", {"output": (1, 9)}, {"softmax": "no"}, "[output] softmax: found 'no', wanted true or false"),
    ],
)
def test_a_manifest_that_does_not_fit_is_refused(
    name: str, shapes: Shapes, keys: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ModelError) as refused:
        decoder(name, shapes, **keys)
    assert str(refused.value) == sentence


@pytest.mark.parametrize(
    ("alias", "shapes"),
    [
        ("yolo11", {"output": (1, 7, 21)}),
        ("YOLOv9", {"output": (1, 7, 21)}),
        ("yolo12", {"output": (1, 7, 21)}),
        ("yolo10", {"output": (1, 300, 6)}),
        ("rt-detr", {"logits": (1, 300, 3), "pred_boxes": (1, 300, 4)}),
    ],
)
def test_a_family_is_found_by_the_names_of_its_models(alias: str, shapes: Shapes) -> None:
    decoder(alias, shapes, labels=3)


# --- for any boxes


COORDINATES = st.floats(-100, 200, width=32)
ROWS = st.tuples(
    COORDINATES, COORDINATES, st.floats(0, 120, width=32), st.floats(0, 120, width=32), st.floats(0.25, 1, width=32),
    st.integers(0, 2),
)  # fmt: skip


def iou(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = float(max(width, 0)) * float(max(height, 0))
    areas = [float(box[2] - box[0]) * float(box[3] - box[1]) for box in (a, b)]
    return shared / (sum(areas) - shared)


@settings(max_examples=150, deadline=None)
@given(rows=st.lists(ROWS, max_size=25), threshold=st.sampled_from([0.0, 0.3, 0.45, 0.9]))
def test_what_stays_is_a_part_of_what_came_and_does_not_overlap(rows: list[Any], threshold: float) -> None:
    output = [[x, y, x + width, y + height, score, label] for x, y, width, height, score, label in rows]
    geometry = Geometry((100, 80), 1.0, 1.0, 0.0, 0.0)
    array = np.array(output, np.float32).reshape(-1, 6)
    every = detections(end_to_end(), array, geometry)
    kept = detections(end_to_end(nms=True, iou_threshold=threshold), array, geometry)
    every_row, kept_row = (
        [tuple(row) for row in np.column_stack((each.boxes, each.scores, each.class_ids)).tolist()]
        for each in (every, kept)
    )
    assert set(kept_row) <= set(every_row)
    assert kept.scores.tolist() == sorted(kept.scores.tolist(), reverse=True)
    assert bool(every_row) == bool(kept_row)
    assert (every.boxes >= 0).all()
    assert (every.boxes <= (100, 80, 100, 80)).all()
    for index, box in enumerate(kept.boxes):
        for other in np.flatnonzero(kept.class_ids[:index] == kept.class_ids[index]):
            assert iou(box, kept.boxes[other]) <= threshold + 1e-5


SIDES_PX = st.integers(2, 3000)
WAYS = [("letterbox", "top-left"), ("letterbox", "center"), ("stretch", "center"), ("crop", "center")]
PARTS = st.tuples(*[st.floats(0, 1)] * 4)


@settings(max_examples=100, deadline=None)
@given(
    width=SIDES_PX,
    height=SIDES_PX,
    parts=PARTS,
    way=st.sampled_from(WAYS),
)
def test_a_box_of_the_source_comes_back_from_the_input(
    width: int, height: int, parts: tuple[float, ...], way: tuple[str, str]
) -> None:
    lane = Preprocessor(
        TensorSpec("images", (1, 3, 48, 64), np.dtype(np.float32)),
        InputSettings.model_validate({"resize": way[0], "anchor": way[1]}),
    )
    geometry = lane.fill(np.zeros((height, width, 3), np.uint8), np.empty((3, 48, 64), np.float32))
    x1, x2 = sorted((parts[0] * (width - 1), parts[1] * (width - 1)))
    y1, y2 = sorted((parts[2] * (height - 1), parts[3] * (height - 1)))
    box = np.array([x1, y1, x2 + 1, y2 + 1])
    scale = np.array([geometry.scale_x, geometry.scale_y] * 2)
    offset = np.array([geometry.offset_x, geometry.offset_y] * 2)
    found = detections(end_to_end(), [[*(box * scale + offset), 0.9, 0]], geometry)
    np.testing.assert_allclose(found.boxes, [box], atol=1)


# --- a real model


def test_yolox_nano_finds_the_dog_the_bicycle_and_the_car() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    onnx_file = real_data("models/yolox_nano.onnx")
    labels = real_data("models/coco.names").read_text(encoding="utf-8").splitlines()
    manifest = Manifest.model_validate(
        {
            "task": "detect",
            "onnx": "yolox_nano.onnx",
            "input": {"color": "bgr", "anchor": "top-left"},
            "output": {"decoder": "yolox", "score_threshold": 0.35},
        }
    )
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    image = cv2.imread(str(real_data("dog.jpg")))
    assert image is not None
    images = np.empty((1, 3, 416, 416), np.float32)
    lane = Preprocessor(TensorSpec("images", (1, 3, 416, 416), np.dtype(np.float32)), manifest.input)
    geometry = lane.fill(image.astype(np.uint8, copy=False), images[0])
    (output,) = session.run(None, {"images": images})
    outputs = [TensorSpec("output", output.shape, output.dtype)]
    model = Decoder(manifest, labels, outputs, lane.input_px, onnx_file.parent)
    found = model.decode({"output": output[0]}, geometry)
    assert isinstance(found, Detections)
    assert [labels[each] for each in found.class_ids] == ["dog", "bicycle", "car"]
    np.testing.assert_allclose(found.scores, [0.86, 0.80, 0.80], atol=0.01)
    # Where they are in the picture, to a tenth of its width.
    wanted = [[130, 210, 325, 540], [60, 135, 570, 425], [466, 78, 692, 171]]
    np.testing.assert_allclose(found.boxes, wanted, atol=77)
