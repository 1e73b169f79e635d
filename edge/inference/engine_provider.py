"""Provider of a model's engine: a stored plan of this machine, or ONNX Runtime until there is one."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import psutil
from numpy.typing import NDArray

from edge.core.config import EnginesSettings, ModelSettings
from edge.core.errors import EngineError, GpuLostError, GpuMemoryError, ModelError
from edge.core.manifest import InputSettings
from edge.inference.backends.cuda import Gpu, open_device
from edge.inference.backends.engine import LABEL_HASH_DIGITS, Engine
from edge.inference.backends.input_tensors import open_sizes_set
from edge.inference.backends.ort import OrtEngine, best_provider
from edge.inference.backends.tensorrt.build_process import build_plan, default_workspace_mb
from edge.inference.backends.tensorrt.build_protocol import BuildSettings, InputShapes
from edge.inference.backends.tensorrt.library import check_installed, load_tensorrt
from edge.inference.backends.tensorrt.plan_key import PlanKey, plan_key
from edge.inference.backends.tensorrt.plan_store import PlanStore, PlanTrial
from edge.inference.derived_files import source_sha256
from edge.inference.fp16.convert import fp16_file
from edge.inference.model_variants import ModelFiles, Precision, model_files, plan_sha256, variant_file
from edge.inference.precision_choice import PrecisionChoice, PrecisionChooser
from edge.inference.runtime_identity import RuntimeIdentity, onnxruntime_identity, tensorrt_identity

log = logging.getLogger(__name__)

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
MAX_ATTEMPTS = 2  # trials of an engine during which the process may end


@dataclass(frozen=True)
class Fallback:
    """Engines that serve in place of the preferred ones, and why."""

    reason: str
    tried: Mapping[str, frozenset[str]]  # model → labels of engines that failed while serving
    engines: Mapping[str, str]  # model → label; other models are served as exported


@dataclass(frozen=True)
class EngineEnvironment:
    """Settings shared by all engines of this daemon."""

    state_dir: Path
    board: str
    settings: EnginesSettings
    force: bool = False  # INT8 serves unverified
    fallback: Fallback | None = None


def build_settings(
    precision: str,
    device: str,
    max_batch: int,
    settings: EnginesSettings,
    gpu: Gpu | None,
    input_shapes: InputShapes = (),
) -> BuildSettings:
    """Return the settings of a plan, which the daemon and `edge engines` share; no GPU: for this machine's memory."""
    workspace_mb = settings.workspace_mb
    memory_bytes = gpu.memory_bytes if gpu else psutil.virtual_memory().total
    return BuildSettings(
        precision=precision,
        device=device,
        max_batch=max_batch,
        builder_level=settings.builder_level,
        workspace_mb=default_workspace_mb(memory_bytes) if workspace_mb == "auto" else workspace_mb,
        input_shapes=input_shapes,
    )


@dataclass(frozen=True)
class OpenedEngine:
    """An engine that can serve now."""

    engine: Engine
    missing_reason: str | None = None  # why it is not the preferred one; None: it is
    can_build: bool = True  # whether the preferred one could be built


class EngineProvider:
    """Opens and builds the engines of one model."""

    has_reference = True  # whether the exported model is there, which serves everywhere

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
        inputs: InputSettings | None = None,
    ) -> None:
        """Prepare for an FP32 file; `threads` is per CPU context, `inputs` the manifest's.

        The rest decides which other precisions may serve.
        """
        self.onnx = onnx
        self.settings = settings
        self.environment = environment
        self._threads = threads
        self._fp16_blocked_ops = tuple(fp16_blocked_ops)
        self.inputs = inputs
        self._parts: dict[str, Any] = {  # of providers of the same model with other settings
            "environment": environment,
            "threads": threads,
            "reading_sha256": reading_sha256,
            "min_agreement": min_agreement,
            "fp16_blocked_ops": fp16_blocked_ops,
            "inputs": inputs,
        }
        self._chooser = PrecisionChooser(onnx, environment.state_dir, reading_sha256, min_agreement, environment.force)
        self.target: Precision = "fp32"  # precision of the preferred engine; set by `open`

    def open(self) -> OpenedEngine:
        """Open an engine that can serve now.

        Raises ModelError if the configuration requires what is not available here, or the model cannot be run at all.
        """
        reason = self.why_not_tensorrt()
        if reason and (self.settings.backend == "tensorrt" or self.settings.device.startswith("dla")):
            raise ModelError(f"backend TensorRT is required but cannot be used: {reason}")
        choice = self._chooser.choose(self.settings.precision, self.runtime)
        self.target = "int8" if choice.can_verify else choice.precision
        if choice.is_forced:
            log.warning("model %s: INT8 serves unverified: %s", self.onnx.name, choice.refusal)
        opened = self._open_onnxruntime(choice, reason) if reason else self._open_tensorrt(choice)
        if choice.refusal and opened.missing_reason is None:
            return replace(opened, missing_reason=choice.refusal, can_build=choice.can_verify)
        return opened

    def _open_tensorrt(self, choice: PrecisionChoice) -> OpenedEngine:
        try:
            plan = self._store.load(self._key(choice.precision))
            if choice.precision == "int8":  # an entry of precision.json is stronger proof than a trial
                return OpenedEngine(self._open_plan(plan, choice.precision))
            return self._open_verified(plan, choice.precision)
        except GpuLostError:
            raise
        except (EngineError, ModelError) as error:  # ModelError: its variant cannot be made here
            return OpenedEngine(self.open_reference(), str(error))

    def open_fallback(self, fallback: Fallback, name: str) -> OpenedEngine:
        """Open this model's fallback engine if its plan is stored, else the model as exported; build nothing.

        The latter uses no GPU, in case the GPU is the problem.
        """
        engine = self._open_labelled(fallback.engines.get(name, "")) or self.open_reference()
        reason = None if fallback.tried.get(name) == frozenset({engine.label}) else fallback.reason
        return OpenedEngine(engine, reason, can_build=False)

    def _open_labelled(self, label: str) -> Engine | None:
        """Open the stored plan with this label; None if there is none, or it cannot be used."""
        backend, _, rest = label.partition("/")
        for precision in PRECISIONS:
            if backend.startswith("trt") and rest == f"{precision}/{self._shown_hash}":
                with contextlib.suppress(EngineError, ModelError):
                    return self._open_plan(self._store.load(self._key(precision)), precision)
        return None

    def lower_target(self) -> bool:
        """Fall back to the next higher precision when INT8 is refused; return False if there is none to build."""
        if self.target != "int8" or self.why_not_tensorrt():
            return False
        self.target = "fp16"
        return True

    def _open_verified(self, plan: bytes, precision: Precision) -> OpenedEngine:
        """Open a stored plan if it was verified against ONNX Runtime; else open the reference engine."""
        trial = self._store.trial(self._key(precision))
        if trial.state == "verified":
            return OpenedEngine(self._open_plan(plan, precision))
        if trial.state == "refused" or trial.attempts >= MAX_ATTEMPTS:
            reason = trial.reason or f"the process ended {trial.attempts} times during its trial"
            hint = f"remove {self._store.path(self._key(precision))} to rebuild and retry it"
            return OpenedEngine(self.open_reference(), f"its engine was refused: {reason}; {hint}", can_build=False)
        return OpenedEngine(self.open_reference(), "its stored engine has to be verified on frames first")

    def record_trial_start(self) -> None:
        """Record that the engine is about to run for the first time, which may end the process."""
        if not self.why_not_tensorrt():
            key = self._key(self.target)
            self._store.save_trial(key, PlanTrial("trying", None, self._store.trial(key).attempts + 1))

    def record_trial(self, state: str, reason: str | None = None) -> None:
        """Record the outcome of a trial: verified, refused, or untried if it was abandoned."""
        if not self.why_not_tensorrt():
            self._store.save_trial(self._key(self.target), PlanTrial(state, reason))

    def with_settings(self, **changes: str) -> EngineProvider:
        """Return a provider of the same model with other settings."""
        settings = self.settings.model_copy(update=changes)
        return EngineProvider(self.onnx, settings, **self._parts)

    def open_or_build(self, precision: Precision) -> Engine:
        """Open the model in a precision on this machine's backend; build its plan unless it is stored."""
        self.target = precision
        return self.build(lambda _phase, _progress: None, lambda: False)  # Ctrl-C ends it

    def variant(self, precision: Precision) -> tuple[ModelFiles, Path]:
        """Return the hashes that an entry of precision.json must match, and the file of this precision."""
        file = self._file(precision, self.runtime.backend)
        return model_files(self.onnx, file, precision, self._chooser.reading_sha256), file

    def _file(self, precision: Precision, backend: str) -> Path:
        """Return the ONNX file of a precision, converting it if needed."""
        if precision == "fp16":
            return fp16_file(self.onnx, self.environment.state_dir, blocked=self._fp16_blocked_ops)
        return variant_file(self.onnx, precision, backend, self.environment.state_dir)

    def check_ranges(self, inputs: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        """Keep nodes whose values exceed FP16 on these inputs in FP32, in the FP16 variant, from now on.

        Raises ModelError if there are no inputs, or the package onnx is missing.
        """
        from edge.inference.fp16.ranges import check_ranges  # noqa: PLC0415 -- imports onnx

        ranges = check_ranges(self.onnx, inputs)
        fp16_file(self.onnx, self.environment.state_dir, ranges=ranges, blocked=self._fp16_blocked_ops)

    @cached_property
    def runtime(self) -> RuntimeIdentity:
        """Backend that runs the model on this machine."""
        return onnxruntime_identity() if self.why_not_tensorrt() else tensorrt_identity(open_device().gpu)

    def why_not_tensorrt(self) -> str | None:
        """Return why TensorRT does not run this model here; None if it can."""
        if self.settings.backend == "onnxruntime":
            return "backend is set to onnxruntime"
        if self.settings.device == "cpu":
            return "device is set to cpu"
        try:
            check_installed()
            open_device()  # first, so that TensorRT's 100 MB are not loaded where no GPU can use them
            load_tensorrt()
        except EngineError as error:
            return str(error)
        return None

    def open_reference(self) -> OrtEngine:
        """Open the model as exported, on the CPU: it serves until others are built, and others are compared with it."""
        return OrtEngine(self.onnx, threads=self._threads, label_hash=self._shown_hash, inputs=self.inputs)

    def build(self, progress: Callable[[str, float], None], cancelled: Callable[[], bool]) -> Engine:
        """Load the preferred engine's plan, building it unless it is stored.

        `progress` receives a phase and the fraction done (0…1). Raises EngineError; of it, UnsupportedModelError if
        TensorRT does not know an operator.
        """
        if self.why_not_tensorrt():
            return self._open_variant(self.target)
        if stored := self._open_stored():
            return stored
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
            log.warning("the new plan serves, but will be built again at the next start: %s", error)
        return self._open_plan(built.plan, self.target)

    def _open_stored(self) -> Engine | None:
        """Open the stored plan; None if there is none, or TensorRT rejects it despite all checks."""
        try:
            return self._open_plan(self._store.load(self._key(self.target)), self.target)
        except (GpuLostError, GpuMemoryError):
            raise
        except EngineError as error:
            log.info("%s", error)
            return None

    def open_partial(self) -> Engine | None:
        """Open a model that TensorRT does not fully support, on a GPU provider of ONNX Runtime; None if it has none."""
        provider = best_provider(("tensorrt", "cuda"))
        if provider is None:
            return None
        return OrtEngine(
            self.onnx,
            threads=self._threads,
            provider=provider,
            label_hash=self._shown_hash,
            inputs=self.inputs,
            cache=self.environment.state_dir / "onnxruntime",
        )

    @property
    def device(self) -> str:
        """Device of the engine: cpu, gpu, dla0 or dla1."""
        return "gpu" if self.settings.device == "auto" else self.settings.device

    def _open_onnxruntime(self, choice: PrecisionChoice, reason: str) -> OpenedEngine:
        provider = best_provider(("cuda",)) if self.settings.device in ("auto", "gpu") else None
        if self.settings.device == "gpu" and provider is None:
            raise ModelError(
                "device is set to gpu, and neither TensorRT nor ONNX Runtime can use one here "
                f"({reason}); set device to auto or cpu"
            )
        is_auto = self.settings.backend == "auto" and self.settings.device == "auto"
        missing_reason = reason if is_auto and self._store.has_plan_of_a_gpu() else None
        engine = self._open_variant("fp32", provider) if provider else self._open_variant(choice.precision)
        return OpenedEngine(engine, missing_reason, can_build=False)

    def _open_variant(self, precision: Precision, provider: str = "cpu") -> OrtEngine:
        """Open the model in a precision with ONNX Runtime."""
        return OrtEngine(
            self._file(precision, "ort-cpu"),
            threads=self._threads,
            provider=provider,
            precision=precision,
            label_hash=self._shown_hash,
            inputs=self.inputs,
        )

    def _open_plan(self, plan: bytes, precision: Precision) -> Engine:
        from edge.inference.backends.tensorrt.engine import TrtEngine, TrtSettings  # noqa: PLC0415 -- only if TensorRT is installed

        core = int(self.device[-1]) if self.device.startswith("dla") else None
        backend = "trt" if core is None else f"trt-dla{core}"
        label = f"{backend}/{precision}/{self._shown_hash}"
        spin = self.settings.wait == "spin"
        return TrtEngine(plan, open_device(), TrtSettings(label, self.settings.memory, spin, core, self.inputs))

    @cached_property
    def _onnx_sha256(self) -> str:
        return source_sha256(self.onnx)

    @property
    def _shown_hash(self) -> str:
        return self._onnx_sha256[:LABEL_HASH_DIGITS]

    def _build_settings(self, precision: Precision) -> BuildSettings:
        gpu, engines = open_device().gpu, self.environment.settings
        return build_settings(precision, self.device, self.settings.max_batch, engines, gpu, self._input_shapes)

    @cached_property
    def _input_shapes(self) -> InputShapes:
        return open_sizes_set(self.onnx, self.inputs)

    def _key(self, precision: Precision) -> PlanKey:
        self._file(precision, "trt")  # converts it with the blocked operators, if it does not exist yet
        sha256 = plan_sha256(self.onnx, precision, self.environment.state_dir)
        return plan_key(sha256, self._build_settings(precision), open_device().gpu, self.environment.board)

    @cached_property
    def _store(self) -> PlanStore:
        return PlanStore(self.environment.state_dir, self.environment.settings.cache_mb)
