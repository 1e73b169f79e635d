"""Fetches wheels of bindings once, and reads the surface of what is in them, without the libraries behind them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
CACHE = HERE.parents[2] / ".venv" / "bindings"  # one folder a binding and Python version; delete it to fetch anew
_LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def fetched(label: str, requirements: Sequence[str]) -> Path:
    """Return a folder with the wheels' content; skip the test where they cannot be fetched."""
    folder = CACHE / f"{label}-cp{sys.version_info.major}{sys.version_info.minor}"
    if not folder.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(dir=CACHE))
        try:
            _fetch(requirements, aside)
            _put_in_place(aside / "content", folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def _fetch(requirements: Sequence[str], aside: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--retries=1", "--timeout=15", "--dest", str(aside), *requirements]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        reason = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["pip failed"]
        pytest.skip(f"{' '.join(requirements)} cannot be fetched for this Python: {reason[-1]}")
    for wheel in aside.glob("*.whl"):
        with zipfile.ZipFile(wheel) as content:
            content.extractall(aside / "content")


def _put_in_place(content: Path, folder: Path) -> None:
    try:
        content.rename(folder)
    except OSError:  # another test run was faster
        assert folder.exists()


def with_stub_libraries(folder: Path) -> Path:
    """Compile what stands for TensorRT's libraries; return the folder that they are in."""
    libraries = folder / "stubs"
    if libraries.exists():
        return libraries
    if shutil.which("gcc") is None:
        pytest.skip("gcc is not installed, which makes the libraries that TensorRT's bindings are imported against")
    version = next(folder.glob("tensorrt*.dist-info")).name.split("-")[1]
    aside = Path(tempfile.mkdtemp(dir=folder))
    for name in _LIBRARIES:
        file = f"lib{name}.so.{version.split('.')[0]}"
        command = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(aside / file)]
        subprocess.run([*command, str(HERE / "tensorrt_stub.c")], check=True)
    _put_in_place(aside, libraries)
    return libraries


def run_python(
    arguments: Sequence[str],
    path: Sequence[Path],
    libraries: Path | None = None,
    more: Mapping[str, str] | None = None,
) -> str:
    """Run Python with modules and libraries of these folders, and more environment; return what it writes."""
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(str(each) for each in path)) | dict(more or {})
    if libraries is not None:
        environment["LD_LIBRARY_PATH"] = str(libraries)
    done = subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def surface_of(module: str, path: Sequence[Path], libraries: Path | None = None) -> dict[str, Any]:
    """Return the surface of a module, imported in a process of its own."""
    surface: dict[str, Any] = json.loads(run_python([str(HERE / "surface.py"), module], path, libraries))
    return surface
