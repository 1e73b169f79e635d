"""Video of grey pictures, whose shade tells their number."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_video(
    path: Path, frames: int, fps: float = 30.0, size: tuple[int, int] = (64, 48), *, shade_step: int = 20
) -> None:
    """Write pictures of which each is lighter than the one before."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, size)
    for number in range(frames):
        video.write(np.full((size[1], size[0], 3), shade_step * number % 256, np.uint8))
    video.release()
