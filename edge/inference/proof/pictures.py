"""Pictures on which readings are proven, and a model's outputs for them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.records import Image

# "mirrored" is the picture before it with left and right exchanged, "flipped" with top and bottom.
Kind = Literal["black", "noise", "picture", "mirrored", "flipped"]
_GRAY = 112
# Patches on gray, BGR, with x, y, width and height as fractions: none is symmetrical, and each colour comes once.
_PATCHES = (
    ((0, 0, 255), (0.08, 0.14, 0.30, 0.20)),
    ((0, 255, 0), (0.56, 0.62, 0.20, 0.30)),
    ((255, 0, 0), (0.66, 0.08, 0.24, 0.17)),
    ((0, 255, 255), (0.08, 0.58, 0.16, 0.26)),
    ((255, 255, 255), (0.44, 0.33, 0.13, 0.18)),
    ((20, 20, 20), (0.83, 0.38, 0.11, 0.16)),
)


@dataclass(frozen=True)
class Sample:
    """A model's outputs for one picture: as they come, with the batch axis that they may have."""

    kind: Kind
    outputs: Mapping[str, NDArray[Any]]


def built_in_picture(width: int, height: int) -> Image:
    """Draw the built-in picture: coloured patches on gray."""
    picture = np.full((height, width, 3), _GRAY, np.uint8)
    for color, (x, y, patch_width, patch_height) in _PATCHES:
        left, top = round(x * width), round(y * height)
        right, bottom = round((x + patch_width) * width), round((y + patch_height) * height)
        cv2.rectangle(picture, (left, top), (right - 1, bottom - 1), color, -1)
    return picture


def pictures(input_px: tuple[int, int], shown: Image | None = None) -> list[tuple[Kind, Image]]:
    """Return the pictures of a proof in the size of a model's input; `shown` replaces the built-in one."""
    width, height = input_px
    picture = built_in_picture(width, height) if shown is None else cv2.resize(shown, input_px)
    noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return [
        ("black", np.zeros((height, width, 3), np.uint8)),
        ("noise", noise),
        ("picture", np.ascontiguousarray(picture)),
        ("mirrored", np.ascontiguousarray(picture[:, ::-1])),
        ("flipped", np.ascontiguousarray(picture[::-1])),
    ]
