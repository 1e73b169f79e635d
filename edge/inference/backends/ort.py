"""ONNX Runtime as an engine: on the CPU, or on a GPU through its execution providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import EngineError, ModelError
from edge.core.installation import install_advice
from edge.core.manifest import InputSettings
from edge.core.records import EngineTimes
from edge.inference.backends.engine import LABEL_HASH_DIGITS, TensorSpec
from edge.inference.backends.input_tensors import batch_of, fill_values, named_sizes, served_inputs
from edge.inference.backends.ort_refusal import refusal
from edge.inference.backends.tensorrt.letterbox_kernel import TargetSettings
from edge.inference.derived_files import source_sha256

_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(double)": np.dtype(np.float64),
    "tensor(uint8)": np.dtype(np.uint8),
    "tensor(int8)": np.dtype(np.int8),
    "tensor(int32)": np.dtype(np.int32),
    "tensor(int64)": np.dtype(np.int64),
    "tensor(bool)": np.dtype(np.bool_),
}
_PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",  # runs the parts of a model that it supports
}
_BACKENDS = {"cpu": "ort-cpu", "cuda": "ort-cuda", "tensorrt": "ort-trt"}  # first part of a label
_LOG_ERRORS = 3  # ORT_LOGGING_LEVEL_ERROR
_LOG_FATAL = 4


class OrtEngine:
    """A model in ONNX Runtime, with `threads` threads per context."""

    def __init__(
        self,
        onnx: Path,
        *,
        threads: int,
        provider: str = "cpu",
        precision: str = "fp32",
        label_hash: str | None = None,
        cache: Path | None = None,
        profile: Path | None = None,
        inputs: InputSettings | None = None,
    ) -> None:
        """Open a file whose weights are of `precision`; raise ModelError if it cannot be run.

        `inputs` sets open sizes and further inputs; without it, the tensors are those of the file. `label_hash`
        replaces the model's own hash in the label; `cache` is a folder for what the provider builds; `profile` is the
        file name prefix of a profile, which ONNX Runtime writes until `end_profile`.
        """
        self._onnx = onnx
        self._threads = threads
        self._provider = provider
        self._cache = cache
        self._profile = profile
        self._input_settings = inputs
        self._sizes = named_sizes(onnx, inputs)
        self._session = self._open_session()
        found = self._session.get_inputs()
        if not any(each.shape for each in found):
            names = ", ".join(repr(each.name) for each in found) or "none"
            raise ModelError(f"model {onnx}: found inputs without a batch axis: {names}; wanted one of the shape N×…")
        specs = tuple(_spec(onnx, value) for value in found)
        self.inputs = specs if inputs is None else served_inputs(specs, inputs)
        outputs = self._session.get_outputs()
        self.outputs = tuple(_spec(onnx, value) for value in outputs)
        self.fixed_batch = batch_of(self.inputs, inputs)
        self.largest_batch: int | None = None
        named = {each.name: each.shape for each in found}
        batch_axis = named[self.inputs[0].name][:1] if self.inputs[0].has_batch else [1]
        self._has_fixed_outputs = all(
            each.shape[:1] == batch_axis and None not in spec.shape[1:]
            for each, spec in zip(outputs, self.outputs, strict=True)
        )
        digits = label_hash or source_sha256(onnx)[:LABEL_HASH_DIGITS]
        self.label = f"{_BACKENDS[provider]}/{precision}/{digits}"
        self._session_taken = False

    def make_context(self, max_batch: int, pictures: TargetSettings | None = None) -> OrtContext:  # noqa: ARG002 -- the contract's
        # With one thread a run happens on the caller's thread, so all lanes share one session and its weights; with
        # more, they would share its thread pool, so each lane gets a session of its own.
        session = self._open_session() if self._threads > 1 and self._session_taken else self._session
        self._session_taken = True
        sizes = [self.fixed_batch] if self.fixed_batch else list(range(1, max_batch + 1))
        arrays = {spec.name: np.zeros(spec.buffer_shape(max(sizes)), spec.dtype) for spec in self.inputs}
        if self._input_settings is not None:
            fill_values(arrays, self.inputs, self._input_settings)
        return OrtContext(session, self.inputs, arrays, self.outputs, sizes, has_fixed_outputs=self._has_fixed_outputs)

    def end_profile(self) -> Path:
        """End the profile and return its file: JSON in Chrome's trace format."""
        return Path(self._session.end_profiling())

    def close(self) -> None:
        """Leave the session to the garbage collector: ONNX Runtime has no close."""

    def _open_session(self) -> Any:
        session = _open_session(self._onnx, self._threads, self._provider, self._cache, self._profile, self._sizes)
        if _PROVIDERS[self._provider] not in session.get_providers():
            # ONNX Runtime falls back to the CPU silently, but for a line in its log.
            raise ModelError(
                f"model {self._onnx} cannot run on ONNX Runtime's {_PROVIDERS[self._provider]}; it would run on "
                f"{', '.join(session.get_providers())}"
            )
        return session


class OrtContext:
    """Input and output buffers, bound to the session once per batch size.

    Outputs whose shapes depend on the data are allocated by each run, and copied.
    """

    pictures: None = None  # the caller fills the input

    def __init__(
        self,
        session: Any,
        inputs: tuple[TensorSpec, ...],
        arrays: Mapping[str, NDArray[Any]],
        outputs: tuple[TensorSpec, ...],
        sizes: list[int],
        *,
        has_fixed_outputs: bool,
    ) -> None:
        self._session = session
        self._has_fixed_outputs = has_fixed_outputs
        self._output_names = [spec.name for spec in outputs]
        self._input_specs = inputs
        self.inputs = arrays
        buffers = {}
        if has_fixed_outputs:
            buffers = {spec.name: np.zeros(spec.buffer_shape(max(sizes)), spec.dtype) for spec in outputs}
        self._views = {n: {name: array[:n] for name, array in buffers.items()} for n in sizes}
        self._bindings = {n: self._bind(self._views[n], n) for n in sizes}
        self.outputs: Mapping[str, NDArray[Any]] = self._views[max(sizes)]

    def _bind(self, outputs: Mapping[str, NDArray[Any]], batch_size: int) -> Any:
        binding = self._session.io_binding()
        for spec in self._input_specs:
            rows = self.inputs[spec.name][:batch_size]
            shape = spec.bound_shape(batch_size)
            binding.bind_input(spec.name, "cpu", 0, rows.dtype.type, shape, rows.ctypes.data)
        for name in self._output_names:
            if name in outputs:
                rows = outputs[name]
                binding.bind_output(name, "cpu", 0, rows.dtype.type, rows.shape, rows.ctypes.data)
        return binding

    def infer(self, batch_size: int) -> EngineTimes:
        start_ns = perf_counter_ns()
        binding = self._bindings[batch_size]
        if not self._has_fixed_outputs:
            # A binding keeps what its first run allocated, and refuses another shape.
            binding.clear_binding_outputs()
            for name in self._output_names:
                binding.bind_output(name, "cpu")
        try:
            self._session.run_with_iobinding(binding)
        except Exception as error:  # ONNX Runtime's exceptions have no common type of their own
            raise EngineError(
                f"ONNX Runtime failed on a batch of {batch_size}: {_first_line(error)}; the frames of it are dropped"
            ) from error
        if self._has_fixed_outputs:
            self.outputs = self._views[batch_size]
        else:
            self.outputs = dict(zip(self._output_names, binding.copy_outputs_to_cpu(), strict=True))
        return EngineTimes(compute_ms=(perf_counter_ns() - start_ns) / 1e6)

    def __enter__(self) -> OrtContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bindings.clear()  # they point into the buffers, so they go first


def best_provider(preferred: Sequence[str]) -> str | None:
    """Return the first of `preferred` that this build of ONNX Runtime has; None if it has none of them."""
    try:
        available = import_onnxruntime().get_available_providers()
    except ModelError:
        return None
    return next((name for name in preferred if _PROVIDERS[name] in available), None)


def import_onnxruntime() -> Any:
    """Import ONNX Runtime; raise ModelError if it is not installed."""
    try:
        import onnxruntime  # noqa: PLC0415 -- slow to import, and optional
    except ImportError:
        raise ModelError(f"no engine is available: ONNX Runtime is not installed; {install_advice()}") from None
    return onnxruntime


def _open_session(
    onnx: Path,
    threads: int,
    provider: str,
    cache: Path | None,
    profile: Path | None,
    sizes: Mapping[str, int],
) -> Any:
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = _LOG_ERRORS
    for name, size in sizes.items():
        options.add_free_dimension_override_by_name(name, size)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    onnxruntime.set_default_logger_severity(_LOG_FATAL)  # errors reach us as exceptions
    try:
        return onnxruntime.InferenceSession(str(onnx), options, providers=_with_fallbacks(provider, cache))
    except Exception as error:  # noqa: BLE001 -- ONNX Runtime's exceptions have no common type of their own
        raise refusal(onnx, _first_line(error), onnxruntime.__version__, sizes) from None


def _with_fallbacks(provider: str, cache: Path | None) -> list[tuple[str, dict[str, Any]]]:
    """Return the provider, and those after it for operators that it does not support."""
    options: dict[str, Any] = {}
    if provider == "tensorrt":
        options = {"trt_fp16_enable": True, "trt_engine_cache_enable": cache is not None}
        if cache is not None:
            options["trt_engine_cache_path"] = str(cache)
    order = ["tensorrt", "cuda", "cpu"]
    return [(_PROVIDERS[name], options if name == provider else {}) for name in order[order.index(provider) :]]


def _spec(onnx: Path, value: Any) -> TensorSpec:
    if value.type not in _DTYPES:
        raise ModelError(f"model {onnx}: tensor {value.name!r} is of type {value.type}; wanted a numeric tensor")
    shape = tuple(size if isinstance(size, int) and size > 0 else None for size in value.shape)
    return TensorSpec(value.name, shape, _DTYPES[value.type])


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
