"""Where a model's engine comes from: a stored plan of this very machine; until there is one, ONNX Runtime."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge.backends.build_process import build_plan, default_workspace_mb
from edge.backends.build_records import BuildSettings
from edge.backends.convert import fp16_file, source_sha256
from edge.backends.cuda import open_device
from edge.backends.engine import Engine
from edge.backends.ort import OrtEngine, best_provider
from edge.backends.plans import PlanKey, PlanStore, Trial, plan_key
from edge.backends.trt_library import load_tensorrt
from edge.config import EnginesSettings, ModelSettings
from edge.errors import EngineError, GpuLostError, GpuMemoryError, ModelError

log = logging.getLogger(__name__)

_HASH_SHOWN = 12  # characters of the ONNX hash in a label
MOST_ATTEMPTS = 2  # of trying an engine, that end with the process


@dataclass(frozen=True)
class Place:
    """What engines of this daemon have in common."""

    state_dir: Path
    board: str
    settings: EnginesSettings


def build_settings(
    precision: str, device: str, max_batch: int, settings: EnginesSettings, memory_bytes: int
) -> BuildSettings:
    """Return how a plan is built for a GPU of so much memory; who builds by hand must come to the same."""
    workspace_mb = settings.workspace_mb
    return BuildSettings(
        precision=precision,
        device=device,
        max_batch=max_batch,
        builder_level=settings.builder_level,
        workspace_mb=default_workspace_mb(memory_bytes) if workspace_mb == "auto" else workspace_mb,
    )


@dataclass(frozen=True)
class Supplied:
    """An engine that works now."""

    engine: Engine
    lacking: str | None = None  # why it is not the wanted one; None: it is
    may_build: bool = True  # whether the wanted one could be built


@dataclass(frozen=True)
class Supply:
    """Opens and builds the engines of one model."""

    onnx: Path  # FP32
    settings: ModelSettings
    place: Place
    threads: int  # of each context, on a CPU

    def open(self) -> Supplied:
        """Return an engine that works now.

        Raises ModelError where what the configuration insists on cannot be had, or the model cannot be run at all.
        """
        if reason := self.why_not_tensorrt():
            if self.settings.backend == "tensorrt" or self.settings.device.startswith("dla"):
                raise ModelError(f"backend TensorRT was asked for and cannot be used: {reason}")
            # Plans are there where TensorRT has worked before.
            missed = (
                reason if self.settings.backend == "auto" and self.settings.device == "auto" and self._plans() else None
            )
            return Supplied(self._open_onnxruntime(), missed, may_build=False)
        try:
            plan = self._store.load(self._key)
            return self._open_tried(plan, self._store.trial(self._key))
        except GpuLostError:
            raise
        except EngineError as error:
            return Supplied(self.open_reference(), str(error))

    def _open_tried(self, plan: bytes, trial: Trial) -> Supplied:
        """Open a stored plan that has been held against ONNX Runtime; the others serve not, or not yet."""
        if trial.state == "verified":
            return Supplied(self._open_plan(plan))
        if trial.state == "refused" or trial.attempts >= MOST_ATTEMPTS:
            reason = trial.reason or f"the process ended {trial.attempts} times while it was tried"
            again = f"remove {self._store.path(self._key)} to have it built and tried again"
            return Supplied(self.open_reference(), f"its engine was refused: {reason}; {again}", may_build=False)
        return Supplied(self.open_reference(), "its engine is kept, and has to be verified on frames first")

    def note_trying(self) -> None:
        """Note that the engine is about to run for the first time: what it does to the process cannot be known."""
        attempts = self._store.trial(self._key).attempts + 1
        self._store.note(self._key, Trial("trying", None, attempts))

    def note_trial(self, state: str, reason: str | None = None) -> None:
        """Note what came of it: verified, refused, or untried where it was given up."""
        self._store.note(self._key, Trial(state, reason))

    def _plans(self) -> bool:
        return any((self.place.state_dir / "plans").glob("*.plan"))

    def why_not_tensorrt(self) -> str | None:
        """Return in a sentence why TensorRT does not run this model here; None where it can."""
        if self.settings.backend == "onnxruntime":
            return "backend is set to onnxruntime"
        if self.settings.device == "cpu":
            return "device is set to cpu"
        try:
            load_tensorrt()
            open_device()
        except EngineError as error:
            return str(error)
        return None

    def open_reference(self) -> OrtEngine:
        """Open the model as it was exported, on the CPU: what serves meanwhile, and what others are held against."""
        return OrtEngine(self.onnx, threads=self.threads, label_hash=self._shown_hash)

    def build(self, progress: Callable[[str, float], None], cancelled: Callable[[], bool]) -> Engine:
        """Build the plan, unless it is kept already, and load it.

        `progress` is told a phase and how much of all is done (0…1). Raises EngineError; of it, UnsupportedModelError
        where TensorRT does not know an operator.
        """
        if kept := self._open_kept():
            return kept
        gpu = open_device().gpu
        progress("converting", 0.0)
        onnx = fp16_file(self.onnx, self.place.state_dir) if self.precision == "fp16" else self.onnx
        built = build_plan(
            onnx,
            self._build_settings,
            gpu,
            self.place.state_dir,
            progress=progress,
            cancelled=cancelled,
            board=self.place.board,
            fp32_onnx=self.onnx,
        )
        try:
            self._store.store(self._key, built)
        except EngineError as error:
            log.warning("the new plan serves, but is not kept for the next start: %s", error)
        return self._open_plan(built.plan)

    def _open_kept(self) -> Engine | None:
        """Open the stored plan; None where there is none, or TensorRT does not take it in spite of all checks."""
        try:
            return self._open_plan(self._store.load(self._key))
        except (GpuLostError, GpuMemoryError):
            raise
        except EngineError as error:
            log.info("%s", error)
            return None

    def open_partly(self) -> Engine | None:
        """Open a model that TensorRT does not take whole by ONNX Runtime's ways to the GPU; None: there are none."""
        provider = best_provider(("tensorrt", "cuda"))
        if provider is None:
            return None
        return OrtEngine(
            self.onnx,
            threads=self.threads,
            provider=provider,
            label_hash=self._shown_hash,
            cache=self.place.state_dir / "onnxruntime",
        )

    @property
    def precision(self) -> str:
        """The precision of the wanted TensorRT engine."""
        return "fp16" if self.settings.precision == "auto" else self.settings.precision

    @property
    def device(self) -> str:
        return "gpu" if self.settings.device == "auto" else self.settings.device

    def _open_onnxruntime(self) -> Engine:
        provider = best_provider(("cuda",)) if self.settings.device in ("auto", "gpu") else None
        if self.settings.device == "gpu" and provider is None:
            raise ModelError(
                "device is set to gpu, and neither TensorRT nor ONNX Runtime can use one here "
                f"({self.why_not_tensorrt()}); set device to auto or cpu"
            )
        onnx = fp16_file(self.onnx, self.place.state_dir) if self.settings.precision == "fp16" else self.onnx
        return OrtEngine(
            onnx,
            threads=self.threads,
            provider=provider or "cpu",
            precision="fp16" if self.settings.precision == "fp16" else "fp32",
            label_hash=self._shown_hash,
        )

    def _open_plan(self, plan: bytes) -> Engine:
        from edge.backends.trt import TrtEngine, TrtSettings  # noqa: PLC0415 -- only where TensorRT is there

        core = int(self.device[-1]) if self.device.startswith("dla") else None
        backend = "trt" if core is None else f"trt-dla{core}"
        label = f"{backend}/{self.precision}/{self._shown_hash}"
        spin = self.settings.wait == "spin"
        return TrtEngine(plan, open_device(), TrtSettings(label, self.settings.memory, spin, core))

    @cached_property
    def _onnx_sha256(self) -> str:
        return source_sha256(self.onnx)

    @property
    def _shown_hash(self) -> str:
        return self._onnx_sha256[:_HASH_SHOWN]

    @property
    def _build_settings(self) -> BuildSettings:
        memory_bytes = open_device().gpu.memory_bytes
        return build_settings(self.precision, self.device, self.settings.max_batch, self.place.settings, memory_bytes)

    @cached_property
    def _key(self) -> PlanKey:
        return plan_key(self._onnx_sha256, self._build_settings, open_device().gpu, self.place.board)

    @cached_property
    def _store(self) -> PlanStore:
        return PlanStore(self.place.state_dir, self.place.settings.cache_mb)
