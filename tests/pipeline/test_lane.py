"""A lane serves on, whatever a decoder of the user's own raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.pipeline.pipeline import Pipeline
from tests.pipeline.test_pipeline import Silent, config, environment
from tests.support.project import conveyor_copy
from tests.support.waiting import eventually

CONVEYOR = Path(__file__).parents[2] / "engines" / "conveyor"
FAILS_ONCE = """
import asyncio
import numpy as np

class Unshowable(BaseException):
    def __str__(self):
        raise SystemExit(4)

calls = 0

def decode(outputs, options):
    global calls
    calls += 1
    if calls == 3:
        raise {raised}
    return np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)
"""


@pytest.mark.parametrize(
    "raised",
    ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError", "BaseException('x')", "Unshowable"],
)
def test_whatever_a_decoder_raises_is_the_error_of_one_frame(tmp_path: Path, raised: str) -> None:
    folder = conveyor_copy(tmp_path)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('"yolov8"', '"own_decoder:decode"'))
    (folder / "own_decoder.py").write_text(FAILS_ONCE.format(raised=raised))
    text = f'[models.m]\npath = "{folder}"\nlanes = 1\nmax_batch = 1\n'
    text += '[streams.s]\nsource = "synthetic://conveyor?size=160x120&fps=50"\nmodel = "m"\n'
    running = Pipeline(config(tmp_path, text), Silent(), environment(tmp_path))
    running.start()
    try:
        meter = running.streams["s"].meter
        eventually(lambda: meter.counts()["results"] >= 5, "results after the frame that failed")
        assert meter.counts()["dropped"]["error"] == 1
    finally:
        running.stop()
