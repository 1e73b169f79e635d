"""Synthetic conveyor belt of metal parts: any frame and its ground truth, from its number alone."""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.capture.scene.parts import LABELS, SHAPES, Bytes, Floats, Sprite, make_sprite
from edge.core.records import Image

__all__ = ["LABELS", "Conveyor", "Truth"]

MIN_WIDTH_PX = 160
MIN_HEIGHT_PX = 120
# All sizes and speeds below are for a frame of this size, and scale with the frame.
_BASE_WIDTH_PX = 640
_BASE_HEIGHT_PX = 480
_PITCH_PX = 70.0
# Largest distance of a part's edge from the position of its number, in pitches: one and a half by chance,
# nearly two for lying on another, and more than one for its own half with its shadow.
_REACH_PITCHES = 5
_DEFECT_FRACTION = 0.2
_STACKED_FRACTION = 0.3
_MIN_VISIBLE = 0.25
# The camera may lose its focus in the second half of each such period, by one of these numbers of pixels.
_FOCUS_PERIOD_S = 4.0
_FOCUS_LOSSES = (0, 0, 0, 0, 0, 1, 1, 2)
_NOISE_PART = 1 << 20  # values drawn at once
# Third words of the random seeds, so that these sequences differ from a part's [seed, k].
_NOISE, _FOCUS, _BELT = 1, 2, 3

# Colours as blue, green, red.
_BELTS = ((52, 50, 48), (72, 92, 50), (104, 76, 46), (96, 100, 100), (40, 44, 58))


@dataclass(frozen=True)
class Truth:
    """Ground truth of one frame: N parts, from the lowest to the topmost.

    Parts of which less than about a quarter is visible are excluded.
    """

    boxes: NDArray[np.float32]  # (N, 4): x1, y1, x2, y2 in pixels of the frame, clipped to it
    class_ids: NDArray[np.int64]  # (N,): index into LABELS
    defective: NDArray[np.bool_]  # (N,)
    visible: NDArray[np.float32]  # (N,), 0…1: fraction of the part inside the frame and not covered


@dataclass(frozen=True)
class _Part:
    """Part on the belt; x runs along the belt, y down the frame."""

    class_id: int
    defective: bool
    x_px: int
    y_px: int
    sprite: Sprite


def _make_belt(width_px: int, height_px: int, scale: float, rng: np.random.Generator) -> Bytes:
    """Draw rubber with ribs, stains and scratches that repeats after width_px; (H, W, 3), BGR."""
    base = np.array(_BELTS[rng.integers(len(_BELTS))]) * rng.uniform(0.85, 1.2)
    ribs = max(1, round(width_px / (rng.uniform(7, 16) * scale)))
    along = np.arange(width_px) * (2 * math.pi / width_px)
    shade = np.ones((height_px, width_px), np.float32)
    shade += (0.07 * np.cos(ribs * along)).astype(np.float32)
    for cell_px, strength in ((150, 0.16), (36, 0.08), (5, 0.05)):
        shade += strength * _stains(width_px, height_px, cell_px * scale, rng)
    texture = np.empty((height_px, width_px, 3), np.uint8)
    for row in range(height_px):  # at once it would take 50 times the memory of the picture
        texture[row] = np.clip(shade[row, :, None] * base, 0, 255)
    for _ in range(26):
        x, y = int(rng.integers(width_px)), int(rng.integers(height_px))
        reach = rng.normal(0, 45 * scale, 2)
        grey = [int(c) for c in texture[y, x] * rng.choice([0.65, 1.35])]
        cv2.line(texture, (x, y), (x + int(reach[0]), y + int(reach[1])), grey, 1, cv2.LINE_AA)
    seam = [int(c * 0.55) for c in base]
    cv2.line(texture, (width_px // 2, 0), (width_px // 2, height_px), seam, round(2 * scale) or 1)
    return texture


def _stains(width_px: int, height_px: int, cell_px: float, rng: np.random.Generator) -> Floats:
    """Make smooth noise that is the same at the left and the right edge; (H, W), about -2…2."""
    columns, rows = max(2, int(width_px / cell_px)), max(2, int(height_px / cell_px))
    cells = np.tile(rng.standard_normal((rows, columns), np.float32), (1, 3))
    wide = cv2.resize(cells, (3 * width_px, height_px), interpolation=cv2.INTER_CUBIC)
    return np.asarray(wide[:, width_px : 2 * width_px], np.float32)


def _make_rail(width_px: int, rail_px: int) -> Bytes:
    """Draw the guide rail along the belt: a steel bar under a warning stripe; (H, W, 3), BGR."""
    y, x = np.mgrid[0:rail_px, 0:width_px]
    stripe = np.where(((x + y) // max(2, rail_px) % 2 == 0)[..., None], (40, 170, 205), (34, 34, 36))
    round_bar = 205 - 120 * np.abs(np.linspace(-0.8, 1, rail_px)) ** 2
    bar = np.broadcast_to(round_bar[:, None, None], (rail_px, width_px, 3))
    return np.where((y < rail_px * 0.55)[..., None], stripe, bar).astype(np.uint8)


def _make_lamp(width_px: int, height_px: int, rng: np.random.Generator) -> Bytes:
    """Draw the tinted light of a lamp; (H, W, 3), brightness in 1/160."""
    y = np.linspace(-1, 1, height_px)[:, None] - rng.uniform(-0.4, 0.4)
    x = np.linspace(-1, 1, width_px) - rng.uniform(-0.4, 0.4)
    pool = 1.12 - rng.uniform(0.12, 0.3) * (x * x + y * y)
    tint = rng.uniform(0.9, 1.0, 3)
    lamp = np.empty((height_px, width_px, 3), np.uint8)
    for row in range(height_px):
        lamp[row] = np.clip(pool[row, :, None] * tint * 160, 30, 255)
    return lamp


class Conveyor:
    """Renderer of the frames of one belt; the same arguments give the same bytes.

    Not thread-safe: drawn parts are kept between calls.
    """

    def __init__(self, width_px: int, height_px: int, seed: int, fps: float = 30.0) -> None:
        if width_px < MIN_WIDTH_PX or height_px < MIN_HEIGHT_PX:
            raise ValueError(
                f"frame size is {width_px}x{height_px}, must be at least "
                f"{MIN_WIDTH_PX}x{MIN_HEIGHT_PX}: ask for larger frames"
            )
        if seed < 0:
            raise ValueError(f"seed is {seed}, must be 0 or more")
        if not 0 < fps < math.inf:
            raise ValueError(f"fps is {fps}, must be a number above 0")
        self._shape = (height_px, width_px, 3)
        self._seed = seed
        self._fps = fps
        self._scale = min(width_px / _BASE_WIDTH_PX, height_px / _BASE_HEIGHT_PX)
        self._pitch_px = _PITCH_PX * self._scale
        self._parts: OrderedDict[int, _Part] = OrderedDict()
        self._kept_parts = 3 * round(width_px / self._pitch_px + 10)
        self._prepare(np.random.default_rng([seed, 0, _BELT]))

    def _prepare(self, rng: np.random.Generator) -> None:
        """Draw the parts common to all frames: the belt, its rails, the lamp and the noise."""
        height_px, width_px, _ = self._shape
        self._speed_px_s = rng.uniform(70, 170) * self._scale
        self._motion_px = 1 + round(rng.uniform(0, 3.4) * self._scale)
        self._phase = rng.uniform(0, 2 * math.pi, 3)
        self._period_px = 2 * width_px
        belt = _make_belt(self._period_px, height_px, self._scale, rng)
        self._belt = np.concatenate([belt, belt[:, :width_px]], axis=1)
        rail = _make_rail(width_px, round(0.05 * height_px))
        self._rails = rail, np.ascontiguousarray(rail[::-1])
        self._sway_px = round(0.1 * width_px)
        self._lamp = _make_lamp(width_px + 2 * self._sway_px, height_px, rng)
        deviation = rng.uniform(1.5, 6.0)
        # Longer than a frame, so that each frame can take its noise from another offset.
        self._noise = np.empty(height_px * width_px * 3 + 65_536, np.uint8)
        for start in range(0, len(self._noise), _NOISE_PART):
            part = self._noise[start : start + _NOISE_PART]
            noise = rng.standard_normal(len(part), np.float32)
            noise *= deviation
            # Sensors add a black level for the same reason: noise has to stay above zero.
            noise += 2 * deviation
            part[:] = np.clip(noise, 0, 255, out=noise)

    def render(self, index: int, out: Image) -> Truth:
        """Draw frame `index` (0 or more) into `out`, and return its ground truth.

        The frame depends only on size, seed, fps and index, not on earlier calls.
        """
        return self._truth(*self._draw(index, out))

    def draw(self, index: int, out: Image) -> None:
        """Draw frame `index` (0 or more) into `out`, as `render` does, without its ground truth."""
        self._draw(index, out)

    def _draw(self, index: int, out: Image) -> tuple[list[_Part], int]:
        """Draw a frame; return its parts, and the position of the belt."""
        if index < 0:
            raise ValueError(f"frame index is {index}, must be 0 or more")
        if out.shape != self._shape or out.dtype != np.uint8:
            raise ValueError(f"out is {out.dtype} {out.shape}, must be uint8 {self._shape}")
        time_s = index / self._fps
        belt_px = round(self._speed_px_s * time_s)
        self._draw_belt(out, belt_px)
        parts = [self._part(k) for k in self._in_view(belt_px)]
        for part in parts:
            _lay(out, part.sprite, part.x_px - belt_px, part.y_px)
        self._focus(out, time_s)
        self._light(out, time_s)
        self._add_noise(out, index)
        return parts, belt_px

    def _draw_belt(self, out: Bytes, belt_px: int) -> None:
        start = belt_px % self._period_px
        np.copyto(out, self._belt[:, start : start + out.shape[1]])
        upper, lower = self._rails
        out[: len(upper)] = upper
        out[-len(lower) :] = lower

    def _in_view(self, belt_px: int) -> range:
        """Return the numbers of all parts that may reach into the frame, lowest first."""
        first = math.floor(belt_px / self._pitch_px) - _REACH_PITCHES
        last = math.ceil((belt_px + self._shape[1]) / self._pitch_px) + _REACH_PITCHES
        return range(max(0, first), last)

    def _part(self, k: int) -> _Part:
        part = self._parts.pop(k, None) or self._make_part(k)
        self._parts[k] = part
        if len(self._parts) > self._kept_parts:
            self._parts.popitem(last=False)
        return part

    def _make_part(self, k: int) -> _Part:
        rng = np.random.default_rng([self._seed, k])
        class_id, size_px, x_px, y_px = self._plan(k, rng)
        # Some odd parts lie half on the even one before them, which is never moved itself.
        if k % 2 and rng.random() < _STACKED_FRACTION:
            before = np.random.default_rng([self._seed, k - 1])
            _, size_below_px, x_below_px, y_below_px = self._plan(k - 1, before)
            away_px = rng.uniform(0.3, 0.5) * (size_px + size_below_px)
            angle = rng.uniform(0, 2 * math.pi)
            x_px = x_below_px + away_px * math.cos(angle)
            y_px = y_below_px + away_px * math.sin(angle)
        margin_px = 0.05 * self._shape[0] + 0.45 * size_px
        y_px = min(max(y_px, margin_px), self._shape[0] - margin_px)
        defective = bool(rng.random() < _DEFECT_FRACTION)
        sprite = make_sprite(class_id, size_px, self._motion_px, defective=defective, rng=rng)
        return _Part(class_id, defective, round(x_px), round(y_px), sprite)

    def _plan(self, k: int, rng: np.random.Generator) -> tuple[int, float, float, float]:
        """Choose a part's class, its size in pixels, and its position on the belt."""
        class_id = int(rng.integers(len(LABELS)))
        _, smallest_px, largest_px = SHAPES[class_id]
        size_px = smallest_px * (largest_px / smallest_px) ** rng.random() * self._scale
        x_px = (k + 0.5 + rng.uniform(-0.4, 0.4)) * self._pitch_px
        y_px = rng.uniform(0.1, 0.9) * self._shape[0]
        return class_id, size_px, x_px, y_px

    def _focus(self, out: Bytes, time_s: float) -> None:
        """Blur the whole picture for a while, now and then."""
        rng = np.random.default_rng([self._seed, int(time_s / _FOCUS_PERIOD_S), _FOCUS])
        loss = _FOCUS_LOSSES[int(rng.integers(len(_FOCUS_LOSSES)))]
        width_px = 1 + 2 * round(loss * self._scale)
        if width_px > 1 and time_s % _FOCUS_PERIOD_S > _FOCUS_PERIOD_S / 2:
            cv2.blur(out, (width_px, width_px), dst=out)

    def _light(self, out: Bytes, time_s: float) -> None:
        """Apply the light of a lamp that sways and whose brightness drifts."""
        slow, quick, sway = self._phase
        gain = 1 + 0.14 * math.sin(time_s / 2.3 + slow) + 0.06 * math.sin(time_s * 1.9 + quick)
        start = self._sway_px + round(self._sway_px * math.sin(time_s * 0.7 + sway))
        lamp = self._lamp[:, start : start + out.shape[1]]
        cv2.multiply(out, lamp, dst=out, scale=gain / 160)

    def _add_noise(self, out: Bytes, index: int) -> None:
        rng = np.random.default_rng([self._seed, index, _NOISE])
        start = int(rng.integers(len(self._noise) - out.size))
        noise = self._noise[start : start + out.size].reshape(out.shape)
        cv2.add(out, noise, dst=out)

    def _truth(self, parts: list[_Part], belt_px: int) -> Truth:
        height_px, width_px, _ = self._shape
        boxes = np.array([_box(part, belt_px) for part in parts], np.int64).reshape(-1, 4)
        visible = np.array(
            [_visible_fraction(parts, i, boxes, belt_px, self._shape) for i in range(len(parts))],
            np.float32,
        )
        kept = visible >= _MIN_VISIBLE
        limit = (width_px, height_px, width_px, height_px)
        return Truth(
            boxes=np.clip(boxes, 0, limit)[kept].astype(np.float32),
            class_ids=np.array([part.class_id for part in parts], np.int64)[kept],
            defective=np.array([part.defective for part in parts], np.bool_)[kept],
            visible=visible[kept],
        )


def _lay(out: Bytes, sprite: Sprite, x_px: int, y_px: int) -> None:
    """Draw a sprite with its centre at a position of the frame, clipped to it."""
    left, top = x_px + sprite.left, y_px + sprite.top
    height, width = sprite.mask.shape
    x1, y1 = max(left, 0), max(top, 0)
    x2, y2 = min(left + width, out.shape[1]), min(top + height, out.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    below = out[y1:y2, x1:x2]
    area = slice(y1 - top, y2 - top), slice(x1 - left, x2 - left)
    cv2.multiply(below, sprite.keep[area], dst=below, scale=1 / 255)
    cv2.add(below, sprite.colour[area], dst=below)


def _box(part: _Part, belt_px: int) -> tuple[int, int, int, int]:
    x1, y1, x2, y2 = part.sprite.box
    x_px = part.x_px - belt_px
    return x_px + x1, part.y_px + y1, x_px + x2, part.y_px + y2


def _visible_fraction(
    parts: list[_Part],
    which: int,
    boxes: NDArray[np.int64],
    belt_px: int,
    shape: tuple[int, int, int],
) -> float:
    """Return the fraction (0…1) of a part that is in the frame and under no later part."""
    x1, y1, x2, y2 = boxes[which].tolist()
    left, top, right, bottom = max(x1, 0), max(y1, 0), min(x2, shape[1]), min(y2, shape[0])
    if left >= right or top >= bottom:
        return 0.0
    seen = _window(parts[which], belt_px, left, top, right, bottom).copy()
    for other in range(which + 1, len(parts)):
        a1, b1, a2, b2 = boxes[other].tolist()
        a1, b1, a2, b2 = max(a1, left), max(b1, top), min(a2, right), min(b2, bottom)
        if a1 < a2 and b1 < b2:
            under = seen[b1 - top : b2 - top, a1 - left : a2 - left]
            under[_window(parts[other], belt_px, a1, b1, a2, b2) > 0] = 0
    return cv2.countNonZero(seen) / parts[which].sprite.area


def _window(part: _Part, belt_px: int, x1: int, y1: int, x2: int, y2: int) -> Bytes:
    """Return the part's mask in a rectangle of the frame that must lie within its box."""
    left, top = part.x_px - belt_px + part.sprite.left, part.y_px + part.sprite.top
    return part.sprite.mask[y1 - top : y2 - top, x1 - left : x2 - left]
