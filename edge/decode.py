"""One picture's raw output arrays → what was found in it: a pure function for each kind of model, and one's own.

Each decoder is a function of the contract that one's own has: `function(outputs, options)` → boxes (N×4 float32: x1,
y1, x2, y2 in pixels of the model's input), scores (N, float32), class ids (N, whole numbers). `outputs` holds one
picture's arrays, the batch axis stripped. `options` holds all keys of the manifest's `[output]`, with
`score_threshold` as it is in force, and `input_width`, `input_height` and `label_count`. A decoder may leave out what
is below the threshold. For a classifier, boxes are not looked at.
"""

from __future__ import annotations

import difflib
import importlib
import itertools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.machinery import PathFinder
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Literal, cast

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.backends.engine import TensorSpec
from edge.errors import EngineError, ModelError
from edge.manifest import Manifest
from edge.records import Classes, Detections, Findings, Geometry

Outputs = Mapping[str, NDArray[Any]]
Options = Mapping[str, Any]
Raw = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, class ids
Exact = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]  # likewise
Task = Literal["classify", "detect"]

_YOLOX_STRIDES_PX = (8, 16, 32)
_DEFAULT_TOP_K = 5
# Probabilities in float16 add up to 1 within this.
_SUM_TOLERANCE = 0.01
# The least score there is: OpenCV's suppression drops a score of 0, so all of us do.
_LEAST_SCORE = float(np.finfo(np.float32).tiny)
_NO_BOXES = np.empty((0, 4), np.float32)
_NOTHING: Exact = (_NO_BOXES, np.empty(0, np.float32), np.empty(0, np.int64))

_numbers = itertools.count()


class Decoder:
    """How one model's outputs are read; holds nothing that changes, so all lanes of the model can share it."""

    task: Task

    def __init__(
        self,
        manifest: Manifest,
        labels: Sequence[str],
        outputs: Sequence[TensorSpec],
        input_px: tuple[int, int],
        folder: Path,
    ) -> None:
        """Find the decoder that the manifest names; raise ModelError where it does not fit the model's `outputs`.

        `input_px` is the width and height of the model's input; `folder` is the model's, where its own decoder may lie.
        """
        settings = manifest.output
        self.task = manifest.task
        self._name = settings.decoder
        self._label_count = len(labels)
        self._iou_threshold = settings.iou_threshold
        self._max_detections = settings.max_detections
        # A class is told however unsure it is, unless someone asked for a threshold.
        unasked = self.task == "classify" and "score_threshold" not in settings.model_fields_set
        self._score_threshold = 0.0 if unasked else settings.score_threshold
        self._options: Options = MappingProxyType(
            {
                **settings.model_dump(),
                "score_threshold": self._score_threshold,
                "input_width": input_px[0],
                "input_height": input_px[1],
                "label_count": len(labels),
            }
        )
        row = _find(settings.decoder, folder, self.task)
        row.check(outputs, self._options)
        self._function = row.function
        self._nms = row.nms if settings.nms is None else settings.nms

    def decode(self, outputs: Outputs, geometry: Geometry, score_threshold: float | None = None) -> Findings:
        """Read one picture's `outputs` (batch axis stripped); raise EngineError where they cannot be read.

        `geometry` tells where the picture lies in the input. `score_threshold` (0…1) stands in for the manifest's.
        """
        threshold = self._score_threshold if score_threshold is None else score_threshold
        options = self._options if score_threshold is None else {**self._options, "score_threshold": threshold}
        try:
            found = _checked(self._function(outputs, options), self._name, boxed=self.task == "detect")
        except EngineError:
            raise
        except Exception as error:  # what one's own function raises is not ours to know
            raise EngineError(
                f"decoder {self._name!r} failed ({type(error).__name__}: {error}); "
                "correct it, or name another in [output] of model.toml"
            ) from error
        boxes, scores, class_ids = found
        kept = np.flatnonzero(scores >= max(threshold, _LEAST_SCORE))
        scores, class_ids = scores[kept], class_ids[kept]
        self._check_class_ids(class_ids)
        if self.task == "classify":
            order = _best_first(scores)
            return Classes(scores[order], class_ids[order])
        return self._detections(boxes[kept], scores, class_ids, geometry)

    def _detections(
        self, boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int64], geometry: Geometry
    ) -> Detections:
        """Clip before the suppression, so that no two boxes as published overlap more than is allowed."""
        boxes, seen = _to_source(boxes, geometry)
        if len(seen) < len(scores):
            scores, class_ids = scores[seen], class_ids[seen]
        if self._nms and len(scores) > 1:
            order = _suppress(boxes, scores, class_ids, self._iou_threshold)
        else:
            order = _best_first(scores)
        order = order[: self._max_detections]
        return Detections(boxes[order], scores[order], class_ids[order])

    def _check_class_ids(self, class_ids: NDArray[np.int64]) -> None:
        if not class_ids.size:
            return
        low, high = int(class_ids.min()), int(class_ids.max())
        if low < 0 or (self._label_count and high >= self._label_count):
            wanted = f"0 to {self._label_count - 1}, as the labels file has" if self._label_count else "0 or more"
            found = low if low < 0 else high
            raise EngineError(f"decoder {self._name!r} returned class id {found}, wanted {wanted}; correct one of them")


def _checked(found: object, name: str, *, boxed: bool) -> Exact:
    """Return what a decoder returned in the exact dtypes; where no boxes are needed they are not looked at."""
    if not isinstance(found, tuple) or len(found) != len(_NOTHING):
        raise EngineError(f"decoder {name!r} returned {type(found).__name__}, wanted a tuple: boxes, scores, class ids")
    boxes, scores, class_ids = (np.asarray(each) for each in (found if boxed else (_NO_BOXES, *found[1:])))
    if not (boxes.size or scores.size or class_ids.size):
        return _NOTHING  # an array made of an empty list has neither our shape nor our dtype
    shapes_fit = scores.ndim == 1 and class_ids.shape == scores.shape and (not boxed or boxes.shape == (len(scores), 4))
    if not shapes_fit or boxes.dtype.kind not in "fiu" or scores.dtype.kind != "f" or class_ids.dtype.kind not in "iu":
        told = ", ".join(f"{each.dtype} {'×'.join(map(str, each.shape))}" for each in (boxes, scores, class_ids))
        raise EngineError(
            f"decoder {name!r} returned {told}; wanted boxes float32 N×4, scores float32 N, class ids int64 N"
        )
    return (
        boxes.astype(np.float32, copy=False),
        scores.astype(np.float32, copy=False),
        class_ids.astype(np.int64, copy=False),
    )


def _best_first(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    return np.argsort(-scores, kind="stable")


def _to_source(boxes: NDArray[np.float32], geometry: Geometry) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Map boxes to pixels of the source picture, clipped to it; return those with an area, and which they are."""
    width, height = geometry.source_px
    offset = np.array((geometry.offset_x, geometry.offset_y) * 2, np.float32)
    scale = np.array((geometry.scale_x, geometry.scale_y) * 2, np.float32)
    finite = np.isfinite(boxes).all(axis=1)
    with np.errstate(invalid="ignore", over="ignore"):
        mapped = (boxes - offset) / scale
    np.clip(mapped, 0, np.array((width, height) * 2, np.float32), out=mapped)
    seen = np.flatnonzero(finite & (mapped[:, 2] > mapped[:, 0]) & (mapped[:, 3] > mapped[:, 1]))
    return mapped[seen], seen


def _suppress(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], class_ids: NDArray[np.int64], iou_threshold: float
) -> NDArray[np.intp]:
    """Return the boxes that no better one of their class covers by more than `iou_threshold`, best first."""
    corner_and_size = boxes.astype(np.float64)
    corner_and_size[:, 2:] -= corner_and_size[:, :2]
    kept = cv2.dnn.NMSBoxesBatched(corner_and_size.tolist(), scores.tolist(), class_ids.tolist(), 0.0, iou_threshold)
    return np.asarray(kept, np.intp)


def decode_topk(outputs: Outputs, options: Options) -> Raw:
    """Read one output of C values: the `top_k` best classes (default 5); there are no boxes.

    `softmax` tells whether softmax is to be applied; without it, it is, unless the values are probabilities already.
    """
    (output,) = outputs.values()
    scores = output.ravel().astype(np.float32)
    softmax = options.get("softmax")
    if softmax or (softmax is None and not _are_probabilities(scores)):
        scores = _softmax(scores)
    best = _best_first(scores)[: options.get("top_k", _DEFAULT_TOP_K)]
    return _NO_BOXES, scores[best], best


def decode_yolox(outputs: Outputs, options: Options) -> Raw:
    """Read one output N×(5+C): x, y, w, h as offsets over strides 8, 16 and 32, objectness, class scores.

    Sigmoid is in the scores already; a box's centre is (xy + cell)·stride, its size exp(wh)·stride.
    """
    (output,) = outputs.values()
    # A score is objectness times class score, so a box of less objectness than the threshold cannot reach it.
    likely = np.flatnonzero(output[:, 4] >= options["score_threshold"])
    if not likely.size:
        return _NOTHING
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
    """Read one output (4+C)×N: centre x, centre y, width, height in pixels of the input, class scores."""
    (output,) = outputs.values()
    likely = np.flatnonzero(output[4:].max(axis=0) >= options["score_threshold"])
    if not likely.size:
        return _NOTHING
    rows = output[:, likely].T.astype(np.float32)
    class_ids = rows[:, 4:].argmax(axis=1)
    return _corners(rows[:, :2], rows[:, 2:4]), _picked(rows[:, 4:], class_ids), class_ids


def decode_yolov10(outputs: Outputs, options: Options) -> Raw:
    """Read one output N×6: x1, y1, x2, y2 in pixels of the input, score, class; no box stands for another."""
    (output,) = outputs.values()
    rows = output[output[:, 4] >= options["score_threshold"]].astype(np.float32, copy=False)
    rows = rows[np.isfinite(rows).all(axis=1)]
    return rows[:, :4], rows[:, 4], rows[:, 5].astype(np.int64)


def decode_ssd(outputs: Outputs, options: Options) -> Raw:
    """Read scores N×C, of which label 0 is background, and boxes N×4: corners as parts of the input, 0…1.

    With C labels, the labels file tells background too, and class id 1 is the first real class. With C-1 labels, or
    none, background has no label, and class id 0 is the first real class.
    """
    scores, boxes = _scores_and_boxes(outputs)
    real = scores[:, 1:]
    best = real[:, 0] if real.shape[1] == 1 else real.max(axis=1)
    likely = np.flatnonzero(best >= options["score_threshold"])
    if not likely.size:
        return _NOTHING
    class_ids = real[likely].argmax(axis=1) + (scores.shape[1] == options["label_count"])
    return boxes[likely].astype(np.float32) * _input_size(options), best[likely].astype(np.float32), class_ids


def decode_detr(outputs: Outputs, options: Options) -> Raw:
    """Read logits, N×(C+1) as of DETR or N×C as of RT-DETR, and boxes N×4: centre x, y, width, height, all 0…1.

    With one column more than there are labels, the last is "no object" and softmax makes scores of the logits; with as
    many, sigmoid does. The best class of each row is taken; no box stands for another.
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


def _softmax(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return cast("NDArray[np.float32]", powers / powers.sum(axis=-1, keepdims=True))


def _sigmoid(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Take the way over tanh, which cannot overflow."""
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
    """Return the names of the scores and of the boxes: by their names, else by the last axis of 4."""
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
    # Some classifiers keep the two axes that their pooling left: N×C×1×1.
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
        raise ModelError("labels: found none, wanted a file of them in model.toml: decoder 'detr' goes by their number")
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
            "name another decoder in [output] or export the model without the rest"
        )
    return outputs


def _columns(before: int, options: Options) -> int | str:
    """Return the size of an axis of `before` values and then one a class; its name where labels are not known."""
    labels = options["label_count"]
    return before + labels if labels else f"({before}+C)"


def _require(spec: TensorSpec, wanted: tuple[int | str, ...], options: Options) -> None:
    """Compare the axes after the batch's; a size not known before the model runs fits all, and so does a named one."""
    found = spec.shape[1:]
    fits = len(found) == len(wanted) and all(
        size is None or isinstance(want, str) or size == want for size, want in zip(found, wanted, strict=True)
    )
    if not fits:
        raise ModelError(
            f"output {spec.name!r}: found {spec.shape_text}, wanted N×{'×'.join(map(str, wanted))} for decoder "
            f"{options['decoder']!r} with {options['label_count'] or 'no'} labels; correct either in model.toml"
        )


def _check_nothing(outputs: Sequence[TensorSpec], options: Options) -> None:
    """Leave the outputs to one's own decoder, which knows them."""


@dataclass(frozen=True)
class _Row:
    """A row of the table of decoders."""

    tasks: tuple[Task, ...]
    nms: bool  # whether several boxes can stand for one thing, so that the best must be chosen
    check: Callable[[Sequence[TensorSpec], Options], None]  # raises ModelError where the outputs do not fit
    function: Callable[[Outputs, Options], Raw]


_BUILT_IN = {
    "topk": _Row(("classify",), nms=False, check=_check_topk, function=decode_topk),
    "yolox": _Row(("detect",), nms=True, check=_check_yolox, function=decode_yolox),
    "yolov8": _Row(("detect",), nms=True, check=_check_yolov8, function=decode_yolov8),
    "yolov10": _Row(("detect",), nms=False, check=_check_yolov10, function=decode_yolov10),
    "ssd": _Row(("detect",), nms=True, check=_check_ssd, function=decode_ssd),
    "detr": _Row(("detect",), nms=False, check=_check_detr, function=decode_detr),
}


def _find(name: str, folder: Path, task: Task) -> _Row:
    if ":" in name:
        row = _Row(("classify", "detect"), nms=True, check=_check_nothing, function=_load(name, folder))
    elif name in _BUILT_IN:
        row = _BUILT_IN[name]
    else:
        close = difflib.get_close_matches(name, _BUILT_IN, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ""
        known = ", ".join(_BUILT_IN)
        raise ModelError(f"[output] decoder: found {name!r}, wanted {known}, or 'package.module:function'{hint}")
    if task not in row.tasks:
        wanted = repr(row.tasks[0])
        raise ModelError(f"decoder {name!r}: found task {task!r}, wanted {wanted}; correct either in model.toml")
    return row


def _load(name: str, folder: Path) -> Callable[[Outputs, Options], Raw]:
    """Import one's own decoder, `package.module:function`, from the model's folder, else from `sys.path`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = _import(module_name, folder)
    except Exception as error:  # a module's own code may raise anything
        raise ModelError(
            f"decoder {name!r} cannot be imported ({type(error).__name__}: {error}); "
            f"wanted a module {module_name!r} in {folder} or on sys.path"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "nothing" if function is None else type(function).__name__
        raise ModelError(f"decoder {name!r}: found {found} named {function_name!r} in {module_name}, wanted a function")
    return cast("Callable[[Outputs, Options], Raw]", function)


def _import(module_name: str, folder: Path) -> ModuleType:
    importlib.invalidate_caches()
    if PathFinder.find_spec(module_name.partition(".")[0], [str(folder)]) is None:
        return importlib.import_module(module_name)
    # A package made for this model alone, so that the `decoder.py` of another model is another module.
    package = ModuleType(f"edge_model_{next(_numbers)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{module_name}")
