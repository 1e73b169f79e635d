"""`edge engines quantize` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.process import run_edge
from tests.support.quantizable import classifier_folder, pictures_folder


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    return classifier_folder(tmp_path)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return pictures_folder(tmp_path)


def test_the_command_runs_as_a_process(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    done = run_edge(
        *("engines", "quantize", classifier, "--calibration", pictures, "--state-dir", tmp_path / "state", "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0
    assert Path(json.loads(done.stdout)["files"]["tensorrt"]).exists()
