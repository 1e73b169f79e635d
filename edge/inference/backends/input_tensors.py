"""Input tensors of a model as served: the picture's first, open sizes set, and the values of further inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.core.manifest import ORDERS, PER_PICTURE, VALUES_EXAMPLE, InputSettings, InputValue
from edge.core.onnx_file import OnnxFile, OnnxValue
from edge.core.records import Geometry
from edge.core.suggestion import did_you_mean
from edge.inference.backends.engine import TensorSpec

Feed = Mapping[str, NDArray[Any]]  # a model's inputs by their names
Shape = tuple[int | None, ...]
ValueWriter = Callable[[int, Geometry], None]  # row, placement of its picture

_PICTURE_AXES = 4
# Inputs that take height before width, as their exporters name them; others take width first.
_HEIGHT_FIRST = frozenset({"im_shape", "scale_factor", "image_shape", "im_size", "ori_shape", "target_sizes"})
# Types by their numbers in onnx.proto.
_DTYPES = {1: "float32", 2: "uint8", 3: "int8", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}


def served_inputs(specs: Sequence[TensorSpec], settings: InputSettings) -> tuple[TensorSpec, ...]:
    """Return the inputs as they are served; raise ModelError if the settings do not say what each gets."""
    names = [spec.name for spec in specs]
    for name in settings.values:
        if name not in names:
            raise ModelError(
                f"[input] values: the model has no input {name!r}, wanted one of {', '.join(names)}"
                f"{did_you_mean(name, names)}"
            )
    pictures = [spec for spec in specs if spec.name not in settings.values]
    if len(pictures) != 1:
        described = ", ".join(f"{spec.name} {spec.shape_text or 'scalar'}" for spec in specs)
        raise ModelError(
            f"the model has {len(specs)} inputs ({described}), of which {len(pictures)} have no values; wanted [input] "
            f"values for all but the picture's, as in {VALUES_EXAMPLE}"
        )
    picture = _picture(pictures[0], settings)
    others = (_further(spec, picture) for spec in specs if spec.name in settings.values)
    return (picture, *others)


def batch_of(specs: Sequence[TensorSpec], settings: InputSettings | None) -> int | None:
    """Return the only batch size of a model with these inputs; None for any."""
    values = settings.values if settings is not None else {}
    is_single = any(not spec.has_batch and _is_per_picture(values.get(spec.name)) for spec in specs)
    if is_single or not specs[0].has_batch:
        return 1
    return specs[0].shape[0] if specs[0].shape else 1


def open_sizes_set(onnx: Path, settings: InputSettings | None) -> tuple[tuple[str, Shape], ...]:
    """Return the shapes of the inputs of a file whose open sizes the settings set, by name; None is the batch."""
    return tuple(
        (value.name, shape) for value, shape in _served_shapes(onnx, settings) if shape != _as_spec(value).shape
    )


def named_sizes(onnx: Path, settings: InputSettings | None) -> dict[str, int]:
    """Return the sizes of a file's named axes that the settings set, so that its outputs have fixed shapes too.

    A name that stands for two sizes, or for the batch too, is left out.
    """
    sizes: dict[str, set[int | None]] = {}
    for value, shape in _served_shapes(onnx, settings):
        for name, size in zip(value.shape or (), shape, strict=False):
            if isinstance(name, str) and name:
                sizes.setdefault(name, set()).add(size)
    return {name: size for name, (size, *others) in sizes.items() if size is not None and not others}


def _served_shapes(onnx: Path, settings: InputSettings | None) -> list[tuple[OnnxValue, Shape]]:
    """Return the inputs of a file with their shapes as served, if the settings say more than the file."""
    if settings is None or (settings.size is None and not settings.values):
        return []
    values = [value for value in OnnxFile(onnx).inputs if value.shape is not None]
    served = served_inputs([_as_spec(value) for value in values], settings)
    shapes = {spec.name: spec.shape if spec.has_batch else spec.shape[1:] for spec in served}
    return [(value, shapes[value.name]) for value in values]


def fill_values(arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec], settings: InputSettings) -> None:
    """Write the values of the further inputs over all their rows, as for pictures of the input's own size."""
    input_px = picture_px(specs[0], settings)
    geometry = Geometry(input_px, 1.0, 1.0, 0.0, 0.0)
    for spec in specs[1:]:
        rows, value = arrays[spec.name], settings.values[spec.name]
        if isinstance(value, str):
            write = make_writer(rows, spec.name, value, input_px)
            for row in range(len(rows)):
                write(row, geometry)
        else:
            _fill_constant(rows, spec.name, value)


def per_picture_writers(
    arrays: Mapping[str, NDArray[Any]], specs: Sequence[TensorSpec], settings: InputSettings
) -> list[ValueWriter]:
    """Return a writer for each input whose value depends on the picture."""
    input_px = picture_px(specs[0], settings)
    return [
        make_writer(arrays[spec.name], spec.name, value, input_px)
        for spec in specs[1:]
        if isinstance(value := settings.values[spec.name], str) and _is_per_picture(value)
    ]


def make_writer(rows: NDArray[Any], name: str, word: str, input_px: tuple[int, int]) -> ValueWriter:
    """Return the function that writes an input's value for a picture; raise ModelError if it takes other numbers."""
    plain = next((word.removesuffix(order) for order in ORDERS if word.endswith(order)), word)
    flat = rows.reshape(len(rows), -1)
    if flat.shape[1] not in ((1, 2) if plain == "scale" else (2,)):
        found = "×".join(map(str, rows.shape[1:])) or "one number"
        raise ModelError(f"[input] values: {name}: the input takes {found} for each picture, wanted two for {word!r}")
    is_height_first = word.endswith("-hw") or (word == plain and name in _HEIGHT_FIRST)
    first, second = (1, 0) if is_height_first and flat.shape[1] > 1 else (0, flat.shape[1] - 1)

    def write_source_size(row: int, geometry: Geometry) -> None:
        flat[row, first], flat[row, second] = geometry.source_px

    def write_scale(row: int, geometry: Geometry) -> None:
        flat[row, first], flat[row, second] = geometry.scale_x, geometry.scale_y

    def write_input_size(row: int, _geometry: Geometry) -> None:
        flat[row, first], flat[row, second] = input_px

    return {"source-size": write_source_size, "scale": write_scale, "input-size": write_input_size}[plain]


def _fill_constant(rows: NDArray[Any], name: str, value: InputValue) -> None:
    numbers = np.array(value, np.float64)
    try:
        rows[...] = numbers.reshape(rows.shape[1:]) if numbers.size == rows[0].size else numbers
    except ValueError:
        wanted = "×".join(map(str, rows.shape[1:])) or "one number"
        raise ModelError(f"[input] values: {name}: found {numbers.size} numbers, wanted {wanted} or one") from None


def picture_px(spec: TensorSpec, settings: InputSettings) -> tuple[int, int]:
    """Return the width and height of the picture's input; open sizes count as 1."""
    height, width = spec.shape[2:] if _is_planar(spec.shape, settings) else spec.shape[1:3]
    return width or 1, height or 1


def _is_per_picture(value: InputValue | None) -> bool:
    return isinstance(value, str) and value.startswith(PER_PICTURE)


def _picture(spec: TensorSpec, settings: InputSettings) -> TensorSpec:
    """Return the picture's input with a batch axis and its open sizes set."""
    shape, has_batch = spec.shape, spec.has_batch
    if len(shape) == _PICTURE_AXES - 1 and settings.channels in (shape[0], shape[2]):
        shape, has_batch = (1, *shape), False
    if len(shape) != _PICTURE_AXES or not any(size in (settings.channels, None) for size in (shape[1], shape[3])):
        return spec  # whoever preprocesses says what is wrong with it
    batch, *row = shape
    channel, rows, columns = (0, 1, 2) if _is_planar(shape, settings) else (2, 0, 1)
    row[channel] = settings.channels
    for axis, side in ((rows, 1), (columns, 0)):
        row[axis] = _side(spec, row[axis], settings, side)
    return replace(spec, shape=(batch, *row), has_batch=has_batch)


def _is_planar(shape: Shape, settings: InputSettings) -> bool:
    """Return whether the channels come before the rows; open ones do, unless the last axis has their number."""
    return shape[1] == settings.channels or (shape[1] is None and shape[3] != settings.channels)


def _side(spec: TensorSpec, size: int | None, settings: InputSettings, side: int) -> int:
    wanted = settings.size[side] if settings.size else None
    if size is None and wanted is None:
        raise ModelError(
            f"input {spec.name!r}: found {spec.shape_text}, whose height and width are open; set "
            "size = [width, height] in [input] to what the model was trained with, such as [640, 640]"
        )
    if size is not None and wanted is not None and size != wanted:
        raise ModelError(
            f"input {spec.name!r}: found {spec.shape_text} and size = {list(settings.size or ())} in [input]; the "
            "model has a fixed size: remove the key"
        )
    return size or wanted or 1


def _further(spec: TensorSpec, picture: TensorSpec) -> TensorSpec:
    """Return a further input with a batch axis; open sizes beside it are those of the picture."""
    if not spec.has_batch:
        return spec
    batch = picture.shape[0] if picture.has_batch else 1
    shape = spec.shape
    has_batch = bool(shape) and (shape[0] is None or (len(shape) > 1 and shape[0] == batch))
    row = list(shape[1:] if has_batch else shape)
    open_axes = [axis for axis, size in enumerate(row) if size is None]
    if open_axes and len(open_axes) != 2:  # noqa: PLR2004 -- height and width
        raise ModelError(
            f"input {spec.name!r}: found {spec.shape_text}, whose sizes are open; wanted fixed ones: export it so"
        )
    sides = picture.shape[2:] if len(picture.shape) == _PICTURE_AXES else ()
    for axis, side in zip(open_axes, sides, strict=False):
        row[axis] = side
    first = shape[0] if has_batch else 1
    return replace(spec, shape=(first, *row), has_batch=has_batch)


def _as_spec(value: OnnxValue) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape or ())
    return TensorSpec(value.name, shape, np.dtype(_DTYPES.get(value.element_type, "float32")))
