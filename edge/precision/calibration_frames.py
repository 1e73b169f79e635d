"""Stored calibration frames, with which a model's engines can be verified on this device at any time."""

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
    """Return the folder of a model's stored frames."""
    return derived_folder(onnx, state_dir) / "frames"


def store_frames(folder: Path, frames: Sequence[Image]) -> None:
    """Store a sample of the frames as PNG, in place of earlier ones."""
    chosen = np.unique(np.linspace(0, len(frames) - 1, min(KEPT_FRAMES, len(frames))).round().astype(int))
    fresh = folder.with_name(f".{folder.name}.new")
    try:
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        for number, index in enumerate(chosen):
            _write_png(fresh / f"{number:03}.png", frames[index])
        shutil.rmtree(folder, ignore_errors=True)
        fresh.rename(folder)
    except OSError as error:
        raise EdgeError(
            f"calibration frames cannot be stored in {folder} ({error.strerror}); check the folder's permissions and "
            "the free space"
        ) from None


def read_stored(folder: Path) -> Iterator[Image]:
    """Yield the stored frames, if any; skip those that cannot be decoded."""
    for path in sorted(folder.glob("*.png")):
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is not None:
            yield np.asarray(image, np.uint8)


def _write_png(path: Path, frame: Image) -> None:
    good, data = cv2.imencode(".png", frame)
    if not good:
        raise EdgeError(f"a picture of {frame.shape[1]}×{frame.shape[0]} cannot be written as {path.name}")
    path.write_bytes(data.tobytes())
