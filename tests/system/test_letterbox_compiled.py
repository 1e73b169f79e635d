"""Preprocess kernel, compiled for this machine and by nvcc."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.manifest import InputSettings
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.tensorrt.letterbox_kernel import (
    DTYPES,
    FORMATS,
    PICTURE,
    TARGET,
    Box,
    TargetSettings,
    kernel_file,
    picture_record,
)
from edge.inference.preprocess import DevicePreprocessor, Preprocessor, target_settings
from tests.support.letterbox_host import HostKernel, compile_for_host, readable_by
from tests.support.letterbox_kernels import KERNELS, UINT8, architecture_of
from tests.support.letterbox_reference import Bytes, Picture, check_batch, noise, normalised, opencv_levels
from tests.support.project import ROOT

# One process compiles the kernel.
pytestmark = pytest.mark.xdist_group("letterbox")


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> HostKernel:
    return compile_for_host(tmp_path_factory.mktemp("kernels"))


@pytest.mark.parametrize(("name", "dtype"), [("picture", PICTURE), ("target", TARGET)])
def test_the_records_lie_in_memory_as_the_kernels_structs(kernel: HostKernel, name: str, dtype: np.dtype[Any]) -> None:
    assert dtype.names is not None
    assert dtype.fields is not None
    assert [dtype.fields[field][1] for field in dtype.names] + [dtype.itemsize] == kernel.layout(name)


@st.composite
def spans(draw: st.DrawFn, limit: int) -> tuple[int, int]:
    """Draw the begin and the length of a part of `limit` pixels."""
    length = draw(st.integers(1, limit))
    return draw(st.integers(0, limit - length)), length


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> Box:
    (x, box_width), (y, box_height) = draw(spans(width)), draw(spans(height))
    return x, y, box_width, box_height


@st.composite
def targets(draw: st.DrawFn) -> TargetSettings:
    color = draw(st.sampled_from(["bgr", "rgb", "gray"]))
    channels = 1 if color == "gray" else 3
    dtype = np.dtype(draw(st.sampled_from(sorted(DTYPES))))
    # Of so few bits that the reference is exact before it rounds.
    scales = st.floats(1 / 512, 2.0, width=32)
    biases = st.integers(-200_000, 200_000).map(lambda steps: steps / 1024)
    return TargetSettings(
        width=draw(st.integers(1, 70)),
        height=draw(st.integers(1, 70)),
        channels=channels,
        planar=draw(st.booleans()),
        dtype=dtype,
        color=color,
        scale=tuple(draw(st.lists(scales, min_size=channels, max_size=channels))),
        bias=tuple(draw(st.lists(biases, min_size=channels, max_size=channels))),
        pad=draw(st.integers(0, 255)),
        int8_scale=draw(st.floats(0.01, 2.0)) if dtype == np.int8 else 1.0,
    )


@st.composite
def pictures_for(draw: st.DrawFn, target: TargetSettings) -> Picture:
    width, height = draw(st.integers(1, 90)), draw(st.integers(1, 90))
    return noise(
        draw(st.sampled_from(sorted(FORMATS))),
        (width, height),
        draw(boxes(width, height)),
        draw(boxes(target.width, target.height)),
        spare_bytes=draw(st.integers(0, 9)),
        seed=draw(st.integers(0, 99)),
    )


@settings(max_examples=300)
@given(data=st.data(), target=targets())
def test_any_batch_of_pictures_of_different_sizes_and_formats_becomes_what_opencv_makes_of_it(
    kernel: HostKernel, data: st.DataObject, target: TargetSettings
) -> None:
    pictures = data.draw(st.lists(pictures_for(target), min_size=1, max_size=3))
    check_batch(kernel.run(pictures, target), pictures, target)


@pytest.mark.parametrize("dtype", sorted(DTYPES))
@pytest.mark.parametrize("layout", ["planar", "interleaved"])
@pytest.mark.parametrize("color", ["bgr", "rgb", "gray"])
@pytest.mark.parametrize("pixel_format", sorted(FORMATS))
def test_every_format_reaches_every_layout_and_dtype(
    kernel: HostKernel, pixel_format: str, color: str, layout: str, dtype: str
) -> None:
    channels = 1 if color == "gray" else 3
    target = replace(
        UINT8,
        color=color,
        planar=layout == "planar",
        dtype=np.dtype(dtype),
        channels=channels,
        scale=(0.4, 0.5, 0.25)[:channels],
        bias=(-30.0, -60.0, 3.0)[:channels],
        int8_scale=0.75 if dtype == "int8" else 1.0,
    )
    pictures = [noise(pixel_format, (101, 67), (3, 1, 97, 66), (5, 2, 50, 40), spare_bytes=3)]
    check_batch(kernel.run(pictures, target), pictures, target)


@pytest.mark.parametrize("pixel_format", sorted(FORMATS))
@pytest.mark.parametrize(
    ("size_px", "place"),
    [
        ((1, 1), (0, 0, 64, 48)),
        ((1, 1), (63, 47, 1, 1)),
        ((3, 1), (0, 20, 64, 1)),
        ((1, 3), (31, 0, 1, 48)),
        ((7680, 3), (0, 0, 64, 1)),
        ((7681, 17), (0, 0, 63, 48)),
        ((64, 48), (0, 0, 64, 48)),
        ((128, 96), (0, 0, 64, 48)),
        ((63, 47), (0, 0, 64, 48)),
        ((641, 361), (0, 6, 64, 36)),
    ],
)
def test_sizes_at_the_edge_of_what_is_possible(
    kernel: HostKernel, pixel_format: str, size_px: tuple[int, int], place: Box
) -> None:
    pictures = [noise(pixel_format, size_px, None, place)]
    check_batch(kernel.run(pictures, UINT8), pictures, UINT8)


def test_a_picture_of_8k_fits_an_input_of_640(kernel: HostKernel) -> None:
    target = replace(UINT8, width=640, height=640)
    pictures = [
        noise("nv12", (7680, 4320), None, (0, 140, 640, 360)),
        noise("bgr", (1920, 1080), None, (0, 0, 640, 360)),
    ]
    check_batch(kernel.run(pictures, target), pictures, target)


@pytest.mark.parametrize("color", ["bgr", "rgb", "gray"])
@pytest.mark.parametrize("pixel_format", sorted(FORMATS))
def test_what_keeps_its_size_keeps_every_level(kernel: HostKernel, pixel_format: str, color: str) -> None:
    channels = 1 if color == "gray" else 3
    target = replace(UINT8, color=color, channels=channels, scale=(1.0,) * channels, bias=(0.0,) * channels)
    picture = noise(pixel_format, (80, 60), (7, 5, 64, 48), (0, 0, 64, 48))
    rows = kernel.run([picture], target)
    np.testing.assert_array_equal(rows[0].transpose(1, 2, 0), opencv_levels(picture, color))


def test_rows_without_weight_are_not_read(kernel: HostKernel) -> None:
    """A picture three times the input's size needs every third row only: the rest costs no memory traffic."""
    picture = noise("bgr", (9, 3), None, (0, 0, 3, 1))
    middle = replace(picture, planes=(picture.planes[0][1:2],))
    rows = kernel.run([picture], replace(UINT8, width=3, height=1), readable=[readable_by(middle)])
    np.testing.assert_array_equal(rows[0].transpose(1, 2, 0), picture.planes[0].reshape(3, 9, 3)[1:2, 1::3])


def test_half_a_level_is_rounded_up(kernel: HostKernel) -> None:
    pixels = np.array([[10, 10, 10, 11, 11, 11]], np.uint8)
    picture = Picture("bgr", (2, 1), (pixels,), (0, 0, 2, 1), (0, 0, 1, 1))
    assert kernel.run([picture], replace(UINT8, width=1, height=1)).ravel().tolist() == [11, 11, 11]


def test_odd_pictures_take_the_colour_of_their_last_column_and_row_from_a_pair_of_its_own(kernel: HostKernel) -> None:
    """By hand: Y 128, U and V 128 are gray of (128-16)·1.164 = 130; V 255 adds 1.596·127 = 203 to red, cut at 255."""
    target = replace(UINT8, width=3, height=3, color="rgb", planar=False)
    brightness = np.full((3, 3), 128, np.uint8)
    chroma = np.full((2, 4), 128, np.uint8)
    chroma[1, 3] = 255
    rows = kernel.run([Picture("nv12", (3, 3), (brightness, chroma), (0, 0, 3, 3), (0, 0, 3, 3))], target)[0]
    assert rows[2, 2].tolist() == [255, 27, 130]  # green: 130.4 - 0.813·127
    assert {tuple(pixel) for pixel in rows.reshape(9, 3)[:8].tolist()} == {(130, 130, 130)}
    yuyv = np.full((1, 8), 128, np.uint8)
    yuyv[0, 7] = 255
    target = replace(target, height=1)
    rows = kernel.run([Picture("yuyv", (3, 1), (yuyv,), (0, 0, 3, 1), (0, 0, 3, 1))], target)[0]
    assert rows[0].tolist() == [[130, 130, 130], [130, 130, 130], [255, 27, 130]]


def test_the_chroma_of_nv12_is_looked_for_below_its_brightness(kernel: HostKernel) -> None:
    picture = noise("nv12", (20, 10), None, (0, 0, 64, 48))
    whole: Bytes = np.concatenate(picture.planes)
    record = picture_record(
        whole.ctypes.data, "nv12", (20, 10), pitch_bytes=20, region=picture.region, place=picture.place
    )
    named = dict(zip(PICTURE.names or (), record, strict=True))
    assert (named["chroma"], named["chroma_pitch"]) == (whole.ctypes.data + 200, 20)
    apart = replace(picture, planes=(whole[:10], whole[10:]))
    np.testing.assert_array_equal(kernel.run([apart], UINT8), kernel.run([picture], UINT8))


def test_a_place_that_is_partly_outside_of_the_input_is_cut_there(kernel: HostKernel) -> None:
    picture = noise("bgr", (50, 40), None, (-20, 30, 60, 60))
    row = kernel.run([picture], UINT8)[0].transpose(1, 2, 0)
    shown = opencv_levels(picture, "bgr")[:18, 20:]
    assert np.abs(row[30:, :40] - shown).max() <= 1
    np.testing.assert_array_equal(row[:30], 114)
    np.testing.assert_array_equal(row[:, 40:], 114)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_pad_is_normalised_like_a_pixel_of_that_level_to_the_bit(kernel: HostKernel, dtype: str) -> None:
    target = replace(
        UINT8,
        dtype=np.dtype(dtype),
        scale=(1 / 58.395, 1 / 57.12, 1 / 57.375),
        bias=(-123.675 / 58.395, -116.28 / 57.12, -103.53 / 57.375),
    )
    gray = Picture("gray", (1, 1), (np.full((1, 1), 114, np.uint8),), (0, 0, 1, 1), (0, 0, 64, 24))
    row = kernel.run([gray], target)[0]
    np.testing.assert_array_equal(row[:, :24], row[:, 24:])
    np.testing.assert_array_equal(row[:, 0, 0], normalised(np.full(3, 114), target))


@pytest.mark.parametrize(
    ("dtype", "wanted"),
    [("uint8", [0, 0, 0, 2, 2, 254, 255, 255]), ("int8", [-128, -128, 0, 2, 2, 127, 127, 127])],
)
def test_whole_numbers_are_rounded_to_even_at_a_tie_and_stop_at_the_limits(
    kernel: HostKernel, dtype: str, wanted: list[int]
) -> None:
    """Of the levels: 0/2 - 500, 255/2 - 500; 1/2, 3/2, 5/2; 255 - 1; 0 + 500, 255 + 500."""
    levels = np.array([[0, 255, 1, 3, 5, 255]], np.uint8)
    target = replace(UINT8, width=6, height=1, channels=1, color="gray", dtype=np.dtype(dtype))
    picture = Picture("gray", (6, 1), (levels,), (0, 0, 6, 1), (0, 0, 6, 1))
    made = [
        kernel.run([picture], replace(target, scale=(scale,), bias=(bias,))).ravel()
        for scale, bias in [(0.5, -500.0), (0.5, 0.0), (1.0, -1.0), (1.0, 500.0)]
    ]
    assert [*made[0][:2], *made[1][2:5], made[2][5], *made[3][:2]] == wanted


@dataclass
class Placed:
    """Takes what the wiring says of a picture."""

    region: Box = (0, 0, 0, 0)
    place: Box = (0, 0, 0, 0)

    def put(self, row: int, image: Bytes, region: Box, place: Box) -> None:  # noqa: ARG002 -- as the contract has it
        self.region, self.place = region, place


@pytest.mark.parametrize("source_px", [(320, 180), (90, 200), (33, 31), (64, 48)])
@pytest.mark.parametrize(
    "keys", [{"anchor": "top-left"}, {"anchor": "center"}, {"resize": "stretch"}, {"resize": "crop"}]
)
@pytest.mark.parametrize("color", ["bgr", "rgb", "gray"])
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
def test_the_gpu_makes_what_the_cpus_preprocessing_makes(
    kernel: HostKernel, source_px: tuple[int, int], keys: dict[str, Any], color: str, dtype: str
) -> None:
    mean, std = ([0.0] * 3, [1.0] * 3) if dtype == "uint8" else ([123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    channels = 1 if color == "gray" else 3
    settings = InputSettings.model_validate(keys | {"color": color, "mean": mean[:channels], "std": std[:channels]})
    image = noise("bgr", source_px, None, (0, 0, 1, 1)).planes[0].reshape(source_px[1], source_px[0], 3)
    row = np.empty((channels, 48, 64), dtype)
    spec = TensorSpec("images", (1, *row.shape), row.dtype)
    placed = Placed()
    geometry = DevicePreprocessor(placed, spec, settings).fill(image, 0)
    assert geometry == Preprocessor(spec, settings).fill(image, row)
    picture = Picture("bgr", source_px, (image.reshape(len(image), -1),), placed.region, placed.place)
    target = target_settings(spec, settings)
    assert target is not None
    made = kernel.run([picture], target)[0]
    np.testing.assert_allclose(made.astype(float), row.astype(float), rtol=1e-3, atol=1.001 / min(std))


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_script_that_builds_them_says_what_is_missing() -> None:
    environment = os.environ | {"NVCC": "/nowhere/nvcc"}
    script = [sys.executable, str(ROOT / "scripts" / "kernels")]
    ended = subprocess.run(script, env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    wanted = "wanted nvcc 13 of the CUDA toolkit, which knows sm_110: set PATH or NVCC\n"
    assert ended.stderr == f"/nowhere/nvcc is not installed; {wanted}"


def find_nvcc() -> str:
    path = shutil.which("nvcc") or shutil.which("nvcc", path="/usr/local/cuda/bin")
    if path is None:
        pytest.skip("nvcc is not installed: it comes with the CUDA toolkit")
    return path


@pytest.mark.parametrize("architecture", ["sm_87", "sm_110"])
def test_nvcc_compiles_it_without_a_warning(architecture: str, tmp_path: Path) -> None:
    nvcc = find_nvcc()
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    if architecture not in known:
        pytest.skip(f"this nvcc does not know {architecture}: CUDA 13 does")
    options = ["--std=c++17", "-Werror", "all-warnings", "-cubin", f"-arch={architecture}"]
    cubin = tmp_path / "letterbox.cubin"
    subprocess.run([nvcc, *options, "letterbox.cu", "-o", cubin], cwd=KERNELS, check=True)
    assert architecture_of(cubin.read_bytes())[1] == int(architecture.removeprefix("sm_"))
    built = json.loads((KERNELS / "built.json").read_text(encoding="utf-8"))["files"]
    facts = built[kernel_file(architecture).name]
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    if facts["compiler"].startswith("nvcc") and f"V{facts['compiler'].removeprefix('nvcc ')}" in told:
        assert sha256(cubin) == facts["sha256"], "the same compiler gives other bytes: run scripts/kernels"
