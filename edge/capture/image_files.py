"""Source of still pictures: one file, or a folder in the order of the names."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import SourceError
from edge.core.records import Image

log = logging.getLogger(__name__)

# Pictures have no time stamps; played live, they come at this rate unless the stream's `fps` is lower.
PICTURES_PER_S = 10.0


def is_picture(path: Path) -> bool:
    """Return whether OpenCV reads the file as a picture, judged by its first bytes."""
    return path.is_file() and cv2.haveImageReader(str(path))


class ImageFilesSource:
    """Still pictures; those that cannot be decoded are skipped and logged."""

    def __init__(self, path: Path) -> None:
        self._folder = path
        self._paths = [path] if path.is_file() else sorted(each for each in path.iterdir() if is_picture(each))
        if not self._paths:
            raise SourceError(
                f"folder {path} contains no pictures; wanted files such as .jpg or .png in it", permanent=True
            )
        self._next = 0
        self._shown = 0
        self._picture: Image | None = None

    def grab(self) -> float | None:
        while self._next < len(self._paths):
            path = self._paths[self._next]
            self._next += 1
            picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
            if picture is None:
                log.warning("picture %s cannot be decoded; it is skipped", path)
                continue
            self._picture = np.asarray(picture, np.uint8)
            self._shown += 1
            return (self._shown - 1) / PICTURES_PER_S
        if not self._shown:
            raise SourceError(f"{self._folder} contains no decodable picture", permanent=True)
        return None

    def retrieve(self, buffer: Image | None) -> Image:  # noqa: ARG002 -- imread makes its own
        if self._picture is None:
            raise RuntimeError("retrieve before grab")
        return self._picture

    def ending(self) -> str | None:
        skipped = len(self._paths) - self._shown
        return f"{skipped} of {len(self._paths)} pictures could not be decoded" if skipped else None

    def close(self) -> None:
        self._picture = None
