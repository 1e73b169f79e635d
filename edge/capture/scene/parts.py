"""Parts on the conveyor: six shapes of metal, drawn as sprites."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

LABELS: tuple[str, ...] = ("bolt", "nut", "washer", "gear", "ring", "plate")

# Half the canvas of a part, in its own lengths: the corner of the squarest plate.
_REACH = 0.66
# From this opacity (of 255) on, a pixel belongs to the part.
SOLID = 127
# Fractional bits of the coordinates in OpenCV's drawing calls.
_SHIFT = 4

# Colours as blue, green, red.
_METALS = (
    (198, 196, 192),  # steel
    (214, 200, 182),  # zinc
    (92, 176, 218),  # brass
    (92, 128, 206),  # copper
    (86, 82, 80),  # black oxide
    (140, 128, 116),  # gunmetal
)

Points = NDArray[np.float64]
Bytes = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sprite:
    """A drawn part with its shadow, positioned by its centre."""

    colour: Bytes  # (h, w, 3), BGR, already weighted with the part's opacity
    keep: Bytes  # (h, w, 3), 0…255: weight of the background
    mask: Bytes  # (h, w): 255 on the part (not its shadow), else 0
    area: int  # set pixels of the mask
    box: tuple[int, int, int, int]  # x1, y1, x2, y2 of the mask, from the part's centre
    left: int  # of the arrays' first column, from the part's centre
    top: int  # likewise of the first row


class _Pen:
    """Drawing of a part as a height map; coordinates in its own lengths around its centre."""

    def __init__(self, size_px: float, half_px: int, *, defective: bool, rng: np.random.Generator) -> None:
        self.defective = defective
        self.rng = rng
        # Small parts are drawn larger and shrunk later, which preserves their holes and teeth.
        zoom = int(np.clip(round(160 / size_px), 1, 4))
        angle = rng.uniform(0, 2 * math.pi)
        shape = (2 * half_px * zoom, 2 * half_px * zoom)
        self._turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
        self._scale_px = size_px * zoom
        self._centre_px = half_px * zoom - 0.5
        self.height: Bytes = np.zeros(shape, np.uint8)
        self.mask: Bytes = np.zeros(shape, np.uint8)
        self.crack: Bytes = np.zeros(shape, np.uint8)

    def polygon(self, points: Points, height: int) -> None:
        """Fill a polygon with a height of 1…255; 0 cuts a hole."""
        corners = [self._fixed(points)]
        cv2.fillPoly(self.height, corners, (height,), cv2.LINE_AA, _SHIFT)
        cv2.fillPoly(self.mask, corners, (255 if height else 0,), cv2.LINE_AA, _SHIFT)

    def disk(self, radius: float, height: int, x: float = 0.0, y: float = 0.0) -> None:
        """Fill a disk; a height of 0 cuts a hole."""
        self.polygon(_regular(48, radius) + np.array([x, y]), height)

    def line(self, points: Points, width: float, layer: Bytes, level: int) -> None:
        """Draw an open line into one of the layers, at least one frame pixel wide."""
        width_px = max(1, round(width * self._scale_px))
        corners = [self._fixed(points)]
        cv2.polylines(
            layer, corners, isClosed=False, color=(level,), thickness=width_px, lineType=cv2.LINE_AA, shift=_SHIFT
        )

    def break_outwards(self, radius: float) -> None:
        """Crack the part from this radius to its edge."""
        angle = self.rng.uniform(0, 2 * math.pi)
        ray = np.array([math.cos(angle), math.sin(angle)])
        self.break_along(ray * radius, ray * 0.52)

    def break_along(self, start: Points, end: Points) -> None:
        """Crack the part from one point to the other, in a jagged line."""
        steps = np.linspace(0.0, 1.0, 7)[:, None]
        points = start + (end - start) * steps
        points[1:-1] += self.rng.uniform(-0.045, 0.045, (5, 2))
        self.line(points, 0.035, self.crack, 255)
        self.line(points, 0.035, self.height, 10)

    def _fixed(self, points: Points) -> NDArray[np.int32]:
        pixels: Points = points @ self._turn * self._scale_px + self._centre_px
        return np.round(pixels * (1 << _SHIFT)).astype(np.int32)


def _regular(corners: int, radius: float) -> Points:
    angles = np.arange(corners) * (2 * math.pi / corners)
    return radius * np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _bar(x1: float, x2: float, half: float) -> Points:
    return np.array([[x1, -half], [x2, -half], [x2, half], [x1, half]])


def _draw_bolt(pen: _Pen) -> None:
    """Draw a hexagonal head and a threaded shank, seen from the side."""
    for half, height in ((0.115, 110), (0.085, 180), (0.04, 225)):
        pen.polygon(_bar(-0.3, 0.5 - half * 0.3, half), height)
    for x in np.arange(0.0, 0.47, 0.055):
        pen.line(np.array([[x, -0.115], [x + 0.02, 0.115]]), 0.018, pen.height, 70)
    for half, height in ((0.27, 170), (0.15, 255)):
        pen.polygon(_bar(-0.5, -0.24, half), height)
    if pen.defective:
        x = pen.rng.uniform(-0.15, 0.25)
        pen.break_along(np.array([x, -0.14]), np.array([x + 0.08, 0.14]))


def _draw_nut(pen: _Pen) -> None:
    pen.polygon(_regular(6, 0.5), 165)
    pen.disk(0.42, 225)
    pen.disk(0.27, 110)
    pen.disk(0.22, 0)
    if pen.defective:
        pen.break_outwards(0.22)


def _draw_washer(pen: _Pen) -> None:
    pen.disk(0.5, 130)
    pen.disk(0.475, 200)
    pen.disk(0.16, 0)
    if pen.defective:
        pen.break_outwards(0.16)


def _draw_gear(pen: _Pen) -> None:
    """Draw a spur gear with a recessed web; a defective one misses one or two teeth."""
    teeth = int(pen.rng.integers(10, 15))
    radii = np.tile([0.4, 0.5, 0.5, 0.4], (teeth, 1))
    if pen.defective:
        radii[: int(pen.rng.integers(1, 3))] = 0.39
    turns = (np.arange(teeth)[:, None] + (0.0, 0.17, 0.43, 0.6)) * (2 * math.pi / teeth)
    outline = radii[..., None] * np.stack([np.cos(turns), np.sin(turns)], axis=2)
    pen.polygon(outline.reshape(-1, 2), 200)
    pen.disk(0.32, 140)
    if pen.rng.integers(2):
        for x, y in _regular(int(pen.rng.integers(4, 7)), 0.235):
            pen.disk(0.05, 0, x, y)
    pen.disk(0.17, 225)
    pen.disk(0.09, 0)


def _draw_ring(pen: _Pen) -> None:
    pen.disk(0.5, 120)
    pen.disk(0.475, 220)
    pen.disk(0.405, 120)
    pen.disk(0.375, 0)
    if pen.defective:
        pen.break_outwards(0.36)


def _draw_plate(pen: _Pen) -> None:
    """Draw a rectangle with cut corners and a hole in each."""
    half, cut = pen.rng.uniform(0.24, 0.4), 0.05
    for inset, height in ((0.0, 140), (0.025, 200)):
        x, y = 0.5 - inset, half - inset
        corners = [(x - cut, -y), (x, cut - y), (x, y - cut), (x - cut, y)]
        pen.polygon(np.array(corners + [(-a, -b) for a, b in corners]), height)
    for side in (-1, 1):
        for end in (-1, 1):
            pen.disk(0.055, 0, 0.37 * side, (half - 0.12) * end)
    if pen.defective:
        x = pen.rng.uniform(-0.2, 0.2)
        pen.break_along(np.array([x, -half]), np.array([x + 0.15, half * 0.7]))


# In the order of LABELS: drawing function, and range of lengths at the base frame size.
SHAPES: tuple[tuple[Callable[[_Pen], None], float, float], ...] = (
    (_draw_bolt, 54.0, 122.0),
    (_draw_nut, 30.0, 70.0),
    (_draw_washer, 30.0, 80.0),
    (_draw_gear, 46.0, 120.0),
    (_draw_ring, 34.0, 92.0),
    (_draw_plate, 48.0, 122.0),
)


def _shade(height: Bytes, crack: Bytes, size_px: float, rng: np.random.Generator) -> Floats:
    """Light a height map from the upper left; (h, w, 3) float32, BGR, 0…255."""
    side = height.shape[0]
    smooth = cv2.GaussianBlur(height.astype(np.float32), (0, 0), 0.5 + 0.008 * size_px)
    slope = cv2.Sobel(smooth, cv2.CV_32F, 1, 0) + 1.3 * cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    ramp = np.linspace(0, rng.uniform(4, 9), side, dtype=np.float32)
    waves = np.sin(ramp[:, None] + 0.6 * ramp + np.float32(rng.uniform(0, 6)))
    light = np.asarray(0.78 + 0.1 * waves, np.float32)
    light += np.clip(slope * 0.0016, -0.45, 0.5)
    grain = rng.standard_normal((side, side), np.float32)
    light += 0.16 * cv2.blur(grain, (9, 1) if rng.integers(2) else (1, 9))
    light *= 1.0 - crack * np.float32(0.85 / 255)
    metal = np.array(_METALS[rng.integers(len(_METALS))]) * rng.uniform(0.85, 1.1)
    colour = np.asarray(light[..., None] * metal.astype(np.float32), np.float32)
    # Light beyond the metal's own colour is the lamp's reflection, which is white.
    colour += np.maximum(light - 1.0, 0.0)[..., None] * 160
    np.clip(colour, 0, 255, out=colour)
    return colour


def _smear(image: Floats, defocus_px: float, motion_px: int) -> Floats:
    """Blur for a lens out of focus and a belt in motion."""
    if defocus_px > 0:
        image = np.asarray(cv2.GaussianBlur(image, (0, 0), defocus_px), np.float32)
    return np.asarray(cv2.blur(image, (motion_px, 1)), np.float32)


def make_sprite(class_id: int, size_px: float, motion_px: int, *, defective: bool, rng: np.random.Generator) -> Sprite:
    """Draw a part of a class, with shading, shadow and blur."""
    drop_px = max(1, round(0.035 * size_px))
    half_px = math.ceil(_REACH * size_px) + 3 * drop_px + 4
    pen = _Pen(size_px, half_px, defective=defective, rng=rng)
    SHAPES[class_id][0](pen)
    small = (2 * half_px, 2 * half_px)
    height, mask, crack = (
        np.asarray(cv2.resize(layer, small, interpolation=cv2.INTER_AREA), np.uint8)
        for layer in (pen.height, pen.mask, pen.crack)
    )
    defocus_px = rng.choice([0.0, 0.6, 1.1, 1.7], p=[0.5, 0.25, 0.15, 0.1]) * size_px / 70
    opacity = mask.astype(np.float32) / np.float32(255)
    colour = _smear(_shade(height, crack, size_px, rng) * opacity[..., None], defocus_px, motion_px)
    shadow = cv2.GaussianBlur(np.roll(opacity, (drop_px, drop_px), (0, 1)), (0, 0), drop_px)
    keep = (1 - 0.55 * shadow) * (1 - _smear(opacity, defocus_px, motion_px))
    return _crop_sprite(colour, keep, mask, half_px)


def _crop_sprite(colour: Floats, keep: Floats, mask: Bytes, half_px: int) -> Sprite:
    """Crop the empty margin, and convert everything to bytes."""
    keep_u8 = np.round(keep * 255).astype(np.uint8)
    left, top, width, height = cv2.boundingRect(255 - keep_u8)
    area = slice(top, top + height), slice(left, left + width)
    solid = np.where(mask[area] > SOLID, 255, 0).astype(np.uint8)
    x, y, w, h = cv2.boundingRect(solid)
    left, top = left - half_px, top - half_px
    return Sprite(
        colour=np.round(colour[area]).astype(np.uint8),
        keep=np.repeat(keep_u8[area][..., None], 3, axis=2),
        mask=solid,
        area=cv2.countNonZero(solid),
        box=(left + x, top + y, left + x + w, top + y + h),
        left=left,
        top=top,
    )
