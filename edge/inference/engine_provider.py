"""Where a model's engine comes from: a stored plan of this very machine; until there is one, ONNX Runtime."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import EngineError, GpuLostError, GpuMemoryError, ModelError
from edge.inference.backends.cuda import open_device
from edge.inference.backends.engine import HASH_SHOWN, Engine
from edge.inference.backends.ort import OrtEngine, best_provider
from edge.inference.backends.tensorrt.build_process import build_plan, default_workspace_mb
from edge.inference.backends.tensorrt.build_protocol import BuildSettings
from edge.inference.backends.tensorrt.library import load_tensorrt
from edge.inference.backends.tensorrt.plan_key import PlanKey, plan_key
from edge.inference.backends.tensorrt.plan_store import PlanStore, PlanTrial
from edge.inference.derived_files import source_sha256
from edge.inference.fp16.convert import fp16_file
from edge.inference.model_variants import ModelFiles, Precision, model_files, plan_sha256, variant_file
from edge.inference.precision_choice import Chooser, PrecisionChoice
from edge.inference.runtime_identity import RuntimeIdentity, onnxruntime_identity, tensorrt_identity

log = logging.getLogger(__name__)

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
MOST_ATTEMPTS = 2  # of trying an engine, that end with the process


@dataclass(frozen=True)
class Fallback:
    """What serves instead of the wanted engines, and why."""

    reason: str
    tried: Mapping[str, frozenset[str]]  # model → labels of those that did not serve well
    engines: Mapping[str, str]  # model → label; the others are served as they were exported


@dataclass(frozen=True)
class EngineEnvironment:
    """What engines of this daemon have in common."""

    state_dir: Path
    board: str
    settings: EnginesSettings
    force: bool = False  # INT8 serves without proof
    fallback: Fallback | None = None


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
class OpenedEngine:
    """An engine that works now."""

    engine: Engine
    missing_reason: str | None = None  # why it is not the wanted one; None: it is
    can_build: bool = True  # whether the wanted one could be built


class EngineProvider:
    """Opens and builds the engines of one model."""

    def __init__(
        self,
        onnx: Path,
        settings: ModelSettings,
        environment: EngineEnvironment,
        threads: int,
        *,
        reading_sha256: str,
        min_agreement: float,
        fp16_blocked_ops: Sequence[str] = (),
    ) -> None:
        """Take the FP32 file, the threads of each context on a CPU, and what admits a form of less precision."""
        self.onnx = onnx
        self.settings = settings
        self.environment = environment
        self._threads = threads
        self._fp16_blocked_ops = tuple(fp16_blocked_ops)
        self._chooser = Chooser(onnx, environment.state_dir, reading_sha256, min_agreement, environment.force)
        self.target: Precision = "fp32"  # of the wanted engine; `open` decides

    def open(self) -> OpenedEngine:
        """Return an engine that works now.

        Raises ModelError where what the configuration insists on cannot be had, or the model cannot be run at all.
        """
        reason = self.why_not_tensorrt()
        if reason and (self.settings.backend == "tensorrt" or self.settings.device.startswith("dla")):
            raise ModelError(f"backend TensorRT was asked for and cannot be used: {reason}")
        choice = self._chooser.choose(self.settings.precision, self.runtime)
        self.target = "int8" if choice.may_verify else choice.serve
        if choice.forced:
            log.warning("model %s: INT8 serves by force: %s", self.onnx.name, choice.refused)
        opened = self._open_onnxruntime(choice, reason) if reason else self._open_tensorrt(choice)
        if choice.refused and opened.missing_reason is None:
            return replace(opened, missing_reason=choice.refused, can_build=choice.may_verify)
        return opened

    def _open_tensorrt(self, choice: PrecisionChoice) -> OpenedEngine:
        try:
            plan = self._store.load(self._key(choice.serve))
            # An entry of precision.json is a better proof than a trial.
            proven = choice.serve == "int8"
            return OpenedEngine(self._open_plan(plan, choice.serve)) if proven else self._open_tried(plan, choice.serve)
        except GpuLostError:
            raise
        except (EngineError, ModelError) as error:  # ModelError: its form of this precision cannot be made here
            return OpenedEngine(self.open_reference(), str(error))

    def open_fallback(self, fallback: Fallback, name: str) -> OpenedEngine:
        """Open the fallback of this model where it is kept, else the model as it was exported; no other is made.

        The latter touches no GPU, whatever is wrong with that.
        """
        engine = self._open_kept_as(fallback.engines.get(name, "")) or self.open_reference()
        reason = None if fallback.tried.get(name) == frozenset({engine.label}) else fallback.reason
        return OpenedEngine(engine, reason, can_build=False)

    def _open_kept_as(self, label: str) -> Engine | None:
        """Open the stored plan that has this label; None where there is none, or it cannot be used."""
        backend, _, rest = label.partition("/")
        for precision in PRECISIONS:
            if backend.startswith("trt") and rest == f"{precision}/{self._shown_hash}":
                with contextlib.suppress(EngineError, ModelError):
                    return self._open_plan(self._store.load(self._key(precision)), precision)
        return None

    def lower_target(self) -> bool:
        """Go over to the next better precision, INT8 being refused; False where there is no other to be built."""
        if self.target != "int8" or self.why_not_tensorrt():
            return False
        self.target = "fp16"
        return True

    def _open_tried(self, plan: bytes, precision: Precision) -> OpenedEngine:
        """Open a stored plan that has been held against ONNX Runtime; the others serve not, or not yet."""
        trial = self._store.trial(self._key(precision))
        if trial.state == "verified":
            return OpenedEngine(self._open_plan(plan, precision))
        if trial.state == "refused" or trial.attempts >= MOST_ATTEMPTS:
            reason = trial.reason or f"the process ended {trial.attempts} times while it was tried"
            again = f"remove {self._store.path(self._key(precision))} to have it built and tried again"
            return OpenedEngine(self.open_reference(), f"its engine was refused: {reason}; {again}", can_build=False)
        return OpenedEngine(self.open_reference(), "its engine is kept, and has to be verified on frames first")

    def record_trial_start(self) -> None:
        """Note that the engine is about to run for the first time: what it does to the process cannot be known."""
        if not self.why_not_tensorrt():
            key = self._key(self.target)
            self._store.note(key, PlanTrial("trying", None, self._store.trial(key).attempts + 1))

    def record_trial(self, state: str, reason: str | None = None) -> None:
        """Note what came of it: verified, refused, or untried where it was given up."""
        if not self.why_not_tensorrt():
            self._store.note(self._key(self.target), PlanTrial(state, reason))

    def with_settings(self, **changes: str) -> EngineProvider:
        """Return a provider of the same model with other settings."""
        settings = self.settings.model_copy(update=changes)
        reading_sha256, min_agreement = self._chooser.reading_sha256, self._chooser.min_agreement
        return EngineProvider(
            self.onnx,
            settings,
            self.environment,
            self._threads,
            reading_sha256=reading_sha256,
            min_agreement=min_agreement,
            fp16_blocked_ops=self._fp16_blocked_ops,
        )

    def open_or_build(self, precision: Precision) -> Engine:
        """Open the model in a precision on the backend of this machine, building its plan unless it is kept already."""
        self.target = precision
        return self.build(lambda _phase, _progress: None, lambda: False)  # Ctrl-C ends it

    def variant(self, precision: Precision) -> tuple[ModelFiles, Path]:
        """Return what an entry of precision.json must have been measured with, and the file of this precision."""
        file = self._file(precision, self.runtime.backend)
        return model_files(self.onnx, file, precision, self._chooser.reading_sha256), file

    def _file(self, precision: Precision, backend: str) -> Path:
        """Return the ONNX file of a precision, made where it can be made here."""
        if precision == "fp16":
            return fp16_file(self.onnx, self.environment.state_dir, blocked=self._fp16_blocked_ops)
        return variant_file(self.onnx, precision, backend, self.environment.state_dir)

    def check_ranges(self, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Let what goes beyond FP16 on these inputs of the model stay FP32 in its FP16 form, from now on.

        Raises ModelError where there are no inputs, or the package onnx is missing.
        """
        from edge.inference.fp16.ranges import check_ranges  # noqa: PLC0415 -- imports onnx

        ranges = check_ranges(self.onnx, inputs)
        fp16_file(self.onnx, self.environment.state_dir, ranges=ranges, blocked=self._fp16_blocked_ops)

    @cached_property
    def runtime(self) -> RuntimeIdentity:
        """What runs the model on this machine."""
        return onnxruntime_identity() if self.why_not_tensorrt() else tensorrt_identity(open_device().gpu)

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
        return OrtEngine(self.onnx, threads=self._threads, label_hash=self._shown_hash)

    def build(self, progress: Callable[[str, float], None], cancelled: Callable[[], bool]) -> Engine:
        """Build the plan of the wanted engine, unless it is kept already, and load it.

        `progress` is told a phase and how much of all is done (0…1). Raises EngineError; of it, UnsupportedModelError
        where TensorRT does not know an operator.
        """
        if self.why_not_tensorrt():
            return self._open_form(self.target)
        if kept := self._open_kept():
            return kept
        gpu = open_device().gpu
        progress("converting", 0.0)
        built = build_plan(
            self._file(self.target, "trt"),
            self._build_settings(self.target),
            gpu,
            self.environment.state_dir,
            progress=progress,
            cancelled=cancelled,
            board=self.environment.board,
            fp32_onnx=self.onnx,
        )
        try:
            self._store.store(self._key(self.target), built)
        except EngineError as error:
            log.warning("the new plan serves, but is not kept for the next start: %s", error)
        return self._open_plan(built.plan, self.target)

    def _open_kept(self) -> Engine | None:
        """Open the stored plan; None where there is none, or TensorRT does not take it in spite of all checks."""
        try:
            return self._open_plan(self._store.load(self._key(self.target)), self.target)
        except (GpuLostError, GpuMemoryError):
            raise
        except EngineError as error:
            log.info("%s", error)
            return None

    def open_partial(self) -> Engine | None:
        """Open a model that TensorRT does not take whole by ONNX Runtime's ways to the GPU; None: there are none."""
        provider = best_provider(("tensorrt", "cuda"))
        if provider is None:
            return None
        return OrtEngine(
            self.onnx,
            threads=self._threads,
            provider=provider,
            label_hash=self._shown_hash,
            cache=self.environment.state_dir / "onnxruntime",
        )

    @property
    def device(self) -> str:
        return "gpu" if self.settings.device == "auto" else self.settings.device

    def _open_onnxruntime(self, choice: PrecisionChoice, reason: str) -> OpenedEngine:
        provider = best_provider(("cuda",)) if self.settings.device in ("auto", "gpu") else None
        if self.settings.device == "gpu" and provider is None:
            raise ModelError(
                "device is set to gpu, and neither TensorRT nor ONNX Runtime can use one here "
                f"({reason}); set device to auto or cpu"
            )
        # Plans are there where TensorRT has worked before.
        left_open = self.settings.backend == "auto" and self.settings.device == "auto"
        missed = reason if left_open and any((self.environment.state_dir / "plans").glob("*.plan")) else None
        engine = self._open_form("fp32", provider) if provider else self._open_form(choice.serve)
        return OpenedEngine(engine, missed, can_build=False)

    def _open_form(self, precision: Precision, provider: str = "cpu") -> OrtEngine:
        """Open the model in a precision with ONNX Runtime."""
        return OrtEngine(
            self._file(precision, "ort-cpu"),
            threads=self._threads,
            provider=provider,
            precision=precision,
            label_hash=self._shown_hash,
        )

    def _open_plan(self, plan: bytes, precision: Precision) -> Engine:
        from edge.inference.backends.tensorrt.engine import TrtEngine, TrtSettings  # noqa: PLC0415 -- only where TensorRT is there

        core = int(self.device[-1]) if self.device.startswith("dla") else None
        backend = "trt" if core is None else f"trt-dla{core}"
        label = f"{backend}/{precision}/{self._shown_hash}"
        spin = self.settings.wait == "spin"
        return TrtEngine(plan, open_device(), TrtSettings(label, self.settings.memory, spin, core))

    @cached_property
    def _onnx_sha256(self) -> str:
        return source_sha256(self.onnx)

    @property
    def _shown_hash(self) -> str:
        return self._onnx_sha256[:HASH_SHOWN]

    def _build_settings(self, precision: Precision) -> BuildSettings:
        memory_bytes = open_device().gpu.memory_bytes
        return build_settings(precision, self.device, self.settings.max_batch, self.environment.settings, memory_bytes)

    def _key(self, precision: Precision) -> PlanKey:
        self._file(precision, "trt")  # made with what is blocked, if it is not there yet
        sha256 = plan_sha256(self.onnx, precision, self.environment.state_dir)
        return plan_key(sha256, self._build_settings(precision), open_device().gpu, self.environment.board)

    @cached_property
    def _store(self) -> PlanStore:
        return PlanStore(self.environment.state_dir, self.environment.settings.cache_mb)
