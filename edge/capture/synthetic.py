"""Synthetic cameras: `synthetic://conveyor?fps=30&size=640x480&seed=1`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial

import numpy as np

from edge.capture.scene.conveyor import Conveyor
from edge.capture.source import DEFAULT_LIMITS, SourceLimits
from edge.core.errors import SourceError
from edge.core.records import Image
from edge.core.source_address import SourceAddress

DEFAULTS = {"fps": "30", "size": "640x480", "seed": "1", "frames": "0"}
LARGEST_PX = 8192


# Of the scene, at its largest, which is while it is made.
SCENE_BYTES_PER_PIXEL = 42


class SyntheticSource:
    """The built-in scene; endless unless the address limits its frames."""

    def __init__(self, address: SourceAddress, limits: SourceLimits = DEFAULT_LIMITS) -> None:
        options = _options(address)
        try:
            width, height = picture_size(address)
            limits.check_size(address.shown, width, height)
            self._fps = float(options["fps"])
            self._frames = int(options["frames"])
            if not 0 < self._fps <= 1000 or self._frames < 0:  # noqa: PLR2004 -- beyond any camera
                raise ValueError("fps wanted between 0 and 1000, frames wanted 0 (endless) or more")
            self._scene = Conveyor(width, height, int(options["seed"]), self._fps)
        except ValueError as error:
            raise SourceError(
                f"{address.shown} has an invalid option: {error}; see {_example()}", permanent=True
            ) from None
        self._shape = (height, width, 3)
        self._index = -1
        self._drawing = threading.Lock()  # the scene keeps drawn parts

    def grab(self) -> float | None:
        self._index += 1
        if self._frames and self._index >= self._frames:
            return None
        return self._index / self._fps

    def retrieve(self, buffer: Image | None) -> Image:
        return self._draw(self._index, buffer)

    def drawing(self) -> Callable[[Image | None], Image]:
        return partial(self._draw, self._index)

    def _draw(self, index: int, buffer: Image | None) -> Image:
        picture = buffer if buffer is not None else np.empty(self._shape, np.uint8)
        with self._drawing:
            self._scene.draw(index, picture)
        return picture

    def ending(self) -> str | None:
        return None

    def close(self) -> None:
        pass


def picture_size(address: SourceAddress) -> tuple[int, int]:
    """Return width and height of a synthetic source's pictures; raise ValueError or SourceError for wrong options."""
    width, height = (int(number) for number in _options(address)["size"].split("x"))
    if max(width, height) > LARGEST_PX:
        raise ValueError(f"size wanted up to {LARGEST_PX}x{LARGEST_PX}")
    return width, height


def _example() -> str:
    return "synthetic://conveyor?" + "&".join(f"{key}={value}" for key, value in DEFAULTS.items())


def _options(address: SourceAddress) -> dict[str, str]:
    unknown = set(address.options) - set(DEFAULTS)
    if address.location != "conveyor" or unknown:
        raise SourceError(
            f"{address.shown} is not a synthetic camera with known options; wanted {_example()}", permanent=True
        )
    return DEFAULTS | address.options
