"""The wheel: its data files, and the program run from it alone."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.mqtt import schemas
from tests.support.process import clean_environment

pytestmark = pytest.mark.xdist_group("wheel")

DATA_FILES = {
    "edge/py.typed",
    *(
        f"edge/engines/conveyor/{name}"
        for name in (
            "conveyor.onnx",
            "conveyor.int8.onnx",
            "conveyor.int8-cpu.onnx",
            "labels.txt",
            "model.toml",
            "precision.json",
        )
    ),
    *(
        f"edge/inference/backends/tensorrt/kernels/{name}"
        for name in ("built.json", "letterbox.cu", "letterbox.ptx", "letterbox.sm_87.cubin", "letterbox.sm_110.cubin")
    ),
    *(f"edge/mqtt/schemas/{name}.json" for name in schemas.NAMES),
    "edge/perf/bench/published_results.csv",
}


@pytest.fixture(scope="module")
def unpacked(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder that holds the wheel's files and nothing else."""
    folder = tmp_path_factory.mktemp("unpacked")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    return folder


def run(unpacked: Path, folder: Path, *arguments: str | Path) -> str:
    """Run Python on the wheel's files; return its output."""
    environment = clean_environment({"PYTHONPATH": str(unpacked)})
    command = [sys.executable, *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_its_data_files_are_these(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert {name for name in names if not name.endswith(".py") and ".dist-info/" not in name} == DATA_FILES


def test_the_package_is_the_unpacked_one(unpacked: Path, tmp_path: Path) -> None:
    assert run(unpacked, tmp_path, "-c", "import edge; print(edge.__file__)").startswith(str(unpacked))


def test_schemas_published_rows_and_kernels_are_read_from_it(unpacked: Path, tmp_path: Path) -> None:
    for name in schemas.NAMES:
        assert json.loads(run(unpacked, tmp_path, "-m", "edge", "schema", name))["$schema"]
    program = """
from edge.inference.backends.tensorrt.letterbox_kernel import kernel_file
from edge.perf.bench.published import published_rows
print(len(published_rows()), kernel_file("sm_87").stat().st_size)
"""
    rows, kernel_bytes = map(int, run(unpacked, tmp_path, "-c", program).split())
    assert rows > 100
    assert kernel_bytes > 0


def test_the_built_in_model_is_found_and_detects(unpacked: Path, tmp_path: Path) -> None:
    listed = json.loads(run(unpacked, tmp_path, "-m", "edge", "engines", "list", "--json"))
    assert str(unpacked) in json.dumps(listed)
    cv2.imwrite(str(tmp_path / "gray.png"), np.full((240, 320, 3), 127, np.uint8))
    options = ("--json", "--state-dir", tmp_path / "state")
    (line,) = run(unpacked, tmp_path, "-m", "edge", "detect", "conveyor", "gray.png", *options).splitlines()
    assert json.loads(line)["size"] == [320, 240]
