"""The kernel compiled as C++ for the host and compared with OpenCV, its records, and the shipped files."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.core.errors import EngineError
from edge.inference.backends.tensorrt.letterbox_kernel import (
    Box,
    kernel_file,
    launch_shape,
    picture_record,
    target_record,
)
from tests.support.letterbox_kernels import KERNELS, UINT8, architecture_of

# One process compiles the kernel.
pytestmark = pytest.mark.xdist_group("letterbox")


def test_a_grid_covers_every_pixel_of_every_row() -> None:
    assert launch_shape(640, 640, 8) == ((20, 20, 8), (32, 8, 1))
    assert launch_shape(33, 33, 1) == ((2, 2, 1), (32, 8, 1))
    assert launch_shape(1, 1, 3) == ((1, 1, 3), (32, 8, 1))


@pytest.mark.parametrize(
    ("pixel_format", "pitch_bytes", "region", "place", "sentence"),
    [
        ("bgr", 30, (1, 0, 10, 10), (0, 0, 1, 1), "region (1, 0, 10, 10) of a picture of 10×10 pixels"),
        ("bgr", 30, (0, -1, 10, 10), (0, 0, 1, 1), "region (0, -1, 10, 10) of a picture of 10×10 pixels"),
        ("bgr", 30, (0, 0, 0, 10), (0, 0, 1, 1), "region (0, 0, 0, 10) of a picture of 10×10 pixels"),
        ("bgr", 30, (0, 0, 10, 10), (0, 0, 1, 0), "place (0, 0, 1, 0) for a picture"),
        ("bgr", 29, (0, 0, 10, 10), (0, 0, 1, 1), "rows 29 and 29 bytes apart; wanted at least 30"),
        ("yuyv", 19, (0, 0, 10, 10), (0, 0, 1, 1), "rows 19 and 19 bytes apart; wanted at least 20"),
    ],
)
def test_what_would_be_read_outside_of_a_picture_is_refused(
    pixel_format: str, pitch_bytes: int, region: Box, place: Box, sentence: str
) -> None:
    with pytest.raises(EngineError, match=re.escape(sentence)):
        picture_record(0, pixel_format, (10, 10), pitch_bytes=pitch_bytes, region=region, place=place)


def test_a_chroma_plane_that_is_too_narrow_is_refused() -> None:
    box = (0, 0, 9, 9)
    with pytest.raises(EngineError, match="rows 9 and 9 bytes apart; wanted at least 9, and 10 for the chroma"):
        picture_record(0, "nv12", (9, 9), pitch_bytes=9, region=box, place=box)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"dtype": np.dtype(np.int32)},
            "engine input: found int32, which the GPU kernel does not support; wanted float32",
        ),
        ({"channels": 1}, "engine input in bgr: found 1 channels, 3 scales and 3 biases, wanted 3 of each"),
        ({"scale": (1.0,)}, "engine input in bgr: found 3 channels, 1 scales and 3 biases, wanted 3 of each"),
        ({"color": "gray"}, "engine input in gray: found 3 channels, 3 scales and 3 biases, wanted 1 of each"),
    ],
)
def test_an_input_that_the_kernel_cannot_fill_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(EngineError, match=re.escape(sentence)):
        target_record(replace(UINT8, **changes), 0)


def test_each_board_has_its_file_and_any_other_gpu_the_ptx() -> None:
    assert kernel_file("sm_87").name == "letterbox.sm_87.cubin"
    assert kernel_file("sm_110").name == "letterbox.sm_110.cubin"
    assert kernel_file("sm_90").name == "letterbox.ptx"


def test_orins_cubin_has_the_form_that_drivers_of_cuda_12_know() -> None:
    """CUDA 13 writes form 8; JetPack 6 has a driver of CUDA 12.6, which was made before it."""
    assert architecture_of(kernel_file("sm_87").read_bytes()) == (7, 87)
    assert architecture_of(kernel_file("sm_110").read_bytes()) == (8, 110)


def test_the_ptx_is_one_that_drivers_from_cuda_12_6_on_take() -> None:
    text = kernel_file("sm_90").read_text(encoding="utf-8")
    version = re.search(r"^\.version (\d+)\.(\d+)$", text, re.MULTILINE)
    assert version is not None
    assert (int(version[1]), int(version[2])) <= (8, 5)
    assert ".target sm_75" in text


@pytest.mark.parametrize("architecture", ["sm_87", "sm_110", "other"])
def test_every_file_holds_the_kernel_by_its_name(architecture: str) -> None:
    assert b"letterbox\0" in (content := kernel_file(architecture).read_bytes()) or b".entry letterbox(" in content


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_files_that_ship_were_built_from_this_source() -> None:
    built = json.loads((KERNELS / "built.json").read_text(encoding="utf-8"))
    assert sha256(KERNELS / "letterbox.cu") == built["source_sha256"], "the kernel was changed: run scripts/kernels"
    shipped = {path.name for path in KERNELS.iterdir() if path.suffix in (".cubin", ".ptx")}
    assert shipped == set(built["files"])
    for name, facts in built["files"].items():
        assert sha256(KERNELS / name) == facts["sha256"], f"{name} was changed: run scripts/kernels"
