"""The engine alone as a system under test, on ONNX Runtime."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from edge.core.clock import now_ns
from edge.core.errors import EngineError
from edge.inference.backends.ort import OrtEngine
from edge.perf.bench.load_generator import ClosedLoop, Length, Query, Scenario
from edge.perf.bench.system_engine import EngineAlone, fill_gaussian
from tests.support.project import CONVEYOR
from tests.support.small_models import identity, reshaping

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import engine_alone  # noqa: E402 -- after the path to it


def test_input_is_gaussian_and_the_same_for_the_same_seed(tmp_path: Path) -> None:
    with OrtEngine(CONVEYOR / "conveyor.onnx", threads=1).make_context(2) as context:
        fill_gaussian(context, 1)
        (array,) = context.inputs.values()
        rows = array.copy()
        assert rows.mean() == pytest.approx(0, abs=0.02)
        assert rows.std() == pytest.approx(1, abs=0.02)
        assert not np.array_equal(rows[0], rows[1])
        fill_gaussian(context, 1)
        assert np.array_equal(array, rows)
        fill_gaussian(context, 2)
        assert not np.array_equal(array, rows)


@pytest.mark.parametrize(
    ("scenario", "in_caller", "images"), [("single-stream", True, 3), ("offline", False, 3), ("multi-stream", False, 9)]
)
def test_queries_of_each_scenario_end(tmp_path: Path, scenario: Scenario, images: int, *, in_caller: bool) -> None:
    taken: list[Query] = []
    with EngineAlone(OrtEngine(identity(tmp_path), threads=1), 3, 2, 1, in_caller=in_caller) as alone:
        loop = ClosedLoop(alone, scenario)
        loop.run(Length(0.0, least_queries=50), taken, now_ns())
        loop.drain()
    assert len(taken) == 50
    assert {query.images for query in taken} == {images}


def test_engine_that_fails_in_a_lane_ends_the_run_with_its_sentence(tmp_path: Path) -> None:
    engine = OrtEngine(reshaping(tmp_path), threads=1)
    with (
        EngineAlone(engine, 3, 1, 1, in_caller=False) as alone,
        pytest.raises(EngineError, match="ONNX Runtime failed on a batch of 3"),
    ):
        ClosedLoop(alone, "offline").run(Length(0.0), [], now_ns())


def test_the_comparison_with_the_bare_loop_measures_both_in_each_round(tmp_path: Path) -> None:
    ours_ms, bare_ms = engine_alone.blocks(identity(tmp_path), 3, 4, 0.01)
    assert len(ours_ms) == len(bare_ms) == 4
    assert min(ours_ms + bare_ms) > 0


@pytest.mark.parametrize(
    ("ratios", "said"),
    [
        ([1.0, 1.01, 0.99] * 20, engine_alone.AGREES),
        ([1.05, 1.06, 1.04] * 20, engine_alone.DIFFERS),
        ([0.9, 0.91, 0.92] * 20, engine_alone.DIFFERS),
        ([0.7, 1.3] * 30, engine_alone.UNCLEAR),
        ([1.0, 1.4], engine_alone.UNCLEAR),
    ],
)
def test_the_comparison_says_when_it_cannot_tell(ratios: list[float], said: str) -> None:
    low, high = engine_alone.interval(sorted(ratios))
    assert low <= high
    assert engine_alone.verdict(low, high) == said
