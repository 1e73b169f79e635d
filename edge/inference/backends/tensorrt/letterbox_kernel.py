"""The kernel that makes an engine's input out of pictures (`kernels/letterbox.cu`): its records, its grid, its files.

Nothing here needs a GPU: records are NumPy's, for whoever brings them to the GPU and launches the kernel.
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

# As the structs of the kernel, field by field; the addresses are the GPU's.
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

# The kernel's own numbers.
FORMATS = {"bgr": 0, "rgb": 1, "gray": 2, "yuyv": 3, "nv12": 4}
COLORS = {"bgr": 0, "rgb": 1, "gray": 2}
DTYPES = {"float32": 0, "float16": 1, "uint8": 2, "int8": 3}

# YUYV and NV12 share one U and V among two neighbours; where the width is odd, the last pixel has a pair of its own.
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
    """What an engine's input holds: x = level * scale + bias in each of its channels, divided by `int8_scale`."""

    width: int
    height: int
    channels: int  # 3, or 1 for gray
    planar: bool  # N×C×H×W, else N×H×W×C
    dtype: np.dtype[Any]  # one of DTYPES; whole numbers are rounded to the nearest, ties to even, and kept in range
    color: str  # one of COLORS
    scale: tuple[float, ...]  # one a channel, in the input's order
    bias: tuple[float, ...]
    pad: int  # grey level where no picture is, 0…255
    int8_scale: float = 1.0  # what a step of an int8 input stands for


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
    """Return the PICTURE at `address` whose `region` goes to the `place` in its row of the input.

    `chroma` is the address and the pitch of NV12's second plane; None: directly below the first, of the same pitch.
    What lies outside the picture would be read all the same, which ends the process's use of the GPU, so it is refused.
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
    """Return half the source pixels between two neighbours of the input, in 2^-32, to the nearest."""
    return ((source_px << 32) + input_px) // (2 * input_px)


def target_record(settings: TargetSettings, address: int) -> Record:
    """Return the TARGET of an input buffer at `address`; raise EngineError where the kernel cannot make such rows."""
    channels = 1 if settings.color == "gray" else 3
    if {settings.channels, len(settings.scale), len(settings.bias)} != {channels}:
        counts = f"{settings.channels} channels, {len(settings.scale)} scales and {len(settings.bias)} biases"
        raise EngineError(f"engine input in {settings.color}: found {counts}, wanted {channels} of each")
    if settings.dtype.name not in DTYPES:
        wanted = ", ".join(DTYPES)
        raise EngineError(f"engine input: found {settings.dtype.name}, which the GPU does not fill; wanted {wanted}")
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
    """Return the grid and the block that fill `batch` rows of an input of this size."""
    rows = _BLOCK[1] * _ROWS_A_THREAD
    return (-(-width // _BLOCK[0]), -(-height // rows), batch), _BLOCK


def kernel_file(architecture: str) -> Path:
    """Return the compiled kernel for a GPU, named as compilers do (`sm_87`); PTX where it has none of its own."""
    name = f"letterbox.{architecture}.cubin" if architecture in _CUBINS else "letterbox.ptx"
    return _FOLDER / name
