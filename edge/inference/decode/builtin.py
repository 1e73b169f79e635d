"""Table of built-in decoders, and the types of a decoder."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec

Outputs = Mapping[str, NDArray[Any]]
Options = Mapping[str, Any]
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, class ids
Exact = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]  # likewise
Task = Literal["classify", "detect"]

_YOLOX_STRIDES_PX = (8, 16, 32)
_DEFAULT_TOP_K = 5
# Tolerance for the sum of float16 probabilities.
_SUM_TOLERANCE = 0.01
NO_BOXES = np.empty((0, 4), np.float32)
NOTHING: Exact = (NO_BOXES, np.empty(0, np.float32), np.empty(0, np.int64))


@dataclass(frozen=True)
class DecoderRow:
    """Row of the table of decoders."""

    tasks: tuple[Task, ...]
    nms: bool  # whether several boxes can mark one object, so that suppression is needed
    check: Callable[[Sequence[TensorSpec], Options], None]  # raises ModelError if the outputs do not fit
    function: Callable[[Outputs, Options], Raw]


def decode_topk(outputs: Outputs, options: Options) -> Raw:
    """Decode one output of C values into the `top_k` best classes (default 5), without boxes.

    `softmax` sets whether softmax is applied; by default it is, unless the values are probabilities already.
    """
    (output,) = outputs.values()
    scores = output.ravel().astype(np.float32)
    softmax = options.get("softmax")
    if softmax or (softmax is None and not _are_probabilities(scores)):
        scores = _softmax(scores)
    best = best_first(scores)[: options.get("top_k", _DEFAULT_TOP_K)]
    return NO_BOXES, scores[best], best


def decode_yolox(outputs: Outputs, options: Options) -> Raw:
    """Decode one output N×(5+C): x, y, w, h as offsets over strides 8, 16 and 32, objectness, class scores.

    The scores include sigmoid; a box's centre is (xy + cell)·stride, its size exp(wh)·stride.
    """
    (output,) = outputs.values()
    # A score is objectness times class score, so a box with objectness below the threshold cannot reach it.
    likely = np.flatnonzero(output[:, 4] >= options["score_threshold"])
    if not likely.size:
        return NOTHING
    rows = output[likely].astype(np.float32, copy=False)
    class_ids = rows[:, 5:].argmax(axis=1)
    scores = rows[:, 4] * _picked(rows[:, 5:], class_ids)
    cells, strides_px = _yolox_cells(options["input_width"], options["input_height"])
    stride_px = strides_px[likely]
    with np.errstate(over="ignore", invalid="ignore"):
        centers = (rows[:, :2] + cells[likely]) * stride_px
        boxes = _corners(centers, np.exp(rows[:, 2:4]) * stride_px)
    return boxes, scores, class_ids


def decode_yolov8(outputs: Outputs, options: Options) -> Raw:
    """Decode one output (4+C)×N: centre x, centre y, width, height in pixels of the input, class scores."""
    (output,) = outputs.values()
    likely = np.flatnonzero(output[4:].max(axis=0) >= options["score_threshold"])
    if not likely.size:
        return NOTHING
    rows = output[:, likely].T.astype(np.float32)
    class_ids = rows[:, 4:].argmax(axis=1)
    return _corners(rows[:, :2], rows[:, 2:4]), _picked(rows[:, 4:], class_ids), class_ids


def decode_yolov10(outputs: Outputs, options: Options) -> Raw:
    """Decode one output N×6: x1, y1, x2, y2 in pixels of the input, score, class; without suppression."""
    (output,) = outputs.values()
    rows = output[output[:, 4] >= options["score_threshold"]].astype(np.float32, copy=False)
    rows = rows[np.isfinite(rows).all(axis=1)]
    return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)


def decode_ssd(outputs: Outputs, options: Options) -> Raw:
    """Decode scores N×C, whose class 0 is background, and boxes N×4: corners as fractions of the input, 0…1.

    With C labels, the labels file includes background, and class id 1 is the first real class. With C-1 labels, or
    none, background has no label, and class id 0 is the first real class.
    """
    scores, boxes = _scores_and_boxes(outputs)
    real = scores[:, 1:]
    best = real[:, 0] if real.shape[1] == 1 else real.max(axis=1)
    likely = np.flatnonzero(best >= options["score_threshold"])
    if not likely.size:
        return NOTHING
    class_ids = real[likely].argmax(axis=1) + (scores.shape[1] == options["label_count"])
    return boxes[likely].astype(np.float32) * _input_size(options), best[likely].astype(np.float32), class_ids


def decode_detr(outputs: Outputs, options: Options) -> Raw:
    """Decode logits, N×(C+1) as in DETR or N×C as in RT-DETR, and boxes N×4: centre x, y, width, height, all 0…1.

    With one column more than labels, the last is "no object" and scores are the softmax of the logits; with as many
    columns, they are the sigmoid. Each row gives its best class; there is no suppression.
    """
    logits, boxes = _scores_and_boxes(outputs)
    logits = logits.astype(np.float32, copy=False)
    every = _sigmoid(logits) if logits.shape[1] == options["label_count"] else _softmax(logits)[:, :-1]
    class_ids = every.argmax(axis=1)
    scores = _picked(every, class_ids)
    likely = np.flatnonzero(scores >= options["score_threshold"])
    parts = boxes[likely].astype(np.float32)
    return _corners(parts[:, :2], parts[:, 2:]) * _input_size(options), scores[likely], class_ids[likely]


def _corners(centers: NDArray[np.float32], sizes: NDArray[np.float32]) -> NDArray[np.float32]:
    halves = sizes * np.float32(0.5)
    return np.concatenate((centers - halves, centers + halves), axis=1)


def _picked(rows: NDArray[np.float32], columns: NDArray[np.intp]) -> NDArray[np.float32]:
    """Return one value of each row."""
    return rows[np.arange(len(rows)), columns]


def best_first(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the indices that sort scores in descending order."""
    return np.argsort(-scores, kind="stable")


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("NDArray[np.float32]", powers / powers.sum(axis=-1, keepdims=True))


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Compute the sigmoid through tanh, which cannot overflow."""
    half = np.float32(0.5)
    return cast("NDArray[np.float32]", half + half * np.tanh(half * logits))


def _are_probabilities(scores: NDArray[np.float32]) -> bool:
    return bool(scores.min() >= 0) and abs(float(scores.sum()) - 1.0) < _SUM_TOLERANCE


def _input_size(options: Options) -> NDArray[np.float32]:
    return np.array((options["input_width"], options["input_height"]) * 2, np.float32)


@lru_cache(maxsize=16)
def _yolox_cells(input_width: int, input_height: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return each output row's cell (N×2: column, row of its grid) and stride in pixels (N×1)."""
    cells, strides_px = [], []
    for stride_px in _YOLOX_STRIDES_PX:
        rows, columns = np.indices((input_height // stride_px, input_width // stride_px), np.float32)
        cells.append(np.stack((columns.ravel(), rows.ravel()), axis=1))
        strides_px.append(np.full((rows.size, 1), stride_px, np.float32))
    return np.concatenate(cells), np.concatenate(strides_px)


def _scores_and_boxes(outputs: Outputs) -> tuple[NDArray[Any], NDArray[Any]]:
    scores, boxes = _tell_apart({name: output.shape for name, output in outputs.items()})
    return outputs[scores], outputs[boxes]


def _tell_apart(shapes: Mapping[str, tuple[int | None, ...]]) -> tuple[str, str]:
    """Return the names of scores and boxes, recognised by name, else by a last axis of 4."""
    first, second = shapes
    called_boxes = ["box" in name.lower() for name in shapes]
    called_scores = ["score" in name.lower() for name in shapes]
    four_wide = [shape[-1:] == (4,) for shape in shapes.values()]
    for sign, of_boxes in ((called_boxes, True), (called_scores, False), (four_wide, True)):
        if sign[0] != sign[1]:
            return (second, first) if sign[0] == of_boxes else (first, second)
    raise ModelError(f"outputs {first!r} and {second!r}: either could be the boxes; name them 'scores' and 'boxes'")


def _check_topk(outputs: Sequence[TensorSpec], options: Options) -> None:
    (output,) = _counted(outputs, 1, options)
    top_k, softmax = options.get("top_k", _DEFAULT_TOP_K), options.get("softmax")
    if type(top_k) is not int or top_k < 1:
        raise ModelError(f"[output] top_k: found {top_k!r}, wanted a whole number, 1 or more")
    if softmax is not None and type(softmax) is not bool:
        raise ModelError(f"[output] softmax: found {softmax!r}, wanted true or false")
    # Some classifiers keep the two axes of their pooling: N×C×1×1.
    _require(output, (options["label_count"] or "C", *[1] * (len(output.shape) - 2)), options)


def _check_yolox(outputs: Sequence[TensorSpec], options: Options) -> None:
    (output,) = _counted(outputs, 1, options)
    cells, _ = _yolox_cells(options["input_width"], options["input_height"])
    _require(output, (len(cells), _columns(5, options)), options)


def _check_yolov8(outputs: Sequence[TensorSpec], options: Options) -> None:
    (output,) = _counted(outputs, 1, options)
    _require(output, (_columns(4, options), "boxes"), options)


def _check_yolov10(outputs: Sequence[TensorSpec], options: Options) -> None:
    (output,) = _counted(outputs, 1, options)
    _require(output, ("boxes", 6), options)


def _check_ssd(outputs: Sequence[TensorSpec], options: Options) -> None:
    scores = _check_pair(outputs, options)
    labels = options["label_count"]
    _require(scores, ("boxes", labels if labels and scores.shape[-1] == labels else _columns(1, options)), options)


def _check_detr(outputs: Sequence[TensorSpec], options: Options) -> None:
    logits = _check_pair(outputs, options)
    labels = options["label_count"]
    if not labels:
        raise ModelError("labels: found none, wanted a file of them in model.toml: decoder 'detr' needs their number")
    _require(logits, ("boxes", labels if logits.shape[-1] == labels else labels + 1), options)


def _check_pair(outputs: Sequence[TensorSpec], options: Options) -> TensorSpec:
    """Check the boxes of two outputs and return the other."""
    specs = {spec.name: spec for spec in _counted(outputs, 2, options)}
    scores, boxes = _tell_apart({name: spec.shape for name, spec in specs.items()})
    _require(specs[boxes], ("boxes", 4), options)
    return specs[scores]


def _counted(outputs: Sequence[TensorSpec], count: int, options: Options) -> Sequence[TensorSpec]:
    if len(outputs) != count:
        names = ", ".join(f"{spec.name!r} {spec.shape_text}" for spec in outputs)
        raise ModelError(
            f"the model has {len(outputs)} outputs ({names}), wanted {count} for decoder {options['decoder']!r}; "
            "name another decoder in [output] or export the model without the others"
        )
    return outputs


def _columns(before: int, options: Options) -> int | str:
    """Return the size of an axis of `before` values and one per class; its name if the labels are not known."""
    labels = options["label_count"]
    return before + labels if labels else f"({before}+C)"


def _require(spec: TensorSpec, wanted: tuple[int | str, ...], options: Options) -> None:
    """Check the axes after the batch; sizes known only at run time, and named ones, match anything."""
    found = spec.shape[1:]
    fits = len(found) == len(wanted) and all(
        size is None or isinstance(want, str) or size == want for size, want in zip(found, wanted, strict=True)
    )
    if not fits:
        raise ModelError(
            f"output {spec.name!r}: found {spec.shape_text}, wanted N×{'×'.join(map(str, wanted))} for decoder "
            f"{options['decoder']!r} with {options['label_count'] or 'no'} labels; correct one of them in model.toml"
        )


BUILT_IN = {
    "topk": DecoderRow(("classify",), nms=False, check=_check_topk, function=decode_topk),
    "yolox": DecoderRow(("detect",), nms=True, check=_check_yolox, function=decode_yolox),
    "yolov8": DecoderRow(("detect",), nms=True, check=_check_yolov8, function=decode_yolov8),
    "yolov10": DecoderRow(("detect",), nms=False, check=_check_yolov10, function=decode_yolov10),
    "ssd": DecoderRow(("detect",), nms=True, check=_check_ssd, function=decode_ssd),
    "detr": DecoderRow(("detect",), nms=False, check=_check_detr, function=decode_detr),
}
# Names of models whose outputs are laid out as those of the family that is named on the right.
ALIASES = {
    **dict.fromkeys(("yolo8", "yolov9", "yolo9", "yolo11", "yolov11", "yolo12", "yolov12"), "yolov8"),
    "yolo10": "yolov10",
    **dict.fromkeys(("rtdetr", "rt-detr"), "detr"),
}
