"""Letterbox kernel (`kernels/letterbox.cu`): its parameter records, launch grid and compiled files.

Nothing here needs a GPU: the records are NumPy's; `gpu_preprocess.py` uploads them and launches the kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edge.core.errors import EngineError

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
Pixels = tuple[int, int]  # width, height
Record = tuple[Any, ...]  # the fields of one PICTURE or TARGET in their order

# The kernel's structs, field by field; addresses are on the GPU.
PICTURE = np.dtype(
    [
        ("pixels", np.uint64),
        ("chroma", np.uint64),
        ("half_step_x", np.int64),
        ("half_step_y", np.int64),
        ("pitch", np.int32),
        ("chroma_pitch", np.int32),
        ("format", np.int32),
        ("region", np.int32, 4),
        ("place", np.int32, 4),
    ],
    align=True,
)
TARGET = np.dtype(
    [
        ("rows", np.uint64),
        ("width", np.int32),
        ("height", np.int32),
        ("planar", np.int32),
        ("color", np.int32),
        ("type", np.int32),
        ("pad", np.int32),
        ("scale", np.float32, 3),
        ("bias", np.float32, 3),
    ],
    align=True,
)

# The kernel's enum values.
FORMATS = {"bgr": 0, "rgb": 1, "gray": 2, "yuyv": 3, "nv12": 4}
COLORS = {"bgr": 0, "rgb": 1, "gray": 2}
DTYPES = {"float32": 0, "float16": 1, "uint8": 2, "int8": 3}

# YUYV and NV12 have one U and V for two neighbouring pixels; at an odd width the last pixel has its own pair.
_ROW_BYTES: dict[str, Callable[[int], int]] = {
    "bgr": lambda width: 3 * width,
    "rgb": lambda width: 3 * width,
    "gray": lambda width: width,
    "yuyv": lambda width: 4 * ((width + 1) // 2),
    "nv12": lambda width: width,
}

_BLOCK = (32, 8, 1)  # threads
_ROWS_A_THREAD = 4

_FOLDER = Path(__file__).with_name("kernels")
_CUBINS = ("sm_87", "sm_110")  # Orin, Thor


@dataclass(frozen=True)
class TargetSettings:
    """Layout and values of an engine's input: (level * scale + bias) / `int8_scale` in each channel."""

    width: int
    height: int
    channels: int  # 3, or 1 for gray
    planar: bool  # N×C×H×W, else N×H×W×C
    dtype: np.dtype[Any]  # one of DTYPES; integers are rounded to nearest, ties to even, and clamped
    color: str  # one of COLORS
    scale: tuple[float, ...]  # one per channel, in the input's order
    bias: tuple[float, ...]
    pad: int  # grey level outside the picture, 0…255
    int8_scale: float = 1.0  # value of one step of an int8 input


def picture_record(
    address: int,
    pixel_format: str,
    size_px: Pixels,
    *,
    pitch_bytes: int,
    region: Box,
    place: Box,
    chroma: tuple[int, int] | None = None,
) -> Record:
    """Return the PICTURE record of a picture at `address`, whose `region` is scaled to `place` in its input row.

    `chroma` is the address and pitch of NV12's second plane; None: directly below the first, with the same pitch. A
    region outside the picture is refused: reading there would end the process's use of the GPU.
    """
    width, height = size_px
    (x, y, region_width, region_height), (_, _, place_width, place_height) = region, place
    if min(x, y) < 0 or min(region_width, region_height) < 1 or x + region_width > width or y + region_height > height:
        raise EngineError(f"region {region} of a picture of {width}×{height} pixels; wanted one that lies inside it")
    if min(place_width, place_height) < 1:
        raise EngineError(f"place {place} for a picture; wanted a width and a height of at least 1 pixel")
    row_bytes = _ROW_BYTES[pixel_format](width)
    chroma_address, chroma_pitch_bytes = chroma or (address + height * pitch_bytes, pitch_bytes)
    if pitch_bytes < row_bytes or (pixel_format == "nv12" and chroma_pitch_bytes < width + width % 2):
        found = f"{pixel_format} picture {width} pixels wide: rows {pitch_bytes} and {chroma_pitch_bytes} bytes apart"
        raise EngineError(f"{found}; wanted at least {row_bytes}, and {width + width % 2} for the chroma of nv12")
    return (
        address,
        chroma_address,
        _half_step(region_width, place_width),
        _half_step(region_height, place_height),
        pitch_bytes,
        chroma_pitch_bytes,
        FORMATS[pixel_format],
        region,
        place,
    )


def _half_step(source_px: int, input_px: int) -> int:
    """Return half the distance of neighbouring input pixels in the source, in units of 2^-32, rounded to nearest."""
    return ((source_px << 32) + input_px) // (2 * input_px)


def target_record(settings: TargetSettings, address: int) -> Record:
    """Return the TARGET record of an input buffer at `address`; raise EngineError if the kernel does not support it."""
    channels = 1 if settings.color == "gray" else 3
    if {settings.channels, len(settings.scale), len(settings.bias)} != {channels}:
        counts = f"{settings.channels} channels, {len(settings.scale)} scales and {len(settings.bias)} biases"
        raise EngineError(f"engine input in {settings.color}: found {counts}, wanted {channels} of each")
    if settings.dtype.name not in DTYPES:
        wanted = ", ".join(DTYPES)
        raise EngineError(
            f"engine input: found {settings.dtype.name}, which the GPU kernel does not support; wanted {wanted}"
        )
    unused = (0.0,) * (3 - channels)
    return (
        address,
        settings.width,
        settings.height,
        settings.planar,
        COLORS[settings.color],
        DTYPES[settings.dtype.name],
        settings.pad,
        tuple(each / settings.int8_scale for each in settings.scale) + unused,
        tuple(each / settings.int8_scale for each in settings.bias) + unused,
    )


def launch_shape(width: int, height: int, batch: int) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return the grid and block that fill `batch` rows of an input of this size."""
    rows = _BLOCK[1] * _ROWS_A_THREAD
    return (-(-width // _BLOCK[0]), -(-height // rows), batch), _BLOCK


def kernel_file(architecture: str) -> Path:
    """Return the compiled kernel for a GPU architecture such as `sm_87`; PTX if there is none for it."""
    name = f"letterbox.{architecture}.cubin" if architecture in _CUBINS else "letterbox.ptx"
    return _FOLDER / name
