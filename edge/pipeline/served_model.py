"""Served model: its files, its engine, and the batcher at which its cameras and lanes meet."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import GpuLostError, ModelError
from edge.core.manifest import Manifest, model_file, read_labels, read_manifest, served_file
from edge.core.process import usable_cores
from edge.core.state_dir import find_state_dir
from edge.core.tuned_profile import Machine, TunedProfile, profile_path, read_profile
from edge.host.board import board_name, read_board
from edge.inference.backends.engine import Engine
from edge.inference.derived_files import source_sha256
from edge.inference.engine_file_provider import EngineFileProvider
from edge.inference.engine_provider import EngineEnvironment, EngineProvider, OpenedEngine
from edge.inference.predictor import Predictor
from edge.pipeline.batch import Batcher
from edge.pipeline.frame_samples import FrameSampler, RecentFrames
from edge.pipeline.meters import ModelMeter

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImplausibleOutput:
    """A picture whose outputs cannot mean what the manifest says."""

    reason: str
    at_ns: int


# Lanes of an engine on a GPU: one prepares a batch while the other's is computed.
GPU_LANES = 2


class ServedModel:
    """An opened model, checked against its manifest."""

    def __init__(self, name: str, settings: ModelSettings, environment: EngineEnvironment | None = None) -> None:
        """Open the engine; raise ModelError in one sentence where the files do not fit together."""
        self.name = name
        self.settings = settings
        try:
            self.manifest = read_manifest(settings.path)
            self.labels = read_labels(settings.path, self.manifest)
            environment = environment or EngineEnvironment(find_state_dir(), board_name(), EnginesSettings())
            self._file, self._environment = served_file(settings.path, self.manifest), environment
            self._tuned_lanes = self._find_tuned_lanes() if settings.lanes == "auto" else None
            self._cpu_lanes, threads = lane_plan(settings, usable_cores(), self._tuned_lanes)
            self.provider = make_provider(settings, self.manifest, environment, threads)
            opened = self.open_engine()
            self.predictor = Predictor(opened.engine, self.manifest, self.labels, settings.path)
        except ModelError as error:
            raise ModelError(f"model {name!r}: {error}") from None
        self.missing_reason, self.can_build = opened.missing_reason, opened.can_build
        self.max_batch = self.predictor.batch_limit(settings.max_batch)
        if self.max_batch < settings.max_batch:
            log.info("model %s has a fixed batch size of %d; max_batch is reduced to it", name, self.max_batch)
        self.batcher = Batcher(self.max_batch, settings.max_wait_ms)
        self.meter = ModelMeter(self.lanes_on(self.predictor))
        is_building = self.missing_reason and self.can_build
        self.sampler = FrameSampler()
        self.sampler.recent = RecentFrames() if is_building else None
        self.implausible: ImplausibleOutput | None = None  # the newest picture whose outputs could not be read
        self.lost: GpuLostError | None = None  # why this process can compute nothing any more
        log.info("model %s: engine %s, %d lanes", name, self.engine.label, self.lane_count)

    def open_engine(self) -> OpenedEngine:
        """Open the engine to serve with."""
        fallback = self._environment.fallback
        return self.provider.open() if fallback is None else self.provider.open_fallback(fallback, self.name)

    @cached_property
    def machine(self) -> Machine:
        """The machine that a profile of this model must have been measured on to apply here."""
        return Machine(board=self._environment.board, l4t=read_board().l4t, engine=source_sha256(self._file))

    @cached_property
    def profile(self) -> TunedProfile | None:
        """The profile that `edge tune` measured of this model; None without one that applies here."""
        if not profile_path(self._environment.state_dir, self.name).exists():
            return None  # a model of hundreds of megabytes is not hashed in vain
        found = read_profile(self._environment.state_dir, self.name, self.machine)
        if found.profile is None:
            log.info("model %s: the profile of edge tune is not used: %s", self.name, found.reason)
        return found.profile

    def _find_tuned_lanes(self) -> int | None:
        """Return the best lanes by the profile for the configured precision and device; None without any."""
        if self.profile is None:
            return None
        settings = self.settings
        for best in (self.profile.max_q, self.profile.max_p):
            if best and settings.precision in ("auto", best.precision) and settings.device in ("auto", best.device):
                return best.lanes
        return None

    @property
    def engine(self) -> Engine:
        """The engine that serves at present."""
        return self.predictor.engine

    @property
    def lane_count(self) -> int:
        """The number of lanes that serve at present."""
        return self.meter.lanes

    def lanes_on(self, predictor: Predictor) -> int:
        """Return the number of lanes for an engine."""
        is_left_open = self.settings.lanes == "auto" and self._tuned_lanes is None
        on_gpu = not predictor.engine.label.startswith("ort-cpu")
        return GPU_LANES if on_gpu and is_left_open else self._cpu_lanes

    @property
    def max_lanes(self) -> int:
        """The most lanes at once: while engines are exchanged, those of both."""
        return self.lane_count + (GPU_LANES if self.missing_reason else 0)

    def fall_back(self, reason: str) -> bool:
        """Switch to the exported model on the CPU, which serves everywhere; return False where it serves already."""
        if self.predictor.is_reference or not self.provider.has_reference:
            return False
        former = self.engine
        self.predictor = self.predictor.with_engine(self.provider.open_reference())
        self.missing_reason, self.can_build = reason, False
        self.meter.lanes = self.lanes_on(self.predictor)
        former.close()
        return True

    def close(self) -> None:
        """Free the engine, once its lanes are closed."""
        self.engine.close()

    def adopt(self, predictor: Predictor, lane_count: int) -> None:
        """Switch to another engine, with its number of lanes."""
        self.predictor, self.missing_reason, self.sampler.recent = predictor, None, None
        self.meter.lanes = lane_count


def make_provider(
    settings: ModelSettings, manifest: Manifest, environment: EngineEnvironment, threads: int
) -> EngineProvider:
    """Make the provider of a model's engines; raise ModelError where its file is missing."""
    onnx = model_file(settings.path, manifest) if manifest.onnx else None
    keywords: dict[str, Any] = {
        "reading_sha256": manifest.reading_sha256,
        "min_agreement": manifest.min_agreement,
        "fp16_blocked_ops": manifest.accuracy.fp16_blocked_ops,
        "inputs": manifest.input,
    }
    if manifest.engine is not None and manifest.engine_sha256 is not None:
        file = served_file(settings.path, manifest)
        return EngineFileProvider(file, manifest.engine_sha256, onnx, settings, environment, threads, **keywords)
    return EngineProvider(model_file(settings.path, manifest), settings, environment, threads, **keywords)


def lane_plan(settings: ModelSettings, cores: int, tuned_lanes: int | None = None) -> tuple[int, int]:
    """Return the number of lanes and the engine threads of each.

    Where lanes are "auto": those of `edge tune`, else one lane per core with one thread, because on a CPU several lanes
    of one thread give more images per second than one lane of several threads.
    """
    lanes = tuned_lanes if settings.lanes == "auto" else settings.lanes
    if lanes is None:
        threads = 1 if settings.threads == "auto" else settings.threads
        return max(1, cores // threads), threads
    if settings.threads == "auto":
        return lanes, max(1, cores // lanes)
    return lanes, settings.threads
