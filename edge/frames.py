"""Pictures to calibrate and to verify with: spread over a video, a folder, a picture, or taken from a camera."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.address import Address, parse_address
from edge.backends.convert import place_name
from edge.capture import open_source
from edge.capture.source import Source
from edge.clock import now_ns
from edge.errors import ConfigError, EdgeError

Picture = NDArray[np.uint8]
Told = Callable[[int], None]  # how many frames are read

KEPT_FRAMES = 32  # for verification later, where the source may be gone
_STEP_S = 0.2  # between two frames of a source without end: neighbours are much alike


def read_frames(text: str, wanted: int, told: Told = lambda _count: None) -> list[Picture]:
    """Return up to `wanted` pictures, spread over all of a source that has an end.

    Raises ConfigError where the source is none, SourceError where it cannot be read.
    """
    try:
        address = parse_address(text, Path())
    except ValueError as error:
        raise ConfigError(f"source {error}") from None
    with contextlib.closing(open_source(address)) as source:
        frames = _follow(source, wanted, address, told) if _is_endless(address) else _spread(source, wanted, told)
    if not frames:
        raise ConfigError(f"{address.shown} gave no frame; wanted a picture, a folder of pictures, a video or a camera")
    return frames


def _is_endless(address: Address) -> bool:
    return address.is_live or (address.scheme == "synthetic" and int(address.options.get("frames", "0")) == 0)


def _follow(source: Source, wanted: int, address: Address, told: Told) -> list[Picture]:
    """Take a frame now and then."""
    frames: list[Picture] = []
    due_s = 0.0
    while len(frames) < wanted and (media_s := _grab(source)) is not None:
        at_s = now_ns() / 1e9 if address.is_live else media_s
        if at_s >= due_s:
            due_s = at_s + _STEP_S
            frames.append(source.retrieve(None).copy())
            told(len(frames))
    return frames


def _spread(source: Source, wanted: int, told: Told) -> list[Picture]:
    """Keep each n-th frame; n doubles when there are twice as many as wanted, so memory is bounded at any length."""
    kept: list[Picture] = []
    number, stride = 0, 1
    while _grab(source) is not None:
        if number % stride == 0:
            kept.append(source.retrieve(None).copy())
            told(min(len(kept), wanted))
        if len(kept) == 2 * wanted:
            kept, stride = kept[::2], stride * 2
        number += 1
    places = np.linspace(0, len(kept) - 1, min(wanted, len(kept))).round().astype(int)
    return [kept[place] for place in places]


def _grab(source: Source) -> float | None:
    try:
        return source.grab()
    except TimeoutError:
        raise EdgeError("the source gave no frame in time; see that the camera is up") from None


def hold_back(frames: Sequence[Picture]) -> tuple[list[Picture], list[Picture]]:
    """Return the frames that ranges are taken from, and every second one, held back to judge by; one serves as both."""
    return list(frames[::2]), list(frames[1::2]) or list(frames)


def are_blank(frames: Sequence[Picture]) -> bool:
    """Tell whether nothing is to be seen in any of the pictures: each is of one colour."""
    return all((frame == frame[:1, :1]).all() for frame in frames)


def digest(frames: Sequence[Picture]) -> str:
    """Return the SHA-256 of pictures: of their sizes and pixels."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(repr(frame.shape).encode())
        found.update(frame.tobytes())
    return found.hexdigest()


def stored_folder(onnx: Path, state_dir: Path) -> Path:
    """Return where pictures of a model are kept, so that its engines can be verified on this device at any time."""
    return state_dir / "models" / place_name(onnx) / "frames"


def store_frames(folder: Path, frames: Sequence[Picture]) -> None:
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


def _write_png(path: Path, frame: Picture) -> None:
    good, data = cv2.imencode(".png", frame)
    if not good:
        raise EdgeError(f"a picture of {frame.shape[1]}×{frame.shape[0]} cannot be written as {path.name}")
    path.write_bytes(data.tobytes())
