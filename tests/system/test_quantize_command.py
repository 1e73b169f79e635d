"""`edge engines quantize` as a process."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from edge.cli.main import main
from tests.support.configuration import write_toml
from tests.support.process import run_edge
from tests.support.quantizable import SIDE, network


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    """Give a model folder of the small network."""
    folder = tmp_path / "classifier"
    folder.mkdir()
    network(folder, batch="N")
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\n", encoding="utf-8")
    tables = {"input": {"color": "rgb", "scale": 1 / 255}, "output": {"decoder": "topk", "score_threshold": 0.0}}
    write_toml(folder / "model.toml", tables)
    head = 'task = "classify"\nonnx = "network.onnx"\nlabels = "labels.txt"\n'
    (folder / "model.toml").write_text(head + (folder / "model.toml").read_text(), encoding="utf-8")
    return folder


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    random = np.random.default_rng(4)
    for number in range(12):
        coarse = random.integers(0, 256, (4, 4, 3), np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), cv2.resize(coarse, (SIDE, SIDE)))
    return folder


def quantize(model: Path, source: str | Path, *arguments: str) -> int:
    state = str(model.parent / "state")
    return main(["engines", "quantize", str(model), "--calibration", str(source), "--state-dir", state, *arguments])


def test_the_command_runs_as_a_process(classifier: Path, pictures: Path, tmp_path: Path) -> None:
    done = run_edge(
        *("engines", "quantize", classifier, "--calibration", pictures, "--state-dir", tmp_path / "state", "--json"),
        folder=tmp_path,
    )
    assert done.returncode == 0
    assert Path(json.loads(done.stdout)["files"]["tensorrt"]).exists()
