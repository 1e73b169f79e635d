"""Paths of the checkout, and of the programs and data that tests need."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


DATA = ROOT.parent / "shared" / "data"


CONVEYOR = ROOT / "engines" / "conveyor"


def conveyor_copy(parent: Path, *left_out: str) -> Path:
    """Copy the built-in model into a folder where files may be made beside it; patterns name what is left out."""
    return Path(shutil.copytree(CONVEYOR, parent / "conveyor", ignore=shutil.ignore_patterns(*left_out)))


def program(name: str, package: str) -> str:
    """Return a program's path; skip the test where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def real_data(name: str) -> Path:
    """Return a file of the shared test data; skip the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"test data {path} is absent")
    return path
