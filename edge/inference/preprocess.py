"""Preprocessing of a source picture into a row of the model's input: resize, channel order, normalisation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.core.manifest import CHANNELS, InputSettings
from edge.core.records import Geometry, Image
from edge.inference.backends.engine import Pictures, TensorSpec
from edge.inference.backends.tensorrt.letterbox_kernel import COLORS, TargetSettings

Area = tuple[slice, slice]  # rows, columns
Pixels = tuple[int, int]  # width, height

_OPAQUE = 255  # alpha of a picture, which has none
_CONVERSIONS = {"rgb": cv2.COLOR_BGR2RGB, "rgba": cv2.COLOR_BGR2RGBA, "bgra": cv2.COLOR_BGR2BGRA}
_LEAST_LEVELS = 16  # of 256 that an integer input must keep
_KNOWN_SIZES = 8  # source sizes whose plan is cached: a lane serves few cameras
_BATCH_HEIGHT_WIDTH_CHANNELS = 4
# OpenCV 4 has no look-up tables in float16, but int16 moves the same 16 bits.
_LOOKED_UP_AS: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.int16,
    "float64": np.float64,
    "uint8": np.uint8,
    "int8": np.int8,
    "int32": np.int32,
}


@dataclass(frozen=True, slots=True)
class _Placement:
    """Region of the source picture, and where it lies in the model's input."""

    region: tuple[int, int, int, int]  # x, y, width, height in the source picture
    place: tuple[int, int, int, int]  # x, y, width, height in the model's input


@dataclass(frozen=True, slots=True)
class _Plan:
    """Everything that depends only on the source picture's size; the arrays are views of the lane's scratch memory."""

    geometry: Geometry
    region: Area  # of the source picture
    place: Area  # of the model's input
    borders: tuple[Area, ...]  # of the model's input: areas outside the picture
    resized_px: Pixels
    resized: Image | None  # H×W×3; None: the region already has this size
    ordered: NDArray[np.uint8]  # H×W×3 or H×W×4, in the model's channel order
    planes: list[NDArray[np.uint8]]  # H×W each, in the source's channel order; the fourth, alpha, stays opaque


class DevicePreprocessor:
    """Preprocessing on the engine's own device: only the placement is computed here."""

    def __init__(self, pictures: Pictures, spec: TensorSpec, settings: InputSettings) -> None:
        self._pictures = pictures
        _, self.input_px = _layout(spec, settings)
        self._place = _placement(spec, settings, self.input_px)

    def fill(self, image: Image, row: int) -> Geometry:
        """Hand the picture `image` (H×W×3, BGR, uint8) over for a row; return where it will lie there."""
        source_px = (image.shape[1], image.shape[0])
        placement = self._place(source_px, self.input_px)
        self._pictures.put(row, image, placement.region, placement.place)
        return _geometry(source_px, placement)


class Preprocessor:
    """Preprocessing on the CPU, for one thread: it owns scratch memory.

    Resizing is bilinear. `letterbox` keeps the aspect ratio: the limiting side fills the input, the other is rounded
    down to whole pixels (at least 1), as in YOLOX. `crop` takes the centred region with the input's aspect ratio, in
    whole source pixels. `stretch` takes the whole picture. The geometry returned is that of the rounded sizes.
    """

    input_px: Pixels  # width, height of the model's input

    def __init__(self, spec: TensorSpec, settings: InputSettings) -> None:
        """Prepare for the input tensor `spec`; raise ModelError if it does not fit the manifest."""
        self._planar, self.input_px = _layout(spec, settings)
        self._color, channels = settings.color, settings.channels
        tables = _tables(spec, settings, channels)
        self._bits = _LOOKED_UP_AS[spec.dtype.name]
        looked_up = tables.view(self._bits)
        self._pixel_table = np.ascontiguousarray(looked_up.T)[None]
        order = (2, 1, 0, 3)[:channels] if settings.color in ("rgb", "rgba") else range(channels)
        self._channels = [(channel, np.ascontiguousarray(looked_up[channel])) for channel in order]
        width, height = self.input_px
        # One line, copied over all border lines: as fast as a fill in any layout.
        line_shape = (channels, 1, width) if self._planar else (1, width, channels)
        self._pad_line = self._canvas(np.empty(line_shape, tables.dtype))
        self._pad_line[:] = looked_up[:, settings.pad]
        self._scratch = np.empty((2, height * width * max(channels, 3)), np.uint8)
        self._alpha = np.full(height * width, _OPAQUE, np.uint8)
        self._place = _placement(spec, settings, self.input_px)
        self._plan = lru_cache(maxsize=_KNOWN_SIZES)(self._make_plan)

    def fill(self, image: Image, row: NDArray[Any]) -> Geometry:
        """Write the picture `image` (H×W×3, BGR, uint8) over `row`; return where it lies there.

        `row` is one picture's part of the input buffer: C×H×W or H×W×C, float32, float16 or uint8 as the model has it.
        """
        height, width = image.shape[:2]
        plan = self._plan(width, height)
        picture: NDArray[Any] = image[plan.region]
        if plan.resized is not None:
            picture = cv2.resize(picture, plan.resized_px, dst=plan.resized, interpolation=cv2.INTER_LINEAR)
        canvas = self._canvas(row)
        for border in plan.borders:
            canvas[border] = self._pad_line[:, border[1]]
        self._normalise(picture, plan, canvas[plan.place])
        return plan.geometry

    def _canvas(self, row: NDArray[Any]) -> NDArray[Any]:
        """View a row as H×W×C."""
        bits = row.view(self._bits)
        return bits.transpose(1, 2, 0) if self._planar else bits

    def _normalise(self, picture: NDArray[Any], plan: _Plan, target: NDArray[Any]) -> None:
        """Look up each pixel's value in its channel's table, directly into the row."""
        if self._color == "gray":
            cv2.cvtColor(picture, cv2.COLOR_BGR2GRAY, dst=plan.planes[0])
        elif self._planar:
            cv2.split(picture, plan.planes[:3])
        else:
            if self._color != "bgr":
                picture = cv2.cvtColor(picture, _CONVERSIONS[self._color], dst=plan.ordered)
            cv2.LUT(picture, self._pixel_table, dst=target)
            return
        for plane, (channel, table) in zip(plan.planes, self._channels, strict=True):
            cv2.LUT(plane, table, dst=target[:, :, channel])

    def _make_plan(self, width: int, height: int) -> _Plan:
        source_px = (width, height)
        placement = self._place(source_px, self.input_px)
        from_x, from_y, from_width, from_height = placement.region
        to_x, to_y, to_width, to_height = placement.place
        channels = len(self._channels)
        resized = self._scratch[0, : to_height * to_width * 3].reshape(to_height, to_width, 3)
        ordered = self._scratch[1, : to_height * to_width * max(channels, 3)].reshape(to_height, to_width, -1)
        planes = [
            *ordered.reshape(-1, to_height, to_width)[:3],
            self._alpha[: to_height * to_width].reshape(to_height, to_width),
        ]
        return _Plan(
            geometry=_geometry(source_px, placement),
            region=(slice(from_y, from_y + from_height), slice(from_x, from_x + from_width)),
            place=(slice(to_y, to_y + to_height), slice(to_x, to_x + to_width)),
            borders=_borders(placement.place, self.input_px),
            resized_px=(to_width, to_height),
            resized=None if (from_width, from_height) == (to_width, to_height) else resized,
            ordered=ordered,
            planes=planes[:channels],
        )


def target_settings(spec: TensorSpec, settings: InputSettings) -> TargetSettings | None:
    """Return the preprocessing of the input tensor `spec`, for engines that run it on their own device.

    None if only the CPU has it: with an alpha channel.
    """
    planar, (width, height) = _layout(spec, settings)
    channels = settings.channels
    if settings.color not in COLORS:
        return None
    mean, std = (_per_channel(key, getattr(settings, key), channels)[:, 0] for key in ("mean", "std"))
    scale = settings.scale / std
    return TargetSettings(
        width=width,
        height=height,
        channels=channels,
        planar=planar,
        dtype=spec.dtype,
        color=settings.color,
        scale=tuple(np.broadcast_to(scale, channels).tolist()),
        bias=tuple(np.broadcast_to(-mean * scale, channels).tolist()),
        pad=settings.pad,
    )


def _geometry(source_px: Pixels, placement: _Placement) -> Geometry:
    from_x, from_y, from_width, from_height = placement.region
    to_x, to_y, to_width, to_height = placement.place
    scale_x, scale_y = to_width / from_width, to_height / from_height
    return Geometry(source_px, scale_x, scale_y, to_x - from_x * scale_x, to_y - from_y * scale_y)


def _layout(spec: TensorSpec, settings: InputSettings) -> tuple[bool, Pixels]:
    """Return whether the input is N×C×H×W (else N×H×W×C), and its width and height."""
    channels = settings.channels
    found = f"input {spec.name!r}: found {spec.shape_text or 'a single number'}"
    planar = len(spec.shape) == _BATCH_HEIGHT_WIDTH_CHANNELS and spec.shape[1] == channels
    if not planar and (len(spec.shape) != _BATCH_HEIGHT_WIDTH_CHANNELS or spec.shape[3] != channels):
        wanted = f"N×{channels}×H×W or N×H×W×{channels} for color {settings.color!r}"
        raise ModelError(f"{found}, wanted {wanted}; {_color_advice(spec)}")
    height, width = spec.shape[2:] if planar else spec.shape[1:3]
    if height is None or width is None:
        raise ModelError(f"{found}, wanted a fixed height and width; set size = [width, height] in [input]")
    if spec.dtype.name not in _LOOKED_UP_AS:
        wanted = ", ".join(_LOOKED_UP_AS)
        raise ModelError(
            f"input {spec.name!r}: found {spec.dtype.name}, wanted one of {wanted}; export the model with one of them"
        )
    return planar, (width, height)


def _color_advice(spec: TensorSpec) -> str:
    """Return the step that helps with an input whose channels are not those of the color."""
    sizes = spec.shape[1::2] if len(spec.shape) == _BATCH_HEIGHT_WIDTH_CHANNELS else ()
    colors = [color for color, channels in CHANNELS.items() if channels in sizes]
    if colors:
        return f"set color in [input] to that of the model: {' or '.join(map(repr, colors))}"
    return "a model of one picture with 1, 3 or 4 channels can be served: export it so"


def _tables(spec: TensorSpec, settings: InputSettings, channels: int) -> NDArray[Any]:
    """Return the look-up table of each channel: C×256 values of the model's dtype."""
    mean = _per_channel("mean", settings.mean, channels)
    std = _per_channel("std", settings.std, channels)
    values = (np.arange(256) - mean) * settings.scale / std
    limits = np.iinfo(spec.dtype) if spec.dtype.kind in "iu" else np.finfo(spec.dtype)
    low, high = float(values.min()), float(values.max())
    if low < float(limits.min) or high > float(limits.max):
        raise ModelError(
            f"input {spec.name!r}: (pixel - mean) * scale / std goes from {low:g} to {high:g}, wanted values that "
            f"{spec.dtype.name} can hold; correct scale, mean and std in [input]"
        )
    if spec.dtype.kind in "iu" and (levels := len(np.unique(np.rint(values)))) < _LEAST_LEVELS:
        raise ModelError(
            f"input {spec.name!r}: of the 256 levels of a picture, (pixel - mean) * scale / std leaves {levels} in "
            f"{spec.dtype.name}, which is all but black; set scale = 1.0 in [input]: such a model scales by itself"
        )
    return (np.rint(values) if spec.dtype.kind in "iu" else values).astype(spec.dtype)


def _per_channel(key: str, values: tuple[float, ...], channels: int) -> NDArray[np.float64]:
    """Return a column of one number per channel; equal ones count for all, alpha has that of no change otherwise."""
    distinct = values if len(set(values)) > 1 else values[:1] * channels
    if channels == len(distinct) + 1:
        distinct = (*distinct, 0.0 if key == "mean" else 1.0)
    if len(distinct) != channels:
        raise ModelError(f"[input] {key}: found {len(values)} numbers, wanted {channels} for this model's input")
    return np.array(distinct, np.float64)[:, None]


def _letterbox(source_px: Pixels, input_px: Pixels) -> _Placement:
    """Scale the whole picture to fit; in integers, because width * (input / width) can fall short of input."""
    (width, height), (input_width, input_height) = source_px, input_px
    if width * input_height >= height * input_width:
        fitted = input_width, max(1, height * input_width // width)
    else:
        fitted = max(1, width * input_height // height), input_height
    return _Placement((0, 0, width, height), (0, 0, *fitted))


def _letterbox_center(source_px: Pixels, input_px: Pixels) -> _Placement:
    placed = _letterbox(source_px, input_px)
    _, _, width, height = placed.place
    return _Placement(placed.region, ((input_px[0] - width) // 2, (input_px[1] - height) // 2, width, height))


def _stretch(source_px: Pixels, input_px: Pixels) -> _Placement:
    return _Placement((0, 0, *source_px), (0, 0, *input_px))


def _crop(source_px: Pixels, input_px: Pixels) -> _Placement:
    """Crop the source before scaling: a narrow picture scaled to cover the input could need gigabytes."""
    (width, height), (input_width, input_height) = source_px, input_px
    if width * input_height >= height * input_width:
        cut = max(1, round(height * input_width / input_height)), height
    else:
        cut = width, max(1, round(width * input_height / input_width))
    return _cut_center(source_px, input_px, cut)


def _crop_of(resize_to: int, source_px: Pixels, input_px: Pixels) -> _Placement:
    """Crop the region that the input would be cut from once the shorter side is scaled to `resize_to`."""
    shorter = min(source_px)
    cut = tuple(max(1, round(side * shorter / resize_to)) for side in input_px)
    return _cut_center(source_px, input_px, (min(cut[0], source_px[0]), min(cut[1], source_px[1])))


def _cut_center(source_px: Pixels, input_px: Pixels, cut: Pixels) -> _Placement:
    (width, height) = source_px
    return _Placement(((width - cut[0]) // 2, (height - cut[1]) // 2, *cut), (0, 0, *input_px))


_PLACEMENTS: dict[tuple[str, str], Callable[[Pixels, Pixels], _Placement]] = {
    ("letterbox", "top-left"): _letterbox,
    ("letterbox", "center"): _letterbox_center,
    ("stretch", "top-left"): _stretch,
    ("stretch", "center"): _stretch,
    ("crop", "top-left"): _crop,
    ("crop", "center"): _crop,
}


def _placement(spec: TensorSpec, settings: InputSettings, input_px: Pixels) -> Callable[[Pixels, Pixels], _Placement]:
    """Return the placement of source pictures; raise ModelError if the input cannot be cut out of the resized one."""
    if settings.resize_to is None:
        return _PLACEMENTS[settings.resize, settings.anchor]
    if max(input_px) > settings.resize_to:
        raise ModelError(
            f"[input] resize_to: found {settings.resize_to}, wanted at least {max(input_px)}: the input "
            f"{spec.name!r} of {input_px[0]}×{input_px[1]} pixels is cut out of the resized picture"
        )
    return partial(_crop_of, settings.resize_to)


def _borders(place: tuple[int, int, int, int], input_px: Pixels) -> tuple[Area, ...]:
    """Return the areas outside `place`: above, below, left, right."""
    x, y, width, height = place
    beside = slice(y, y + height)
    areas = (
        (slice(0, y), slice(0, input_px[0])),
        (slice(y + height, input_px[1]), slice(0, input_px[0])),
        (beside, slice(0, x)),
        (beside, slice(x + width, input_px[0])),
    )
    return tuple(area for area in areas if all(side.start < side.stop for side in area))
