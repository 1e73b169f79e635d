"""Live agreement of what serves with the model as it was exported."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edge.core.config import EnginesSettings, load_config
from edge.core.records import Result
from edge.inference.backends.ort import OrtEngine
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.engine_rebuild import Step
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream
from tests.support.project import CONVEYOR
from tests.support.waiting import eventually


class Told:
    """Keeps what the pipeline tells."""

    def __init__(self) -> None:
        self.agreements: list[tuple[str, float, bool]] = []
        self.steps: list[tuple[Step, str | None]] = []
        self.engines: set[str] = set()

    def result(self, stream: Stream, result: Result) -> None:  # noqa: ARG002 -- an outlet's signature
        self.engines.add(result.engine)

    def stream_state(self, stream: Stream, reason: str | None) -> None: ...

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None:  # noqa: ARG002 -- likewise
        self.steps.append((step, reason))

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None: ...

    def output_implausible(self, model: ServedModel, reason: str | None) -> None: ...

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None:
        self.agreements.append((model.engine.label, agreement, is_low))


def changed_model(folder: Path, factor: float) -> Path:
    """Write the built-in model with its output multiplied."""
    model = onnx.load(CONVEYOR / "conveyor.onnx")
    (output,) = model.graph.output
    for node in model.graph.node:
        node.output[:] = ["before" if name == output.name else name for name in node.output]
        node.input[:] = ["before" if name == output.name else name for name in node.input]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(factor), "factor"))
    model.graph.node.append(helper.make_node("Mul", ["before", "factor"], [output.name]))
    onnx.save(model, folder / "changed.onnx")
    return folder / "changed.onnx"


def make(folder: Path, told: Told, *, fallback: bool = False) -> Pipeline:
    path = folder / "edge.toml"
    path.write_text(
        f"[accuracy]\nshadow = 1.0\nwindow = 25\nfallback = {str(fallback).lower()}\n"
        '[models.m]\npath = "conveyor"\nlanes = 1\n'
        '[streams.s]\nsource = "synthetic://conveyor?fps=60&size=320x240"\nmodel = "m"\n',
        encoding="utf-8",
    )
    return Pipeline(load_config(path), told, EngineEnvironment(folder / "state", "a board", EnginesSettings()))


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    before = threading.active_count()
    yield
    eventually(lambda: threading.active_count() == before, "all threads have ended")


@pytest.mark.usefixtures("no_threads_left")
def test_the_reference_itself_is_not_compared(tmp_path: Path) -> None:
    told = Told()
    pipeline = make(tmp_path, told)
    pipeline.start()
    eventually(lambda: len(told.engines) == 1, "a result")
    pipeline.stop()
    assert told.agreements == []
    assert pipeline.models["m"].meter.report(1.0, "e")["shadow"] == {"frames": 0, "agreement": None}


@pytest.mark.usefixtures("no_threads_left")
@pytest.mark.parametrize(("factor", "is_low"), [(1.0, False), (0.5, True)])
def test_agreement_over_the_window_is_told(tmp_path: Path, factor: float, *, is_low: bool) -> None:
    told = Told()
    pipeline = make(tmp_path, told)
    pipeline.start()
    engine = OrtEngine(changed_model(tmp_path, factor), threads=1, precision="int8")
    pipeline._swap(pipeline.models["m"], engine)
    eventually(lambda: len(told.agreements) > 3, "agreements")
    shadow = pipeline.models["m"].meter.report(1.0, "e")["shadow"]
    pipeline.stop()
    assert {(label, low) for label, _, low in told.agreements} == {(engine.label, is_low)}
    assert all((score == 1.0) != is_low for _, score, _ in told.agreements)
    assert 20 <= shadow["frames"] <= 25
    assert shadow["agreement"] == pytest.approx(told.agreements[-1][1], abs=0.2)
    assert pipeline.models["m"].engine is engine


@pytest.mark.usefixtures("no_threads_left")
def test_the_reference_takes_over_where_it_is_so_configured(tmp_path: Path) -> None:
    told = Told()
    pipeline = make(tmp_path, told, fallback=True)
    pipeline.start()
    model = pipeline.models["m"]
    pipeline._swap(model, OrtEngine(changed_model(tmp_path, 0.5), threads=1, precision="int8"))
    eventually(lambda: model.predictor.is_reference, "the reference serves")
    eventually(lambda: bool(told.steps), "it is told")
    pipeline.stop()
    ((step, reason),) = told.steps
    assert step == "failed"
    assert "agreed with the reference by only" in str(reason)
