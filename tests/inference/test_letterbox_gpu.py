"""Shipped kernels on a real GPU: the same bytes as on the host, and OpenCV's result within a level."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.inference.backends.tensorrt.letterbox_kernel import (
    DTYPES,
    FORMATS,
    PICTURE,
    TARGET,
    TargetSettings,
    kernel_file,
    launch_shape,
    picture_record,
    target_record,
)
from tests.support.letterbox_host import HostKernel, compile_for_host, input_shape
from tests.support.letterbox_reference import Picture, check_batch, noise

pytestmark = pytest.mark.gpu

GUARD_BYTES = 256
GUARD = 0xA5


@dataclass(frozen=True)
class GpuKernel:
    """The kernel as a driver loads it."""

    driver: Any
    function: Any

    def run(self, pictures: Sequence[Picture], target: TargetSettings) -> NDArray[Any]:
        """Return the input that it makes; fail where it writes a byte around it."""
        shape = input_shape(target, len(pictures))
        size_bytes = int(np.prod(shape)) * target.dtype.itemsize
        memory = np.full(size_bytes + 2 * GUARD_BYTES, GUARD, np.uint8)
        rows = self.driver.to_device(memory)
        planes = [[self.driver.to_device(plane) for plane in picture.planes] for picture in pictures]
        records = np.array([record_at(*each) for each in zip(pictures, planes, strict=True)], PICTURE)
        targets = np.array([target_record(target, int(rows) + GUARD_BYTES)], TARGET)
        grid, block = launch_shape(target.width, target.height, len(pictures))
        on_gpu = [self.driver.to_device(each) for each in (records, targets)]
        self.function.prepared_call(grid, block, *map(int, on_gpu))
        self.driver.memcpy_dtoh(memory, rows)
        np.testing.assert_array_equal(memory[:GUARD_BYTES], GUARD)
        np.testing.assert_array_equal(memory[-GUARD_BYTES:], GUARD)
        return memory[GUARD_BYTES:-GUARD_BYTES].view(target.dtype).reshape(shape)


def record_at(picture: Picture, planes: Sequence[Any]) -> tuple[Any, ...]:
    pitches = [plane.strides[0] for plane in picture.planes]
    return picture_record(
        int(planes[0]),
        picture.pixel_format,
        picture.size_px,
        pitch_bytes=pitches[0],
        region=picture.region,
        place=picture.place,
        chroma=(int(planes[1]), pitches[1]) if len(planes) > 1 else None,
    )


@pytest.fixture(scope="module")
def gpu() -> Iterator[GpuKernel]:
    driver = pytest.importorskip("pycuda.driver", reason="pycuda is not installed", exc_type=ImportError)
    try:
        driver.init()
        device = driver.Device(0)
    except driver.Error as error:
        pytest.skip(f"no NVIDIA GPU can be used here: {error}")
    context = device.retain_primary_context()
    context.push()
    major, minor = device.compute_capability()
    function = driver.module_from_file(str(kernel_file(f"sm_{major}{minor}"))).get_function("letterbox")
    function.prepare("PP")
    yield GpuKernel(driver, function)
    context.pop()
    context.detach()


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> HostKernel:
    return compile_for_host(tmp_path_factory.mktemp("kernels"))


def settings_for(color: str, dtype: str, *, planar: bool) -> TargetSettings:
    channels = 1 if color == "gray" else 3
    return TargetSettings(
        width=101,
        height=75,
        channels=channels,
        planar=planar,
        dtype=np.dtype(dtype),
        color=color,
        scale=(1 / 58.395, 1 / 57.12, 1 / 57.375)[:channels] if dtype.startswith("float") else (0.7,) * channels,
        bias=(-2.118, -2.036, -1.804)[:channels] if dtype.startswith("float") else (-20.0,) * channels,
        pad=114,
        int8_scale=0.9 if dtype == "int8" else 1.0,
    )


def batch_of(pixel_format: str) -> list[Picture]:
    """Make a batch of pictures whose sizes, pitches, regions and places differ."""
    return [
        noise(pixel_format, (201, 117), (3, 1, 197, 116), (5, 2, 90, 53), spare_bytes=3),
        noise(pixel_format, (1, 1), None, (0, 0, 101, 75)),
        noise(pixel_format, (7681, 9), None, (0, 30, 101, 1), seed=2),
        noise(pixel_format, (64, 48), (8, 6, 50, 40), (0, 0, 101, 75), spare_bytes=1, seed=3),
    ]


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("color", ["bgr", "rgb", "gray"])
@pytest.mark.parametrize("pixel_format", sorted(FORMATS))
def test_a_gpu_makes_what_opencv_makes_and_the_same_bytes_as_the_host(
    gpu: GpuKernel, host: HostKernel, pixel_format: str, color: str, layout: str, dtype: str
) -> None:
    target = settings_for(color, dtype, planar=layout == "planar")
    pictures = batch_of(pixel_format)
    made = gpu.run(pictures, target)
    check_batch(made, pictures, target)
    np.testing.assert_array_equal(made, host.run(pictures, target))


def test_pictures_of_all_formats_share_a_launch(gpu: GpuKernel) -> None:
    target = settings_for("bgr", "float16", planar=True)
    pictures = [picture for pixel_format in sorted(FORMATS) for picture in batch_of(pixel_format)]
    check_batch(gpu.run(pictures, target), pictures, target)


def test_a_batch_of_eight_full_hd_pictures_for_an_input_of_640(gpu: GpuKernel) -> None:
    target = TargetSettings(
        width=640,
        height=640,
        channels=3,
        planar=True,
        dtype=np.dtype(np.float16),
        color="rgb",
        scale=(1 / 255,) * 3,
        bias=(0.0,) * 3,
        pad=114,
    )
    pictures = [noise("bgr", (1920, 1080), None, (0, 140, 640, 360), seed=number) for number in range(8)]
    check_batch(gpu.run(pictures, target), pictures, target)
