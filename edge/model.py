"""A model that is served: its files, its engine, and the batcher at which its cameras and lanes meet."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from edge.backends.engine import open_engine
from edge.batch import Batcher
from edge.config import ModelSettings
from edge.decode import Decoder
from edge.errors import ModelError
from edge.infer import batch_limit, picture_input
from edge.manifest import Manifest, read_labels, read_manifest
from edge.preprocess import Preprocessor
from edge.telemetry import ModelMeter

log = logging.getLogger(__name__)


class Model:
    """An opened model, checked against its manifest."""

    def __init__(self, name: str, settings: ModelSettings) -> None:
        """Open the engine; raise ModelError in one sentence where the files do not fit together."""
        self.name = name
        self.settings = settings
        self.lane_count, threads = lane_plan(settings, usable_cores())
        try:
            self.manifest = read_manifest(settings.path)
            self.labels = read_labels(settings.path, self.manifest)
            self.engine = open_engine(model_file(settings.path, self.manifest), threads=threads)
            self.input = picture_input(self.engine)
            self.decoder = Decoder(
                self.manifest, self.labels, self.engine.outputs, self.make_preprocessor().input_px, settings.path
            )
        except ModelError as error:
            raise ModelError(f"model {name!r}: {error}") from None
        self.max_batch = batch_limit(self.engine, settings.max_batch)
        if self.max_batch < settings.max_batch:
            log.info("model %s takes batches of %d and no larger ones, whatever max_batch says", name, self.max_batch)
        self.batcher = Batcher(self.max_batch, settings.max_wait_ms)
        self.meter = ModelMeter(self.lane_count)
        log.info("model %s: engine %s, %d lanes, %d threads each", name, self.engine.label, self.lane_count, threads)

    def make_preprocessor(self) -> Preprocessor:
        """Make the preprocessor of one lane."""
        return Preprocessor(self.input, self.manifest.input)


def model_file(folder: Path, manifest: Manifest) -> Path:
    """Return the ONNX file of a model; raise ModelError where it is not there."""
    path = folder / manifest.onnx
    if not os.path.isfile(path):  # noqa: PTH113 -- Path's raises for a name that is too long
        raise ModelError(f"{str(path)!r} does not exist; wanted the ONNX file that model.toml names: put it there")
    return path


def usable_cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0))


def lane_plan(settings: ModelSettings, cores: int) -> tuple[int, int]:
    """Return lanes and engine threads a lane; left open, one lane a core with one thread each.

    On a CPU several lanes of one thread give more images a second than one lane of several threads.
    """
    if settings.lanes == "auto":
        threads = 1 if settings.threads == "auto" else settings.threads
        return max(1, cores // threads), threads
    if settings.threads == "auto":
        return settings.lanes, max(1, cores // settings.lanes)
    return settings.lanes, settings.threads
