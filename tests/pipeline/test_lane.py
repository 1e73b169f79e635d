"""A lane serves on, whatever a decoder of the user's own raises."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.core.records import Result
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream
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


BROKEN_ONCE = """
import numpy as np

calls = 0

def decode(outputs, options):
    global calls
    calls += 1
    score = 7.0 if calls == 3 else 0.9
    return np.float32([[8, 8, 40, 40]]), np.float32([score]), np.int64([0])
"""


class Listening(Silent):
    """Outlet that keeps what is said of implausible outputs, and every result."""

    def __init__(self) -> None:
        self.said: list[str | None] = []
        self.scores: list[float] = []

    def output_implausible(self, model: ServedModel, reason: str | None) -> None:  # noqa: ARG002 -- the contract's
        self.said.append(reason)

    def result(self, stream: Stream, result: Result) -> None:  # noqa: ARG002 -- the contract's
        self.scores += result.findings.scores.tolist()


def test_implausible_outputs_are_an_error_of_their_frame_and_are_told_until_they_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = conveyor_copy(tmp_path)
    manifest = folder / "model.toml"
    manifest.write_text(manifest.read_text().replace('"yolov8"', '"own_decoder:decode"'))
    (folder / "own_decoder.py").write_text(BROKEN_ONCE)
    text = f'[models.m]\npath = "{folder}"\nlanes = 1\nmax_batch = 1\n'
    text += '[streams.s]\nsource = "synthetic://conveyor?size=160x120&fps=50"\nmodel = "m"\n'
    outlet = Listening()
    running = Pipeline(config(tmp_path, text), outlet, environment(tmp_path))
    running.start()
    try:
        meter = running.streams["s"].meter
        eventually(lambda: meter.counts()["results"] >= 5, "results after the frame that failed")
        assert meter.counts()["dropped"]["error"] == 1
        running.check_outputs()
        monkeypatch.setattr("edge.pipeline.pipeline.PLAUSIBLE_AGAIN_S", 0.0)
        running.check_outputs()
        running.check_outputs()
    finally:
        running.stop()
    assert max(outlet.scores) < 1
    raised, cleared = outlet.said
    assert raised is not None
    assert "are implausible: a score of 7, wanted 0 to 1" in raised
    assert cleared is None
