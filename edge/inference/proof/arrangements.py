"""Arrangements of parts that a detector's outputs can have, by their shapes alone."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.reading import WIDTHS, Layout, Part, Parts

_BOX = 4
_LONG_ROWS: dict[int, tuple[Parts, ...]] = {
    5: (("box", "score"),),
    6: (("box", "score", "class"), ("box", "class", "score"), ("class", "score", "box"), ("score", "class", "box")),
    7: (
        ("picture", "box", "class", "score"),
        ("picture", "box", "score", "class"),
        ("picture", "class", "score", "box"),
        ("box", "objectness", "score", "class"),
    ),
}
_SCORED: tuple[tuple[Parts, int], ...] = ((("box", "scores"), 5), (("box", "objectness", "scores"), 6))
_MOST_SINGLE_AXES = 2
_PAIR = 2
_RAW_SCALE_AXES = 5  # batch, anchors, rows, columns, values: what YOLOv5's exporter leaves beside the rows


@dataclass(frozen=True)
class Arrangement:
    """Outputs by name, and the parts of each one's rows."""

    names: tuple[str, ...]
    outputs: tuple[Parts, ...]
    layout: Layout = "rows"


@dataclass(frozen=True)
class _Matrix:
    """An output as rows and columns."""

    spec: TensorSpec
    rows: int | None
    columns: int | None


def arrangements(specs: Sequence[TensorSpec]) -> Iterator[Arrangement]:
    """Yield every arrangement of parts that outputs of these shapes can have."""
    matrices = [each for each in map(_as_matrix, specs) if each is not None]
    vectors = [spec for spec in specs if _is_vector(spec)]
    counts = [spec for spec in specs if _is_count(spec)]
    others = len(specs) - len(matrices) - len({spec.name for spec in (*vectors, *counts)})
    if len(matrices) == 1 and len(specs) == 1 + sum(len(spec.shape) == _RAW_SCALE_AXES for spec in specs):
        yield from _of_one(matrices[0])
    elif not others and len(matrices) == 1:
        yield from _of_counted(matrices[0], counts, len(specs))
        yield from _of_separate(matrices[0], vectors, counts, len(specs))
    elif len(matrices) == len(specs):
        yield from _of_matrices(matrices)


def _of_counted(matrix: _Matrix, counts: Sequence[TensorSpec], outputs: int) -> Iterator[Arrangement]:
    """Yield rows and their number."""
    last: Part
    for found in _of_one(matrix) if outputs == 1 + len(counts) == _PAIR else ():
        if "score" in found.outputs[0]:
            for last in ("count", "unused"):
                yield Arrangement((*found.names, counts[0].name), (*found.outputs, (last,)), found.layout)


def _of_matrices(matrices: Sequence[_Matrix]) -> Iterator[Arrangement]:
    """Yield boxes and scores, and what the graph's own suppression kept."""
    if len(matrices) == _PAIR:
        for boxes, scores in itertools.permutations(matrices):
            yield from _of_pair(boxes, scores)
    elif len(matrices) == _PAIR + 1:
        for boxes, scores, kept in itertools.permutations(matrices):
            if kept.spec.dtype.kind in "iu" and kept.columns == WIDTHS["kept"] and boxes.columns == _BOX:
                names = (boxes.spec.name, scores.spec.name, kept.spec.name)
                layout: Layout = "columns" if scores.columns == boxes.rows else "rows"
                yield Arrangement(names, (("box",), ("scores",), ("kept",)), layout)


def _of_one(matrix: _Matrix) -> Iterator[Arrangement]:
    for layout, columns, rows in (("rows", matrix.columns, matrix.rows), ("columns", matrix.rows, matrix.columns)):
        if columns is None or (rows is not None and rows < columns):
            continue
        name: tuple[str, ...] = (matrix.spec.name,)
        if layout == "rows":
            yield from (Arrangement(name, (parts,)) for parts in _LONG_ROWS.get(columns, ()))
        for parts, least in _SCORED:
            if columns >= least:
                yield Arrangement(name, (parts,), "rows" if layout == "rows" else "columns")


def _of_pair(boxes: _Matrix, scores: _Matrix) -> Iterator[Arrangement]:
    if boxes.columns != _BOX:
        return
    names = (boxes.spec.name, scores.spec.name)
    if scores.rows == boxes.rows:
        yield Arrangement(names, (("box",), ("scores",)))
    elif scores.columns == boxes.rows:
        yield Arrangement(names, (("box",), ("scores",)), "columns")


def _of_separate(
    matrix: _Matrix, vectors: Sequence[TensorSpec], counts: Sequence[TensorSpec], outputs: int
) -> Iterator[Arrangement]:
    """Yield boxes in one output, with score and class of each in others, and perhaps their number."""
    first: Parts = {4: ("box",), 5: ("box", "score")}.get(matrix.columns or 0, ())  # type: ignore[assignment]
    wanted: tuple[Part, ...] = ("score", "class") if first == ("box",) else ("class",)
    if not first:
        return
    for count in [None, *counts]:
        rest = [spec for spec in vectors if count is None or spec.name != count.name]
        if outputs != 1 + len(wanted) + (count is not None):
            continue
        for order in itertools.permutations(rest, len(wanted)):
            if any(part == "score" and spec.dtype.kind in "iu" for part, spec in zip(wanted, order, strict=True)):
                continue
            names = (matrix.spec.name, *(spec.name for spec in order), *([count.name] if count else ()))
            parts: tuple[Parts, ...] = (first, *((part,) for part in wanted), *((("count",),) if count else ()))
            yield Arrangement(names, parts)


def _as_matrix(spec: TensorSpec) -> _Matrix | None:
    shape = spec.shape
    if len(shape) == 3:  # noqa: PLR2004 -- batch, rows, columns
        return _Matrix(spec, shape[1], shape[2])
    if len(shape) == 2 and shape[1] in (3, 4, 5, 6, 7) and shape[0] != 1:  # noqa: PLR2004 -- without a batch axis
        return _Matrix(spec, shape[0], shape[1])
    return None


def _is_vector(spec: TensorSpec) -> bool:
    return _as_matrix(spec) is None and 1 <= len(spec.shape) <= _MOST_SINGLE_AXES


def _is_count(spec: TensorSpec) -> bool:
    return len(spec.shape) <= _MOST_SINGLE_AXES and all(size == 1 for size in spec.shape[1:]) and _is_one(spec)


def _is_one(spec: TensorSpec) -> bool:
    return not spec.shape or spec.shape[0] in (1, None)
