"""Comparison of a new engine with the one that serves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from edge.core.manifest import read_labels, read_manifest
from edge.core.records import Detections
from edge.inference.backends.ort import OrtEngine
from edge.inference.predictor import Predictor
from edge.precision.agreement import OutputError
from edge.precision.comparison import MAX_MEAN_ERROR, EngineAnswer, NumericCheck, answers, check_numerics
from tests.support.project import CONVEYOR


def pictures(count: int) -> list[NDArray[np.uint8]]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (120, 160, 3), np.uint8) for _ in range(count)]


def conveyor() -> Predictor:
    manifest = read_manifest(CONVEYOR)
    engine = OrtEngine(CONVEYOR / "conveyor.onnx", threads=1)
    return Predictor(engine, manifest, read_labels(CONVEYOR, manifest), CONVEYOR)


@pytest.mark.parametrize("max_batch", [1, 2, 5])
def test_an_engine_agrees_with_itself_in_batches_of_any_size(max_batch: int) -> None:
    predictor = conveyor()
    verdict = check_numerics(answers(predictor, pictures(5), 1), answers(predictor, pictures(5), max_batch))
    assert verdict.error.max < 1e-3
    assert verdict.agreement in (None, 1.0)
    assert verdict.why_not(0.95) is None


def answer(values: list[float], box: list[float] | None) -> EngineAnswer:
    boxes = np.array([box] if box else np.empty((0, 4)), np.float32).reshape(-1, 4)
    count = len(boxes)
    findings = Detections(boxes, np.full(count, 0.9, np.float32), np.zeros(count, np.int64))
    return EngineAnswer({"y": np.array(values, np.float32)}, findings)


GOOD = answer([0, 1, 2, 3], [0, 0, 10, 10])


@pytest.mark.parametrize(
    ("got", "reason"),
    [
        (GOOD, None),
        (answer([0, 1, 2, 3.01], [0, 0, 10, 10]), None),
        (answer([0, 1, 2, math.nan], [0, 0, 10, 10]), "not finite"),
        (answer([0, 1, 2], [0, 0, 10, 10]), "not finite, or have another shape"),
        (answer([0, 1, 2, 4], [0, 0, 10, 10]), "the mean error of its outputs is above 0.05"),
        (answer([0, 1, 2, 3], [50, 50, 60, 60]), "the agreement of its findings is 0.000"),
        (answer([0, 1, 2, 3], None), "the agreement of its findings is 0.000"),
    ],
)
def test_an_engine_is_refused_for_what_is_wrong_with_it(got: EngineAnswer, reason: str | None) -> None:
    told = check_numerics([GOOD], [got]).why_not(0.95)
    assert (told is None) == (reason is None)
    assert reason is None or reason in str(told)


def test_the_worst_picture_counts() -> None:
    bad = answer([0, 1, 2, 4], [0, 0, 10, 10])
    assert check_numerics([GOOD] * 10, [GOOD] * 9 + [bad]).error.mean > MAX_MEAN_ERROR


def test_where_nothing_is_found_the_raw_outputs_decide() -> None:
    nothing = replace(GOOD, findings=answer([], None).findings)
    assert check_numerics([nothing], [nothing]).why_not(0.95) is None
    assert NumericCheck(OutputError(9.0, 9.0), None).why_not(0.95) is not None
