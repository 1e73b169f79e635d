"""Calibration frames that are kept, so that a model's engines can be verified on this device at any time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import EdgeError
from edge.core.records import Image
from edge.inference.derived_files import derived_folder

KEPT_FRAMES = 32


def stored_folder(onnx: Path, state_dir: Path) -> Path:
    """Return where pictures of a model are kept."""
    return derived_folder(onnx, state_dir) / "frames"


def store_frames(folder: Path, frames: Sequence[Image]) -> None:
    """Keep some of the pictures, as PNG, in the place of those kept before."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(KEPT_FRAMES, len(frames))).round().astype(int))
    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for number, place in enumerate(chosen):
            _write_png(fresh / f"{number:03}.png", frames[place])
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except OSError as error:
        raise EdgeError(
            f"calibration frames cannot be kept in {folder} ({error.strerror}); see the folder's rights and the space "
            "left"
        ) from None


def read_stored(folder: Path) -> Iterator[Image]:
    """Yield the pictures that are kept; none where there are none, and what cannot be decoded is passed over."""
    for path in sorted(folder.glob("*.png")):
        picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if picture is not None:
            yield np.asarray(picture, np.uint8)


def _write_png(path: Path, frame: Image) -> None:
    good, data = cv2.imencode(".png", frame)
    if not good:
        raise EdgeError(f"a picture of {frame.shape[1]}×{frame.shape[0]} cannot be written as {path.name}")
    path.write_bytes(data.tobytes())
