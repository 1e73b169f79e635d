"""Going over to a configuration that turns out to be refused half way."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.config import Config, load_config
from edge.errors import ConfigError
from edge.pipeline import Pipeline
from edge.records import Result
from edge.stream import Stream

MODEL = '[models.m]\npath = "conveyor"\nlanes = 1\n'
GOOD = '[streams.{}]\nsource = "synthetic://conveyor?size=160x120"\nmodel = "m"\n'
REFUSED = GOOD.format("refused") + 'labels = ["no such label"]\n'


class Silent:
    """Takes what the pipeline gives and does nothing with it."""

    def result(self, stream: Stream, result: Result) -> None: ...

    def stream_state(self, stream: Stream, reason: str | None) -> None: ...


def config(folder: Path, text: str) -> Config:
    path = folder / "edge.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


@pytest.fixture
def pipeline(tmp_path: Path) -> Iterator[Pipeline]:
    running = Pipeline(config(tmp_path, MODEL + GOOD.format("old")), Silent())
    running.start()
    yield running
    running.stop()


def test_a_refused_stream_is_told_also_when_others_were_made_before_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such label"):
        Pipeline(config(tmp_path, MODEL + GOOD.format("first") + REFUSED), Silent())


@pytest.mark.parametrize("model", [MODEL, MODEL + "max_wait_ms = 1\n"])
def test_a_refused_change_leaves_everything_as_it_was(tmp_path: Path, pipeline: Pipeline, model: str) -> None:
    models, streams, threads = dict(pipeline.models), dict(pipeline.streams), threading.active_count()
    changed = config(tmp_path, model + GOOD.format("old") + GOOD.format("first") + REFUSED)
    with pytest.raises(ConfigError, match="no such label"):
        pipeline.change(changed)
    assert pipeline.models == models
    assert pipeline.streams == streams
    assert threading.active_count() == threads
