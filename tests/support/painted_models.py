"""Detectors without weights, whose outputs follow any reading: they find pure red and pure green in a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edge.inference.decode.grids import cells_of
from edge.inference.decode.reading import Part, Reading

Floats = NDArray[np.float64]
SIDE = 96  # pixels of the input
SCORES = (0.8, 0.7)  # of red, class 0, and green, class 1
_QUIET = 0.01  # score of what is not there
_OBJECTNESS = 0.9
_SUFFIX = {"class": TensorProto.INT64, "count": TensorProto.INT32}


@dataclass
class _Graph:
    nodes: list[Any]
    constants: list[Any]

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        name = f"n{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name


def write_painted(
    path: Path,
    reading: Reading,
    names: Sequence[str],
    classes: int = 3,
    rows: int = 60,
    seed: int = 0,
    metadata: dict[str, str] | None = None,
) -> Path:
    """Write a model whose outputs, of these names, follow a reading; `rows` counts those of a picture's boxes."""
    random = np.random.default_rng(seed)
    graph = _Graph([], [])
    if reading.coding == "yolox":
        rows = len(cells_of(SIDE, SIDE)[0])
    places = np.sort(random.choice(rows, 2, replace=False))
    corners, there = _found(graph)
    filler = _filler_boxes(random, rows)
    columns: dict[Part, str] = {}
    columns["box"] = _boxes(graph, reading, corners, there, filler, places)
    for part, (sure, quiet) in _score_columns(reading, classes).items():
        columns[part] = _mixed(graph, there, sure, quiet, rows, places)
    outputs = []
    for name, parts in zip(names, reading.outputs, strict=True):
        tensor, dtype, shape = _output(graph, parts, columns, reading, rows, classes)
        graph.nodes.append(helper.make_node("Identity", [tensor], [name]))
        outputs.append(helper.make_tensor_value_info(name, dtype, shape))
    image = helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, SIDE, SIDE])
    built = helper.make_graph(graph.nodes, "painted", [image], outputs, graph.constants)
    model = helper.make_model(built, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


def _found(graph: _Graph) -> tuple[str, str]:
    """Return the corners of red and of green (1×2×4, pixels), and whether each is there (1×2×1)."""
    planes = [
        graph.add(
            "Slice",
            "images",
            graph.constant([n], np.int64),
            graph.constant([n + 1], np.int64),
            graph.constant([1], np.int64),
        )
        for n in range(3)
    ]
    half = graph.add("Mul", graph.add("ReduceMax", "images", keepdims=1), graph.constant(0.5))
    boxes, there = [], []
    for own, others in ((0, (1, 2)), (1, (0, 2))):
        excess = graph.add("Sub", planes[own], graph.add("Max", *(planes[other] for other in others)))
        mask = graph.add("Cast", graph.add("Greater", excess, half), to=TensorProto.FLOAT)
        seen = graph.add("Reshape", graph.add("ReduceMax", mask, keepdims=1), graph.constant([1, 1, 1], np.int64))
        low, high = [], []
        for axis in (2, 3):  # over rows: x; over columns: y
            line = graph.add(
                "Reshape", graph.add("ReduceMax", mask, axes=[axis], keepdims=0), graph.constant([1, SIDE], np.int64)
            )
            is_on = graph.add("Greater", line, graph.constant(0.5))
            steps = np.arange(SIDE, dtype=np.float32)[np.newaxis]
            first = graph.add("Where", is_on, graph.constant(steps), graph.constant(float(SIDE)))
            last = graph.add("Where", is_on, graph.constant(steps + 1), graph.constant(0.0))
            low.append(graph.add("ReduceMin", first, axes=[1], keepdims=1))
            high.append(graph.add("ReduceMax", last, axes=[1], keepdims=1))
        box = graph.add("Concat", *low, *high, axis=1)
        boxes.append(graph.add("Unsqueeze", box, graph.constant([1], np.int64)))
        there.append(seen)
    return graph.add("Concat", *boxes, axis=1), graph.add("Concat", *there, axis=1)


def _filler_boxes(random: np.random.Generator, rows: int) -> Floats:
    """Return corners of boxes of nothing: at the cells of their rows, if there are as many, else anywhere."""
    cells, strides = cells_of(SIDE, SIDE)
    if rows % len(cells) == 0:
        centers = np.concatenate(
            [np.tile((cells[strides[:, 0] == s] + 0.5) * s, (rows // len(cells), 1)) for s in (8, 16, 32)]
        )
    else:
        centers = random.uniform(0.15 * SIDE, 0.85 * SIDE, (rows, 2))
    sizes = random.uniform(0.08, 0.25, (rows, 2)) * SIDE
    return np.concatenate((centers - sizes / 2, centers + sizes / 2), axis=1)


_MATRICES = {
    "xyxy": np.eye(4),
    "cxcywh": np.array([[0.5, 0, -1, 0], [0, 0.5, 0, -1], [0.5, 0, 1, 0], [0, 0.5, 0, 1]]),
    "xywh": np.array([[1, 0, -1, 0], [0, 1, 0, -1], [0, 0, 1, 0], [0, 0, 0, 1]], float),
    "yxyx": np.eye(4)[:, [1, 0, 3, 2]],
}


def _boxes(graph: _Graph, reading: Reading, corners: str, there: str, filler: Floats, places: NDArray[np.intp]) -> str:
    """Return the boxes of all rows (1×N×4) in the reading's form."""
    matrix = _MATRICES[reading.boxes] / (SIDE if reading.units == "unit" else 1)
    rows = len(filler)
    plain = filler @ matrix
    found = graph.add("MatMul", corners, graph.constant(matrix))
    if reading.coding == "yolox":
        cells, strides = cells_of(SIDE, SIDE)
        plain = np.concatenate((plain[:, :2] / strides - cells, np.log(plain[:, 2:] / strides)), axis=1)
        xy, wh = (
            graph.add(
                "Div",
                graph.add("Slice", found, *(graph.constant([n], np.int64) for n in (a, a + 2, 2))),
                graph.constant(strides[places]),
            )
            for a in (0, 2)
        )
        xy = graph.add("Sub", xy, graph.constant(cells[places]))
        wh = graph.add("Log", graph.add("Max", wh, graph.constant(1e-3)))
        found = graph.add("Concat", xy, wh, axis=2)
    is_there = graph.add("Greater", there, graph.constant(0.5))
    mixed = graph.add("Where", is_there, found, graph.constant(plain[places][np.newaxis]))
    return _placed(graph, mixed, plain, rows, places)


def _placed(graph: _Graph, two: str, plain: Floats, rows: int, places: NDArray[np.intp]) -> str:
    """Put two rows (1×2×K) at their places among others."""
    others = np.delete(plain, places, axis=0)
    every = graph.add("Concat", graph.constant(others[np.newaxis]), two, axis=1)
    order = np.empty(rows, np.int64)
    order[np.delete(np.arange(rows), places)] = np.arange(rows - 2)
    order[places] = [rows - 2, rows - 1]
    return graph.add("Gather", every, graph.constant(order, np.int64), axis=1)


def _mixed(graph: _Graph, there: str, sure: Floats, quiet: Floats, rows: int, places: NDArray[np.intp]) -> str:
    """Return the values of a part (1×N×K): `sure` (2×K) in the rows of what is there, `quiet` (K) elsewhere."""
    plain = np.tile(quiet, (rows, 1))
    is_there = graph.add("Greater", there, graph.constant(0.5))
    two = graph.add("Where", is_there, graph.constant(sure[np.newaxis]), graph.constant(np.tile(quiet, (1, 2, 1))))
    return _placed(graph, two, plain, rows, places)


def _score_columns(reading: Reading, classes: int) -> dict[Part, tuple[Floats, Floats]]:
    """Return the values of each part but the box, for red and green, and for nothing."""
    parts = {part for output in reading.outputs for part in output}
    found: dict[Part, tuple[Floats, Floats]] = {}
    best = [score / (_OBJECTNESS if "objectness" in parts else 1) for score in SCORES]
    if "scores" in parts:
        sure = np.stack([_probabilities(reading, classes, number, score) for number, score in enumerate(best)])
        found["scores"] = _raw(reading, sure), _raw(reading, _probabilities(reading, classes, None, 0))
    if "score" in parts:
        found["score"] = _raw(reading, np.array(best)[:, np.newaxis]), _raw(reading, np.array([_QUIET]))
    if "objectness" in parts:
        found["objectness"] = _raw(reading, np.full((2, 1), _OBJECTNESS)), _raw(reading, np.array([_QUIET]))
    if "class" in parts:
        first = float(reading.background == "first")
        found["class"] = np.array([[first], [first + 1]]), np.array([first])
    if "picture" in parts:
        found["picture"] = np.zeros((2, 1)), np.zeros(1)
    return found


def _probabilities(reading: Reading, classes: int, number: int | None, score: float) -> Floats:
    """Return the probability of each class, and of background where there is one."""
    own = np.full(classes, _QUIET / 2)
    if number is not None:
        own[number] = score
    if reading.background == "none":
        return own
    is_unused = reading.activation == "sigmoid"
    other = np.array([0.001 if is_unused else 1 - own.sum()])
    return np.concatenate((other, own) if reading.background == "first" else (own, other))


def _raw(reading: Reading, probabilities: Floats) -> Floats:
    if reading.activation == "sigmoid":
        return np.log(probabilities / (1 - probabilities))
    return np.log(probabilities) if reading.activation == "softmax" else probabilities


def _output(
    graph: _Graph, parts: Sequence[Part], columns: dict[Part, str], reading: Reading, rows: int, classes: int
) -> tuple[str, int, list[int]]:
    """Return an output's tensor, type and shape."""
    if parts == ("count",):
        return graph.constant([[rows]], np.int32), TensorProto.INT32, [1, 1]
    if len(parts) == 1 and parts[0] in ("score", "class"):
        flat = graph.add("Reshape", columns[parts[0]], graph.constant([1, rows], np.int64))
        dtype = _SUFFIX.get(parts[0], TensorProto.FLOAT)
        return graph.add("Cast", flat, to=dtype), dtype, [1, rows]
    widths = {"box": 4, "scores": classes + (reading.background != "none")}
    width = sum(widths.get(part, 1) for part in parts)
    tensor = graph.add("Concat", *(columns[part] for part in parts), axis=2)
    if reading.layout == "columns" and "scores" in parts:
        return graph.add("Transpose", tensor, perm=[0, 2, 1]), TensorProto.FLOAT, [1, width, rows]
    return tensor, TensorProto.FLOAT, [1, rows, width]
