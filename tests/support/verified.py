"""Frames of the conveyor, and `edge engines verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.capture.scene.conveyor import Conveyor
from edge.cli.main import main
from edge.inference.admission import FILE
from tests.support.configuration import Json
from tests.support.project import conveyor_copy
from tests.support.quantized import quantize

SCENE = "synthetic://conveyor?seed=11&frames=400&size=320x240"


def scene(number: int) -> tuple[Any, Any]:
    """Return a frame of the belt, and what stands in it."""
    picture = np.empty((240, 320, 3), np.uint8)
    return picture, Conveyor(320, 240, 300 + number // 2).render(40 + 90 * (number % 2), picture)


def quantized_conveyor(parent: Path) -> Path:
    """Copy the built-in model, with an INT8 form whose convolutions alone are quantized.

    The form `naive` has lost its scores: they share a tensor with the boxes.
    """
    folder = conveyor_copy(parent, "*.fp16.onnx", "*.int8*", "*.py", FILE)
    rows = []
    for number in range(6):
        row = np.full((320, 320, 3), 114, np.uint8)
        row[:240] = scene(number)[0]
        rows.append(row.transpose(2, 0, 1)[None].astype(np.float32) / 255)
    quantize(folder / "conveyor.onnx", rows, "int8-cpu", op_types_to_quantize=["Conv"])
    quantize(folder / "conveyor.onnx", rows, "naive")
    return folder


def verify(capsys: pytest.CaptureFixture[str], model: Path, *more: str | Path, code: int = 0) -> Json:
    arguments = ["engines", "verify", model, "--json", "--state-dir", model.parent / "state", *more]
    if "--precision" not in more:
        arguments += ["--precision", "int8"]
    assert main([str(each) for each in arguments]) == code
    found: Json = json.loads(capsys.readouterr().out)
    return found
