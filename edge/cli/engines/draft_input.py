"""Draft of a model's `[input]`: the picture's input, its size and type, and the values of further inputs."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from edge.core.errors import ModelError
from edge.core.manifest import LARGEST_SIDE, VALUES_EXAMPLE, InputValue
from edge.core.suggestion import did_you_mean
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.grids import STRIDES_PX, cells_of

Pixels = tuple[int, int]  # width, height

_CHANNELS = (1, 3, 4)
_PICTURE_AXES = (3, 4)
_PICTURE_TYPES = ("float32", "float16", "float64", "uint8", "int8", "int32")
_ANCHORS = (1, 3)  # boxes of a cell
_ASSUMED_SIZE = (640, 640)
# Values that leave boxes in pixels of the input, whatever the picture's size and placement: by words in the name.
_KNOWN_VALUES: tuple[tuple[str, InputValue, str], ...] = (
    (r"scale_?factor", 1, "1, so that boxes stay in pixels of the input"),
    (r"mask", 1, "1: every pixel belongs to the picture"),
    (r"size|shape", "input-size", "the input's size, so that boxes are in its pixels"),
    (r"iou", 0.45, "0.45, the threshold of suppression in the graph"),
    (r"score|conf|thresh", 0.01, "0.01, so that score_threshold decides"),
    (r"max.*(det|box|output)|top_?k|keep", 300, "300, the most boxes of a picture"),
)
_PAIR = 2
_BOX_AXES = 3  # batch, boxes, numbers of each
_LEAST_SIDE = 160  # of a detector; fewer boxes may be a number of classes


@dataclass(frozen=True)
class InputDraft:
    """Inputs as the file has them, with assumptions where it does not say."""

    picture: TensorSpec
    channels: int
    size: Pixels | None  # to set; None: the model has a fixed size
    values: Mapping[str, InputValue]
    notes: Sequence[str] = field(default_factory=list)  # each assumption, for people

    @property
    def is_bytes(self) -> bool:
        """True if the model takes pixels as they are, and scales them itself."""
        return self.picture.dtype.kind in "iu"

    @property
    def zero_level(self) -> int:
        """The level of a pixel that such a model takes as 0."""
        return 128 if self.picture.dtype.name == "int8" else 0


def draft_input(
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    metadata: Mapping[str, str],
    *,
    size: Pixels | None = None,
    optimised: Pixels | None = None,
    values: Mapping[str, InputValue] | None = None,
) -> InputDraft:
    """Draft the input of a model with these tensors; `size` and `values` are given by the user.

    `optimised` is the size that an engine file with open sizes was optimised for.

    Raises ModelError where no input, or more than one, can take the picture, a further input takes unknown values, or
    what is given does not fit the model.
    """
    given = values or {}
    names = [spec.name for spec in inputs]
    if unknown := [name for name in given if name not in names]:
        meant = did_you_mean(unknown[0], names)
        raise ModelError(f"--value {unknown[0]}: the model has no such input; wanted one of {', '.join(names)}{meant}")
    picture = _picture([spec for spec in inputs if spec.name not in given])
    channels = _channels(picture, metadata)
    notes = []
    found: dict[str, InputValue] = {}
    for spec in inputs:
        if spec is not picture:
            found[spec.name], note = (given[spec.name], "as given") if spec.name in given else _value(spec)
            notes.append(f"input {spec.name!r} ({spec.shape_text or 'one number'}): {note}")
    known = (
        (size, "as given"),
        (image_size(metadata), "the size in the file's metadata (imgsz)"),
        (optimised, "the size that the engine is optimised for"),
        (_size_of_boxes(outputs), "the size that gives so many boxes"),
    )
    set_size, reason = _size(picture, channels, known)
    if reason:
        notes.append(reason)
    if picture.dtype.kind in "iu":
        shift = ", less 128" if picture.dtype.name == "int8" else ""
        notes.append(
            f"input {picture.name!r} is {picture.dtype.name}: pixels as they are{shift}, without scale and std"
        )
    return InputDraft(picture, channels, set_size, found, notes)


def _picture(specs: Sequence[TensorSpec]) -> TensorSpec:
    like = [spec for spec in specs if len(spec.shape) in _PICTURE_AXES and spec.dtype.name in _PICTURE_TYPES]
    like = [spec for spec in like if _has_channels(spec)]
    like = [spec for spec in like if len(spec.shape) == max(_PICTURE_AXES)] or like
    if len(like) == 1:
        return like[0]
    if len(specs) == 1:
        raise ModelError(
            f"input {specs[0].name!r} ({specs[0].shape_text or 'one number'}, {specs[0].dtype.name}) takes no picture; "
            "wanted N×C×H×W or N×H×W×C with 1, 3 or 4 channels, of floats or bytes"
        )
    described = ", ".join(f"{spec.name} {spec.shape_text or 'one number'} {spec.dtype.name}" for spec in specs)
    raise ModelError(
        f"the model has {len(specs)} inputs ({described}), of which {len(like)} may take the picture; wanted one: give "
        f"the others' with --value NAME=VALUE, or export the model with one picture as its input"
    )


def _has_channels(spec: TensorSpec) -> bool:
    return any(size in (*_CHANNELS, None) for size in (spec.shape[-3], spec.shape[-1]))


def _channels(picture: TensorSpec, metadata: Mapping[str, str]) -> int:
    """Return the channels that the shape tells, or Ultralytics' metadata where it leaves them open; else 3."""
    sizes = (picture.shape[-3], picture.shape[-1])
    said = metadata.get("channels", "")
    told = int(said) if said.isdecimal() and int(said) in _CHANNELS else 3
    return next((size for size in sizes if size in _CHANNELS), told)


def _value(spec: TensorSpec) -> tuple[InputValue, str]:
    """Return the value of a further input by its name and shape, with the reason."""
    known = next((each for each in _KNOWN_VALUES if re.search(each[0], spec.name.casefold())), None)
    if known is not None and (known[1] != "input-size" or spec.shape[-1:] == (_PAIR,)):
        return known[1], known[2]
    if spec.shape[-1:] == (_PAIR,):
        return "input-size", "the input's size, by its two numbers; check it"
    raise ModelError(
        f"input {spec.name!r} ({spec.shape_text or 'one number'}, {spec.dtype.name}): it is not known what it takes; "
        f"give it with --value {spec.name}=VALUE: source-size, input-size, scale or a number ({VALUES_EXAMPLE})"
    )


def _size(picture: TensorSpec, channels: int, known: Sequence[tuple[Pixels | None, str]]) -> tuple[Pixels | None, str]:
    """Return the size to set, the first that is known, and its origin; None where the model has a fixed one."""
    if len(picture.shape) not in _PICTURE_AXES:
        return None, ""
    row = picture.shape[-3:]
    is_interleaved = row[2] == channels and row[0] != channels
    height, width = row[:2] if is_interleaved else row[1:]
    if height is not None and width is not None:
        if (size := known[0][0]) not in (None, (width, height)):  # the user's
            raise ModelError(
                f"--size: found {size[0]},{size[1]}, and the model's input is {width},{height}, which is fixed; omit "
                "the option, or export the model with another size"
            )
        return None, ""
    said, where = next(((each, origin) for each, origin in known if each is not None), (None, ""))
    if said is None:
        side = height or width
        said = (side, side) if side else _ASSUMED_SIZE
        where = "assumed, as the model leaves it open: give what it was trained with by --size WIDTH,HEIGHT"
    size = (width or said[0], height or said[1])
    return size, f"input size {size[0]}×{size[1]}: {where}"


def image_size(metadata: Mapping[str, str]) -> Pixels | None:
    """Return the width and height that an ONNX file's metadata have, as Ultralytics writes them; None without any."""
    try:
        found = ast.literal_eval(metadata.get("imgsz", "").strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None
    sides = [found, found] if isinstance(found, int) else list(found) if isinstance(found, (list, tuple)) else []
    if len(sides) != _PAIR or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):
        return None
    return sides[1], sides[0]  # height comes first there


def _size_of_boxes(outputs: Sequence[TensorSpec]) -> Pixels | None:
    """Return the square size whose cells give the number of boxes of an output; None if no size does."""
    cells = sum(1 / stride_px**2 for stride_px in STRIDES_PX)
    counts = {size for spec in outputs if len(spec.shape) == _BOX_AXES for size in spec.shape[1:] if size is not None}
    for count in sorted(counts, reverse=True):  # boxes are more than the numbers of each
        for anchors in _ANCHORS:
            side = round(math.sqrt(count / anchors / cells))
            is_side = _LEAST_SIDE <= side <= LARGEST_SIDE and side % STRIDES_PX[-1] == 0
            if is_side and len(cells_of(side, side)[0]) * anchors == count:
                return side, side
    return None
