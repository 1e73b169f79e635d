"""Pictures in, findings out: one at a time, in batches, and only while the session is open."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge.core.errors import ModelError
from edge.core.manifest import read_labels, read_manifest
from edge.core.records import Detections, Image
from edge.inference.backends.ort import OrtEngine
from edge.inference.predictor import Predictor
from tests.support.project import CONVEYOR
from tests.support.quantizable import network


@pytest.fixture(scope="module")
def conveyor() -> Predictor:
    manifest = read_manifest(CONVEYOR)
    engine = OrtEngine(CONVEYOR / "conveyor.onnx", threads=1)
    return Predictor(engine, manifest, read_labels(CONVEYOR, manifest), CONVEYOR)


def images(count: int) -> list[Image]:
    random = np.random.default_rng(3)
    return [random.integers(0, 256, (60 + 20 * number, 160, 3), np.uint8) for number in range(count)]


def boxes_of(found: object) -> list[list[float]]:
    assert isinstance(found, Detections)
    rows: list[list[float]] = np.column_stack((found.boxes, found.scores, found.class_ids)).round(2).tolist()
    return rows


def test_a_picture_gives_the_same_alone_in_a_batch_and_step_by_step(conveyor: Predictor) -> None:
    shown = images(3)
    with conveyor.session(3) as session:
        session.warm_up()
        together = [boxes_of(each) for each in session.predict_batch(shown)]
        assert all(together)
        assert [boxes_of(session.predict(each)) for each in shown] == together
        session.fill(shown[1], 2)
        assert session.source_px(2) == (160, 80)
        assert session.run(3).infer_ms == session.times.infer_ms > 0
        assert boxes_of(session.decode(2)) == together[1]


def test_a_low_threshold_of_the_caller_finds_more(conveyor: Predictor) -> None:
    (image,) = images(1)
    with conveyor.session() as session:
        sure = session.predict(image)
        assert len(session.decode(score_threshold=1e-6).scores) > len(sure.scores)
        assert len(session.predict(image, 1e-6).scores) > len(sure.scores)


def test_copied_outputs_outlive_the_next_run(conveyor: Predictor) -> None:
    one, other = images(2)
    with conveyor.session() as session:
        session.predict(one)
        kept = session.copy_outputs()
        before = {name: array.tolist() for name, array in kept.items()}
        session.predict(other)
        assert {name: array.tolist() for name, array in kept.items()} == before
        assert {name: array.tolist() for name, array in session.copy_outputs().items()} != before


def test_a_session_is_used_only_while_it_is_open(conveyor: Predictor) -> None:
    (image,) = images(1)
    session = conveyor.session()
    with pytest.raises(RuntimeError, match="not open"):
        session.predict(image)
    with session, pytest.raises(RuntimeError, match="row 0 holds no picture"):
        session.decode()
    with pytest.raises(RuntimeError, match="not open"):
        session.run()


def test_the_model_goes_over_to_another_engine_only_where_that_fits(conveyor: Predictor, tmp_path: Path) -> None:
    same = conveyor.with_engine(OrtEngine(CONVEYOR / "conveyor.onnx", threads=1))
    assert same.input_px == conveyor.input_px
    assert same.is_reference
    with pytest.raises(ModelError):
        conveyor.with_engine(OrtEngine(network(tmp_path, batch="N"), threads=1))


def test_inputs_are_new_arrays_full_of_the_picture(conveyor: Predictor) -> None:
    first, second = (feed[conveyor.input.name] for feed in conveyor.inputs(images(2)))
    assert first.shape[1:] == conveyor.input.shape[1:]
    assert first.dtype == conveyor.input.dtype
    assert not np.array_equal(first, second)
