"""What the kernel must write, by OpenCV and by exact arithmetic, for the tests on the host and on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.inference.backends.tensorrt.letterbox_kernel import Box, TargetSettings

Bytes = NDArray[np.uint8]

# A weight of 11 bits is off by half of 2^-11 at most, on each axis; half a level goes to the rounding.
EXACT_TOLERANCE = 0.5 + 2 * 255 / 4096 + 1e-6


@dataclass(frozen=True)
class Picture:
    """A picture as a camera hands it over, and where it goes."""

    pixel_format: str
    size_px: tuple[int, int]
    planes: tuple[Bytes, ...]  # rows × pitch; the second: U and V of NV12
    region: Box
    place: Box


def noise(
    pixel_format: str, size_px: tuple[int, int], region: Box | None, place: Box, *, spare_bytes: int = 0, seed: int = 1
) -> Picture:
    """Make a picture of noise, its rows `spare_bytes` further apart than they need to be."""
    width, height = size_px
    pairs = (width + 1) // 2
    row_bytes = {"bgr": 3 * width, "rgb": 3 * width, "gray": width, "yuyv": 4 * pairs, "nv12": width}[pixel_format]
    shapes = [(height, row_bytes + spare_bytes)]
    if pixel_format == "nv12":
        shapes.append(((height + 1) // 2, 2 * pairs + 2 * spare_bytes))
    random = np.random.default_rng(seed)
    planes = tuple(random.integers(0, 256, shape, np.uint8) for shape in shapes)
    return Picture(pixel_format, size_px, planes, region or (0, 0, width, height), place)


def bgr_of(picture: Picture) -> Bytes:
    """Convert the whole picture with OpenCV: H×W×3."""
    width, height = picture.size_px
    if picture.pixel_format in ("bgr", "rgb"):
        pixels = picture.planes[0][:, : 3 * width].reshape(height, width, 3)
        return pixels if picture.pixel_format == "bgr" else pixels[:, :, ::-1]
    if picture.pixel_format == "gray":
        return np.repeat(picture.planes[0][:, :width, None], 3, axis=2)
    converted = _from_yuyv(picture) if picture.pixel_format == "yuyv" else _from_nv12(picture)
    return np.ascontiguousarray(converted[:height, :width])


def _from_yuyv(picture: Picture) -> Bytes:
    width, height = picture.size_px
    even = width + width % 2
    converted: Any = cv2.cvtColor(picture.planes[0][:, : 2 * even].reshape(height, even, 2), cv2.COLOR_YUV2BGR_YUY2)
    return np.asarray(converted, np.uint8)


def _from_nv12(picture: Picture) -> Bytes:
    """Convert what OpenCV takes, pictures of even size: an odd one grows by a line of any brightness, cut off after."""
    width, height = picture.size_px
    even_width, even_height = width + width % 2, height + height % 2
    whole = np.zeros((even_height * 3 // 2, even_width), np.uint8)
    whole[:height, :width] = picture.planes[0][:, :width]
    whole[even_height:] = picture.planes[1][:, :even_width]
    return np.asarray(cv2.cvtColor(whole, cv2.COLOR_YUV2BGR_NV12), np.uint8)


def region_of(picture: Picture) -> Bytes:
    x, y, width, height = picture.region
    return np.ascontiguousarray(bgr_of(picture)[y : y + height, x : x + width])


def opencv_levels(picture: Picture, color: str) -> NDArray[np.int64]:
    """Return the grey levels of the place, H×W×C in the input's order, as OpenCV resizes."""
    _, _, width, height = picture.place
    resized: Any = cv2.resize(region_of(picture), (width, height), interpolation=cv2.INTER_LINEAR)
    if color == "gray":
        resized = cv2.cvtColor(resized, cv2.COLOR_BGR2GRAY)[:, :, None]
    ordered = resized[:, :, ::-1] if color == "rgb" else resized
    return np.asarray(ordered, np.int64)


def exact_values(picture: Picture) -> NDArray[np.float64]:
    """Return the unrounded values of the place, H×W×3 in BGR, by exact bilinear interpolation."""
    pixels = region_of(picture).astype(np.float64)
    left, right, across = _taps(picture.place[2], pixels.shape[1])
    upper, lower, down = _taps(picture.place[3], pixels.shape[0])
    rows = pixels[upper] * (1 - down)[:, None, None] + pixels[lower] * down[:, None, None]
    values: NDArray[np.float64] = rows[:, left] * (1 - across)[:, None] + rows[:, right] * across[:, None]
    return values


def _taps(wanted: int, given: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    at = np.clip((np.arange(wanted) + 0.5) * given / wanted - 0.5, 0, given - 1)
    first = np.floor(at).astype(np.int64)
    return first, np.minimum(first + 1, given - 1), at - first


def normalised(levels: NDArray[np.int64], settings: TargetSettings) -> NDArray[Any]:
    """Return what the levels (…×C) become in the input, to the bit: one rounding to float32, one to its dtype."""
    scale, bias = (
        (np.asarray(each, np.float64) / settings.int8_scale).astype(np.float32).astype(np.longdouble)
        for each in (settings.scale, settings.bias)
    )
    values = (levels * scale + bias).astype(np.float32)
    if settings.dtype.kind == "f":
        return values.astype(settings.dtype)
    limits = np.iinfo(settings.dtype)
    return np.clip(np.rint(values), limits.min, limits.max).astype(settings.dtype)


def check_batch(rows: NDArray[Any], pictures: Sequence[Picture], settings: TargetSettings) -> None:
    """Hold the input (N×C×H×W or N×H×W×C) against its pictures."""
    assert len(rows) == len(pictures)
    for row, picture in zip(rows, pictures, strict=True):
        check_row(row.transpose(1, 2, 0) if settings.planar else row, picture, settings)


def check_row(row: NDArray[Any], picture: Picture, settings: TargetSettings) -> None:
    """Hold one row (H×W×C): bit for bit the pad, or the normalised form of a level that is at most 1 off OpenCV's."""
    x, y, width, height = picture.place
    free = np.ones(row.shape[:2], np.bool_)
    free[y : y + height, x : x + width] = False
    pad = normalised(np.full(settings.channels, settings.pad), settings)
    np.testing.assert_array_equal(row[free], np.broadcast_to(pad, row[free].shape))
    placed = row[y : y + height, x : x + width]
    levels = opencv_levels(picture, settings.color)
    near = [normalised(np.clip(levels + step, 0, 255), settings) == placed for step in (-1, 0, 1)]
    assert np.all(np.any(near, axis=0)), f"{np.mean(~np.any(near, axis=0)):.1%} of the values are more than 1 level off"
    if settings.color == "bgr":
        check_exact(placed, picture, settings)


def check_exact(placed: NDArray[Any], picture: Picture, settings: TargetSettings) -> None:
    """Hold the values against exact interpolation: no level is further off than its rounding and its weights' allow."""
    exact = exact_values(picture)
    low, high = np.ceil(exact - EXACT_TOLERANCE), np.floor(exact + EXACT_TOLERANCE)
    assert np.max(high - low) <= 1
    either = [normalised(levels.astype(np.int64), settings) == placed for levels in (low, high)]
    assert np.all(np.any(either, axis=0))
