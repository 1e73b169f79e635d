"""The kernel compiled as C++ for this machine, one thread after another, and strict about what it touches."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.inference.backends.tensorrt.letterbox_kernel import (
    PICTURE,
    TARGET,
    TargetSettings,
    launch_shape,
    picture_record,
    target_record,
)
from tests.support.letterbox_reference import Picture

KERNELS = Path(__file__).parents[2] / "edge" / "inference" / "backends" / "tensorrt" / "kernels"
HOST = Path(__file__).with_name("kernels_host")
GUARD_BYTES = 64  # around the input: none of them may change
GUARD = 0xA5

Readable = list[list[int]]  # the first addresses of two ranges, and the addresses after their last bytes


@dataclass(frozen=True)
class HostKernel:
    """The kernel as a library of this machine."""

    library: ctypes.CDLL

    def layout(self, name: str) -> list[int]:
        """Return the offsets of a struct's fields, and its size at the end."""
        function = getattr(self.library, f"{name}_layout")
        function.restype = ctypes.POINTER(ctypes.c_size_t)
        fields = {"picture": PICTURE, "target": TARGET}[name].names or ()
        return function()[: len(fields) + 1]  # type: ignore[no-any-return]

    def run(
        self, pictures: Sequence[Picture], target: TargetSettings, *, readable: list[Readable] | None = None
    ) -> NDArray[Any]:
        """Return the input that it makes; fail where it reads or writes a byte that is not its own."""
        shape = input_shape(target, len(pictures))
        size_bytes = int(np.prod(shape)) * target.dtype.itemsize
        memory = np.full(size_bytes + 2 * GUARD_BYTES, GUARD, np.uint8)
        rows = memory[GUARD_BYTES : GUARD_BYTES + size_bytes]
        records = np.array([record_of(picture) for picture in pictures], PICTURE)
        targets = np.array([target_record(target, rows.ctypes.data)], TARGET)
        allowed = np.array(readable or [readable_by(picture) for picture in pictures], np.uint64)
        grid, block = (np.array(each, np.uint32) for each in launch_shape(target.width, target.height, len(pictures)))
        self.library.launch.restype = ctypes.c_longlong
        arguments = [ctypes.c_void_p(each.ctypes.data) for each in (records, targets, allowed, grid, block)]
        assert self.library.launch(*arguments) == 0, "it read outside of a picture"
        np.testing.assert_array_equal(memory[:GUARD_BYTES], GUARD)
        np.testing.assert_array_equal(memory[-GUARD_BYTES:], GUARD)
        return rows.view(target.dtype).reshape(shape)


def input_shape(target: TargetSettings, batch: int) -> tuple[int, ...]:
    size = (target.height, target.width)
    return (batch, target.channels, *size) if target.planar else (batch, *size, target.channels)


def record_of(picture: Picture) -> tuple[Any, ...]:
    chroma = picture.planes[1:]
    return picture_record(
        picture.planes[0].ctypes.data,
        picture.pixel_format,
        picture.size_px,
        pitch_bytes=picture.planes[0].strides[0],
        region=picture.region,
        place=picture.place,
        chroma=(chroma[0].ctypes.data, chroma[0].strides[0]) if chroma else None,
    )


def readable_by(picture: Picture) -> Readable:
    spans = [(plane.ctypes.data, plane.ctypes.data + plane.nbytes) for plane in picture.planes]
    spans += [(0, 0)] * (2 - len(spans))
    return [[begin for begin, _ in spans], [end for _, end in spans]]


def compile_for_host(folder: Path) -> HostKernel:
    """Compile the kernel into `folder`; skip the test where there is no compiler."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    library = folder / "letterbox.so"
    options = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", f"-I{HOST}", f"-I{KERNELS}"]
    subprocess.run([compiler, *options, HOST / "host.cpp", "-o", library], check=True)
    return HostKernel(ctypes.CDLL(str(library)))
