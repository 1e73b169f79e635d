"""Reading of a detector's outputs: which columns hold what, in which form, and what is left to compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from edge.core.errors import ModelError
from edge.core.suggestion import did_you_mean

Part = Literal["picture", "box", "objectness", "scores", "score", "class", "count", "kept", "unused"]
Parts = tuple[Part, ...]  # of one output's rows, in the order of its columns
Layout = Literal["rows", "columns"]
Form = Literal["cxcywh", "xyxy", "xywh", "yxyx"]
Units = Literal["input", "unit", "source"]
Activation = Literal["none", "sigmoid", "softmax"]
Background = Literal["none", "first", "last"]
Coding = Literal["none", "yolox"]

# Columns of each part; the class scores take what is left.
WIDTHS: Mapping[Part, int] = {"picture": 1, "box": 4, "objectness": 1, "score": 1, "class": 1, "count": 1, "kept": 3}
# Keys of [output] that every built-in decoder has.
COMMON_KEYS = ("decoder", "score_threshold", "iou_threshold", "nms", "max_detections", "class_agnostic")


@dataclass(frozen=True)
class Reading:
    """Description of a detector's outputs, by which one reader decodes them all."""

    # Parts of each output. "scores" has a column for each class; "score" and "class" are those of the best alone;
    # "picture" is the number of the picture within the batch; "count" the number of rows that hold something; "kept"
    # the indices (picture, class, row) that the graph's own suppression left.
    outputs: tuple[Parts, ...] = (("box", "scores"),)
    layout: Layout = "rows"  # of an output with one row a box; columns: with one column a box
    boxes: Form = "cxcywh"
    units: Units = "input"  # pixels of the input, fractions of it, or pixels of the source picture
    coding: Coding = "none"  # of boxes that are relative to cells of a grid
    activation: Activation | None = "none"  # that is left to apply to scores; None: by the number of labels, as in DETR
    background: Background | None = "none"  # column, or class number, that is no class; None: likewise
    nms: bool = True  # whether several boxes can mark one object, so that suppression is needed


_VALUES: Mapping[str, tuple[str, ...]] = {
    "layout": get_args(Layout),
    "boxes": get_args(Form),
    "units": get_args(Units),
    "coding": get_args(Coding),
    "activation": get_args(Activation),
    "background": get_args(Background),
}
READING_KEYS = (*_VALUES, "outputs")


@dataclass(frozen=True)
class ManifestReading:
    """A family's reading with the parts that [output] of a manifest sets."""

    reading: Reading
    names: tuple[str, ...] | None = None  # of the output that holds each of `reading.outputs`; None: found by shape
    class_agnostic: bool = False


def reading_from(family: Reading, settings: Mapping[str, Any], decoder: str) -> ManifestReading:
    """Return a family's reading as [output] changes it; raise ModelError where a key or value is unknown."""
    check_keys(settings, (*COMMON_KEYS, *READING_KEYS), decoder)
    changes: dict[str, Any] = {}
    names: tuple[str, ...] | None = None
    for key, value in settings.items():
        if key in _VALUES:
            if value not in _VALUES[key]:
                wanted = ", ".join(map(repr, _VALUES[key]))
                raise ModelError(f"[output] {key}: found {value!r}, wanted one of {wanted}")
            changes[key] = value
        elif key == "outputs":
            names, changes[key] = _outputs_from(value)
    agnostic = settings.get("class_agnostic", False)
    if type(agnostic) is not bool:
        raise ModelError(f"[output] class_agnostic: found {agnostic!r}, wanted true or false")
    return ManifestReading(replace(family, **changes), names, agnostic)


def check_keys(settings: Mapping[str, Any], known: Sequence[str], decoder: str) -> None:
    """Raise ModelError for a key of [output] that a built-in decoder does not have."""
    for key in settings:
        if key not in known:
            hint = did_you_mean(key, known) or f"; known keys: {', '.join(known)}"
            raise ModelError(f"[output] {key}: unknown key for decoder {decoder!r}{hint}")


def _outputs_from(value: Any) -> tuple[tuple[str, ...], tuple[Parts, ...]]:
    """Read the table of outputs: the name of each, with the parts of its rows."""
    known = get_args(Part)
    if not isinstance(value, Mapping) or not value:
        raise ModelError(
            f'[output] outputs: found {value!r:.80}, wanted a table such as {{boxes = ["box"], scores = ["scores"]}}'
        )
    for name, parts in value.items():
        if not isinstance(parts, list) or not parts or any(part not in known for part in parts):
            raise ModelError(
                f"[output] outputs: found {parts!r:.80} for output {name!r}, wanted a list of {', '.join(known)}"
            )
    every = [part for parts in value.values() for part in parts if part != "unused"]
    if len(set(every)) < len(every):
        raise ModelError("[output] outputs: found a part twice, wanted each part once")
    has_scores = "scores" in every or "score" in every
    if "box" not in every or not has_scores:
        raise ModelError(f"[output] outputs: found {', '.join(every)}, wanted 'box' and 'scores' or 'score' among them")
    return tuple(value), tuple(tuple(parts) for parts in value.values())


def written_out(reading: Reading) -> dict[str, str]:
    """Return the keys of [output] that write a reading out in full, without its outputs."""
    keys = {each.name: getattr(reading, each.name) for each in fields(reading) if each.name in _VALUES}
    return {key: value for key, value in keys.items() if value is not None and (key != "coding" or value != "none")}
