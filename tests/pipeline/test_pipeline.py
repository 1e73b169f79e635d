"""Going over to another configuration or another engine while frames are under way."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from edge.core.config import Config, EnginesSettings, load_config
from edge.core.errors import ConfigError, ModelError
from edge.core.records import Result
from edge.inference.backends.ort import OrtEngine
from edge.inference.engine_provider import EngineEnvironment
from edge.pipeline.engine_rebuild import Step
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.served_model import ServedModel
from edge.pipeline.stream import Stream
from tests.support.waiting import eventually

MODEL = '[models.m]\npath = "conveyor"\nlanes = 1\n'
GOOD = '[streams.{}]\nsource = "synthetic://conveyor?size=160x120"\nmodel = "m"\n'
REFUSED = GOOD.format("refused") + 'labels = ["no such label"]\n'


class Silent:
    """Takes what the pipeline gives and does nothing with it."""

    def result(self, stream: Stream, result: Result) -> None: ...

    def stream_state(self, stream: Stream, reason: str | None) -> None: ...

    def engine_step(self, model: ServedModel, step: Step, progress: float, reason: str | None) -> None: ...

    def engine_failing(self, model: ServedModel, fault: str | None, pause_s: float) -> None: ...

    def output_implausible(self, model: ServedModel, reason: str | None) -> None: ...

    def agreement(self, model: ServedModel, agreement: float, *, is_low: bool) -> None: ...


def config(folder: Path, text: str) -> Config:
    path = folder / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def environment(folder: Path) -> EngineEnvironment:
    return EngineEnvironment(folder / "state", "a board", EnginesSettings())


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    running = Pipeline(config(tmp_path, MODEL + GOOD.format("old")), Silent(), environment(tmp_path))
    running.start()
    yield running
    running.stop()


def test_a_refused_stream_is_told_also_when_others_were_made_before_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such label"):
        Pipeline(config(tmp_path, MODEL + GOOD.format("first") + REFUSED), Silent(), environment(tmp_path))


@pytest.mark.parametrize("model", [MODEL, MODEL + "max_wait_ms = 1\n"])
def test_a_refused_change_leaves_everything_as_it_was(tmp_path: Path, pipeline: Pipeline, model: str) -> None:
    models, streams, threads = dict(pipeline.models), dict(pipeline.streams), threading.active_count()
    changed = config(tmp_path, model + GOOD.format("old") + GOOD.format("first") + REFUSED)
    with pytest.raises(ConfigError, match="no such label"):
        pipeline.change(changed)
    assert pipeline.models == models
    assert pipeline.streams == streams
    assert threading.active_count() == threads


def test_a_stream_that_is_taken_out_or_changed_goes_with_its_memory_at_once(tmp_path: Path, pipeline: Pipeline) -> None:
    """Not when the garbage collector comes; it never comes to what was there when the daemon froze it."""
    gc.collect()
    gc.disable()
    try:
        eventually(lambda: bool(pipeline.streams["old"].meter.counts()["results"]), "a result")
        gone: list[weakref.ref[Any]] = [
            weakref.ref(pipeline.streams["old"]),
            weakref.ref(pipeline.streams["old"]._camera),
        ]
        pipeline.change(config(tmp_path, MODEL + GOOD.format("old") + "max_age_ms = 100\n" + GOOD.format("other")))
        gone += [weakref.ref(stream) for name, stream in pipeline.streams.items() if name == "other"]
        eventually(lambda: bool(pipeline.streams["other"].meter.counts()["results"]), "a result")
        pipeline.change(config(tmp_path, MODEL + GOOD.format("old") + "max_age_ms = 100\n"))
        eventually(lambda: [each() for each in gone] == [None] * 3, "what was taken out is gone", timeout_s=10)
    finally:
        gc.enable()


class Kept(Silent):
    """Keeps the results of a stream."""

    def __init__(self) -> None:
        self.results: list[Result] = []

    def result(self, stream: Stream, result: Result) -> None:  # noqa: ARG002 -- an outlet's signature
        self.results.append(result)


def test_engines_are_swapped_under_way_and_no_frame_is_lost(tmp_path: Path) -> None:
    kept = Kept()
    frames = 200
    source = f'[streams.belt]\nsource = "synthetic://conveyor?size=160x120&frames={frames}"\nmodel = "m"\n'
    settings = config(tmp_path, MODEL + source + 'delivery = "every"\n')
    pipeline = Pipeline(settings, kept, environment(tmp_path))
    model = pipeline.models["m"]
    names = [f"ort-cpu/fp32/engine-{number}" for number in range(4)]
    pipeline.start()
    for name in names:
        before = len(kept.results)
        eventually(lambda before=before: len(kept.results) > before or pipeline.has_ended, "a result")  # type: ignore[misc]  # bound now
        pipeline._swap(model, OrtEngine(model.provider.onnx, threads=1, label_hash=name.rpartition("/")[2]))
    eventually(lambda: pipeline.has_ended, "the end of the source")
    assert model.engine.label == names[-1]
    pipeline.stop()
    assert [result.seq for result in kept.results] == list(range(frames))
    assert [result.frame for result in kept.results] == list(range(frames))
    assert {result.engine for result in kept.results} >= {names[0], names[-1]}
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("lane-")] == []


def test_an_engine_that_does_not_fit_the_model_is_not_swapped_in(tmp_path: Path, pipeline: Pipeline) -> None:
    model, threads = pipeline.models["m"], threading.active_count()
    serves = model.engine
    with pytest.raises(ModelError, match="wanted"):
        pipeline._swap(model, OrtEngine(other_model(tmp_path), threads=1))
    assert model.engine is serves
    assert threading.active_count() == threads


def other_model(folder: Path) -> Path:
    """Write a model of another kind than the one that serves."""
    shape: list[str | int | None] = ["N", 7]
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])],
        "other",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "other.onnx"
    )
    return folder / "other.onnx"
