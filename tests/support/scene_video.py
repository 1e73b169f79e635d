"""Video of the built-in scene, as a camera would send it: H.264."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from edge.capture.scene.conveyor import Conveyor, Truth
from tests.support.project import program

FRAMES = 400
FPS = 10
SIZE_PX = (320, 240)


def scene() -> Conveyor:
    return Conveyor(*SIZE_PX, seed=1, fps=FPS)


def scene_truths() -> list[Truth]:
    """Return what is to be seen in each frame of the video."""
    conveyor, picture = scene(), np.empty((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    return [conveyor.render(number, picture) for number in range(FRAMES)]


def render_scene_video(path: Path) -> None:
    """Write the video; skip the test where there is no encoder."""
    pictures = ["-f", "rawvideo", "-pix_fmt", "bgr24", "-s", "{}x{}".format(*SIZE_PX), "-r", str(FPS), "-i", "-"]
    coded = ["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-g", str(FPS)]
    command = [program("ffmpeg", "ffmpeg"), "-v", "error", *pictures, *coded, str(path)]
    conveyor, picture = scene(), np.empty((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    with subprocess.Popen(command, stdin=subprocess.PIPE) as encoder:
        assert encoder.stdin is not None
        for number in range(FRAMES):
            conveyor.draw(number, picture)
            encoder.stdin.write(picture.tobytes())
    assert encoder.returncode == 0
