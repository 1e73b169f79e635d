"""Systems under test: the serving path or the engine alone, opened for a setting."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial

from edge.core.config import ModelSettings
from edge.core.manifest import read_manifest
from edge.core.process import usable_cores
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.bench.load_generator import System
from edge.perf.bench.plan import BenchSetting
from edge.perf.bench.subject import Subject, pictures
from edge.perf.bench.system_engine import EngineAlone
from edge.perf.bench.system_serving import ServingPath, check_batches, open_model, random_pictures
from edge.pipeline.served_model import GPU_LANES, lane_plan, make_provider


def settings_of(subject: Subject, setting: BenchSetting) -> ModelSettings:
    """Return the model's settings for one setting of the benchmark.

    With one query at a time, a second lane would idle: by default there is one, with all of the engine's threads.
    """
    lanes = setting.lanes or subject.settings.lanes
    if lanes == "auto" and setting.scenario == "single-stream":
        lanes = 1
    changes = {"max_batch": setting.batch, "lanes": lanes}
    return subject.settings.model_copy(update=changes)


@contextlib.contextmanager
def open_serving(
    subject: Subject, setting: BenchSetting, environment: EngineEnvironment, batches: Sequence[int], seed: int
) -> Iterator[System]:
    """Open the serving path; raise ModelError for a precision not served here, ConfigError for an invalid batch."""
    scenes = partial(pictures, subject.scenes)
    model = open_model(subject.name, settings_of(subject, setting), environment, setting.precision, scenes)
    try:
        check_batches(batches, model.engine.fixed_batch, subject.name)
        images = pictures(subject.sources) or random_pictures(model, seed)
    except BaseException:
        model.close()
        raise
    with ServingPath(model, images, whole_batches=setting.scenario != "server") as serving:
        yield serving


@contextlib.contextmanager
def open_alone(
    subject: Subject, setting: BenchSetting, environment: EngineEnvironment, batches: Sequence[int], seed: int
) -> Iterator[System]:
    """Open the engine alone; raise ModelError for a precision not available here, ConfigError for an invalid batch."""
    settings = settings_of(subject, setting)
    manifest = read_manifest(settings.path)
    lanes, threads = lane_plan(settings, usable_cores())
    provider = make_provider(settings, manifest, environment, threads)
    if settings.lanes == "auto" and provider.why_not_tensorrt() is None:
        lanes = GPU_LANES
    engine = provider.open_or_build(setting.precision)
    try:
        check_batches(batches, engine.fixed_batch, subject.name)
    except BaseException:
        engine.close()
        raise
    in_caller = setting.scenario == "single-stream"
    with EngineAlone(engine, setting.batch, lanes, seed, in_caller=in_caller) as alone:
        yield alone


def make_variant(subject: Subject, setting: BenchSetting, environment: EngineEnvironment) -> None:
    """Make the INT8 variant of a random network if that is measured; a model's own needs verification instead.

    Raises ModelError on failure.
    """
    if subject.is_random and setting.precision == "int8":
        from edge.perf.bench.random_int8 import make_int8_variant  # noqa: PLC0415 -- imports onnx, which is slow

        settings = subject.settings
        provider = make_provider(settings, read_manifest(settings.path), environment, threads=1)
        make_int8_variant(provider.onnx, provider.runtime.backend, environment.state_dir)
