"""Frames of the conveyor, and `edge engines verify`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge.capture.scene.conveyor import Conveyor
from edge.cli.main import main
from tests.support.configuration import Json


def scene(number: int) -> tuple[Any, Any]:
    """Return a frame of the belt, and what stands in it."""
    picture = np.empty((240, 320, 3), np.uint8)
    return picture, Conveyor(320, 240, 300 + number // 2).render(40 + 90 * (number % 2), picture)


def verify(capsys: pytest.CaptureFixture[str], model: Path, *more: str | Path, code: int = 0) -> Json:
    arguments = ["engines", "verify", model, "--json", "--state-dir", model.parent / "state", *more]
    if "--precision" not in more:
        arguments += ["--precision", "int8"]
    assert main([str(each) for each in arguments]) == code
    found: Json = json.loads(capsys.readouterr().out)
    return found
