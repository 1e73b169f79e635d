"""Places of a reading's parts in a model's outputs, found by the manifest's names, by the tensors' names, by shapes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.contract import Options
from edge.inference.decode.grids import cells_of
from edge.inference.decode.reading import WIDTHS, Part, Parts, Reading

BOX_COLUMNS = 4
_ROW_AXES = 2  # boxes and columns
# Words in the name of an output that holds a part alone.
_WORDS: Mapping[Part, tuple[str, ...]] = {
    "box": ("box",),
    "score": ("score", "conf", "prob"),
    "class": ("class", "label", "cls"),
    "count": ("num", "count", "valid"),
}
_COLUMN_PARTS: tuple[Part, ...] = ("score", "class", "objectness", "picture", "count")


@dataclass(frozen=True)
class Place:
    """Place of one part: an output, and its columns."""

    output: str
    start: int
    stop: int | None  # None: to the last column
    is_transposed: bool  # the output has a column for each box
    is_whole: bool  # the output has no batch axis

    @cached_property
    def columns(self) -> slice:
        """The columns of the part."""
        return slice(self.start, self.stop)


def place_parts(
    reading: Reading, names: Sequence[str] | None, outputs: Sequence[TensorSpec], options: Options
) -> dict[Part, Place]:
    """Find each part of a reading in a model's outputs; raise ModelError where they do not fit."""
    specs = _named(reading, names, outputs) if names else _matched(reading, outputs, options)
    places: dict[Part, Place] = {}
    ordered = sorted(zip(reading.outputs, specs, strict=True), key=lambda each: "scores" in each[0])
    for parts, spec in ordered:
        if parts == ("unused",):
            continue
        is_whole = _require(spec, parts, reading, options)
        is_transposed = reading.layout == "columns" and "scores" in parts
        for part, (start, stop) in _columns_of(parts).items():
            places[part] = Place(spec.name, start, stop, is_transposed, is_whole)
    return places


def _columns_of(parts: Parts) -> dict[Part, tuple[int, int | None]]:
    """Return first and last column of each part; those behind the class scores are counted from the end."""
    found: dict[Part, tuple[int, int | None]] = {}
    before = 0
    for number, part in enumerate(parts):
        after = sum(WIDTHS.get(each, 1) for each in parts[number + 1 :])
        if part == "scores":
            found[part] = (before, -after or None)
            before = -after
        else:
            width = WIDTHS.get(part, 1)
            found[part] = (before, before + width or None)
            before += width
    return found


def _named(reading: Reading, names: Sequence[str], outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    specs = {spec.name: spec for spec in outputs}
    for name in names[: len(reading.outputs)]:
        if name not in specs:
            found = ", ".join(map(repr, specs))
            raise ModelError(f"[output] outputs: found {name!r}, wanted names of the model's outputs: {found}")
    return [specs[name] for name in names]


def _matched(reading: Reading, outputs: Sequence[TensorSpec], options: Options) -> list[TensorSpec]:
    """Return the model's output for each of the reading's, by names and shapes."""
    wanted = reading.outputs
    if len(outputs) > len(wanted) == 1 and "objectness" in wanted[0]:
        # YOLOv5's exporter leaves the raw scales beside the rows: those have an axis for the anchors.
        rows = [spec for spec in outputs if len(spec.shape) == _ROW_AXES + 1]
        outputs = rows if len(rows) == 1 else outputs
    if len(outputs) != len(wanted):
        raise wrong_count(outputs, len(wanted), options)
    if len(wanted) == 1:
        return list(outputs)
    specs = {spec.name: spec for spec in outputs}
    if set(wanted) == {("box",), ("scores",)}:
        scores, boxes = tell_apart({name: spec.shape for name, spec in specs.items()})
        return [specs[boxes if parts == ("box",) else scores] for parts in wanted]
    return _best_match(wanted, outputs)


def _best_match(wanted: Sequence[Parts], outputs: Sequence[TensorSpec]) -> list[TensorSpec]:
    """Return the one arrangement of outputs that fits best by shape, kind of number and name."""
    ranked = sorted(
        ((sum(map(_likeness, wanted, order)), order) for order in itertools.permutations(outputs)),
        key=lambda each: -each[0],
    )
    (best, order), *others = ranked
    if others and others[0][0] == best:
        names = ", ".join(f"{spec.name!r} {spec.shape_text}" for spec in outputs)
        raise ModelError(
            f"outputs {names}: nothing tells which is which; name them in [output], as in outputs = "
            "{" + ", ".join(f"NAME = {list(parts)}".replace("'", '"') for parts in wanted) + "}"
        )
    return list(order)


def _likeness(parts: Parts, spec: TensorSpec) -> int:
    """Return how well an output fits the parts of a row: by shape first, then by kind of number, then by name."""
    width = None if "scores" in parts else sum(WIDTHS.get(part, 1) for part in parts)
    last = spec.shape[-1] if spec.shape else None
    likeness = 0
    if width is not None and width > 1:
        likeness += 16 if last == width else -16 * (last is not None)
    elif width == 1:
        fits = len(spec.shape) <= _ROW_AXES
        likeness += 16 if fits else -16
        if parts == ("count",):
            likeness += 8 if all(size == 1 for size in spec.shape[1:]) and len(spec.shape) < _ROW_AXES + 1 else -8
            likeness -= 8 * (len(spec.shape) == _ROW_AXES and spec.shape[1] != 1)
    if parts in (("class",), ("count",)) and spec.dtype.kind in "iu":
        likeness += 4
    if parts in (("score",), ("scores",), ("box",)) and spec.dtype.kind in "iu":
        likeness -= 8
    name = spec.name.lower()
    return likeness + 2 * any(word in name for part in parts[:1] for word in _WORDS.get(part, ()))


def tell_apart(shapes: Mapping[str, tuple[int | None, ...]]) -> tuple[str, str]:
    """Return the names of scores and boxes, recognised by name, else by a last axis of 4."""
    first, second = shapes
    called_boxes = ["box" in name.lower() for name in shapes]
    called_scores = ["score" in name.lower() for name in shapes]
    four_wide = [shape[-1:] == (BOX_COLUMNS,) for shape in shapes.values()]
    for sign, of_boxes in ((called_boxes, True), (called_scores, False), (four_wide, True)):
        if sign[0] != sign[1]:
            return (second, first) if sign[0] == of_boxes else (first, second)
    raise ModelError(f"outputs {first!r} and {second!r}: either could be the boxes; name them 'scores' and 'boxes'")


def _require(spec: TensorSpec, parts: Parts, reading: Reading, options: Options) -> bool:
    """Check an output's axes; sizes known only at run time match anything. Return whether it has no batch axis."""
    rows: int | str = "boxes"
    if reading.coding == "yolox":
        rows = len(cells_of(options["input_width"], options["input_height"])[0])
    wanted: tuple[int | str, ...]
    if parts == ("count",):
        return len(spec.shape) == 0
    if "scores" in parts:
        wanted = (rows, _width(spec, parts, reading, options))
        wanted = wanted[::-1] if reading.layout == "columns" else wanted
    elif len(parts) == 1 and parts[0] in _COLUMN_PARTS:
        wanted = (rows,)
    else:
        wanted = (rows, sum(WIDTHS.get(part, 1) for part in parts))
    is_whole = len(spec.shape) == len(wanted)
    found = spec.shape if is_whole else spec.shape[1:]
    fits = len(found) == len(wanted) and all(
        isinstance(want, str) or size == want or (size is None and not is_whole)
        for size, want in zip(found, wanted, strict=True)
    )
    if not fits:
        raise wrong_shape(spec, wanted, options)
    return is_whole


def wrong_count(outputs: Sequence[TensorSpec], wanted: int, options: Options) -> ModelError:
    """Return the error for a model with another number of outputs than the decoder reads."""
    names = ", ".join(f"{spec.name!r} {spec.shape_text}" for spec in outputs)
    return ModelError(
        f"the model has {len(outputs)} outputs ({names}), wanted {wanted} for decoder {options['decoder']!r}; "
        "name another decoder in [output] or export the model without the others"
    )


def wrong_shape(spec: TensorSpec, wanted: Sequence[int | str], options: Options) -> ModelError:
    """Return the error for an output with other axes, after that of the batch, than the decoder reads."""
    return ModelError(
        f"output {spec.name!r}: found {spec.shape_text}, wanted N×{'×'.join(map(str, wanted))} for decoder "
        f"{options['decoder']!r} with {options['label_count'] or 'no'} labels; correct one of them in model.toml"
    )


def _width(spec: TensorSpec, parts: Parts, reading: Reading, options: Options) -> int | str:
    """Return the columns of an output with a score for each class."""
    labels: int = options["label_count"]
    others = sum(WIDTHS.get(part, 1) for part in parts if part != "scores")
    if reading.background is None and not labels:
        needs = f"decoder {options['decoder']!r} needs their number"
        raise ModelError(f"labels: found none, wanted a file of them in model.toml: {needs}")
    if not labels:
        return f"({others + (reading.background != 'none')}+C)"
    columns = spec.shape[-1] if reading.layout == "rows" else spec.shape[-2]
    # With as many columns as labels, the labels include background, or there is none.
    if reading.background in ("first", None) and columns == others + labels:
        return others + labels
    return others + (reading.background != "none") + labels
