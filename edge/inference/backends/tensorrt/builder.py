"""TensorRT plan builder: an ONNX file parsed, configured for a device and built."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any

from edge.core.errors import EngineError, GpuMemoryError
from edge.core.files import write_atomic
from edge.inference.backends.tensorrt.build_progress import READ, Reporter
from edge.inference.backends.tensorrt.build_protocol import (
    MB,
    BuildCancelled,
    BuildFacts,
    BuildRequest,
    BuildSettings,
    UnsupportedModelError,
)
from edge.inference.backends.tensorrt.library import bits, is_out_of_memory, library_name, load_tensorrt, make_logger

log = logging.getLogger(__name__)

_SHOWN_ERRORS = 3  # of the parser, in one sentence
_NO_SUCH_OP = "Plugin not found"


@lru_cache(maxsize=4)
def _monitor_class(trt: Any) -> Any:
    """Define the progress monitor's class, whose base exists only once the library is loaded."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is Any
        """Forwards TensorRT's progress; returning False from a step cancels the build."""

        def __init__(self, reporter: Reporter) -> None:
            trt.IProgressMonitor.__init__(self)
            self._reporter = reporter

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._reporter.update(lambda phases: phases.start(phase_name, parent_phase, num_steps), phase_name)

        def step_complete(self, phase_name: str, step: int) -> bool:
            self._reporter.update(lambda phases: phases.step(phase_name, step), phase_name)
            return not self._reporter.cancelled

        def phase_finish(self, phase_name: str) -> None:
            self._reporter.update(lambda phases: phases.finish(phase_name), phase_name)

    return Monitor


def build_strategies(trt: Any, settings: BuildSettings) -> list[tuple[str, ...]]:
    """Return the sets of flags, by name, that this version can build with for these settings, best first.

    A strongly typed network takes its types from the ONNX file; every version supports it on the GPU. TensorRT 10 can
    also choose types itself, which is the second strategy for FP16 and the only one for a DLA.
    """
    can_choose_types = hasattr(trt.BuilderFlag, "FP16")
    if settings.device != "gpu":
        typing = ("FP16", "GPU_FALLBACK", "PREFER_PRECISION_CONSTRAINTS")
        return [typing if can_choose_types else ("GPU_FALLBACK", "STRONGLY_TYPED")]
    is_strongly_typed = hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")
    strategies: list[tuple[str, ...]] = [("STRONGLY_TYPED",)] if is_strongly_typed else []
    if can_choose_types and settings.precision == "fp16":
        strategies.append(("FP16",))
    return strategies or [()]


def build(request: BuildRequest, reporter: Reporter) -> BuildFacts:
    """Build the plan and write it to the request's destination; raise EngineError if it cannot be built."""
    reporter.report("loading TensorRT", 0.0)
    trt = load_tensorrt()
    logger = make_logger(trt)
    builder = _make_builder(trt, logger)
    _check_device(trt, builder, request.settings)
    first_failure = None
    for flags in build_strategies(trt, request.settings):
        try:
            return _Attempt(trt, logger, builder, request, flags).run(reporter)
        except (BuildCancelled, GpuMemoryError):
            raise
        except EngineError as error:
            first_failure = first_failure or error
            log.info("building with %s failed: %s", ", ".join(flags), error)
    raise first_failure or EngineError("TensorRT offers no way to build this model")


def _make_builder(trt: Any, logger: Any) -> Any:
    try:
        return trt.Builder(logger)
    except (TypeError, RuntimeError):  # how the bindings report that the library returned none
        raise EngineError(
            f"TensorRT {trt.__version__} cannot build here ({logger.pop_errors()}); wanted a working NVIDIA driver"
        ) from None


def _check_device(trt: Any, builder: Any, settings: BuildSettings) -> None:
    """Refuse a DLA that does not exist, or that does not support the precision."""
    if settings.device == "gpu":
        return
    cores = builder.num_DLA_cores
    if _dla_core(settings) >= cores:
        raise EngineError(
            f"device {settings.device!r} cannot be used: TensorRT {trt.__version__} found {cores} DLA cores on this "
            "machine; set device to gpu"
        )
    if settings.precision != "fp16":
        raise EngineError(
            f"device {settings.device!r} cannot be used with precision {settings.precision!r}: a DLA computes in fp16; "
            "set precision to fp16, or device to gpu"
        )


def _dla_core(settings: BuildSettings) -> int:
    return int(settings.device.removeprefix("dla"))


class _Attempt:
    """One attempt to build, with one set of flags."""

    def __init__(self, trt: Any, logger: Any, builder: Any, request: BuildRequest, flags: tuple[str, ...]) -> None:
        self._trt = trt
        self._logger = logger
        self._builder = builder
        self._request = request
        self._flags = flags
        self._onnx = request.fp32_onnx if "FP16" in flags else request.onnx

    def run(self, reporter: Reporter) -> BuildFacts:
        start_s = monotonic()
        reporter.report("reading the model", READ / 2)
        trt, builder = self._trt, self._builder
        network = builder.create_network(bits(trt.NetworkDefinitionCreationFlag, *self._flags))
        parser = trt.OnnxParser(network, self._logger)  # owns the weights until the plan is built
        self._parse(parser, network)
        config = self._configure()
        profile = self._fit_batch(network, config)
        placement = self._dla_placement(network, config) if self._request.settings.device != "gpu" else None
        with self._timing_cache(config):
            self._build_plan(network, config, reporter)
        reporter.report("the plan is built", 1.0)
        return BuildFacts(
            flags=tuple(sorted({*self._flags, *_flags_set(trt, config)})),
            workspace_mb=self._request.settings.workspace_mb,
            layers=network.num_layers,
            inputs=_describe(network.get_input(index) for index in range(network.num_inputs)),
            outputs=_describe(network.get_output(index) for index in range(network.num_outputs)),
            profile=profile,
            placement=placement,
            build_s=round(monotonic() - start_s, 3),
        )

    def _parse(self, parser: Any, network: Any) -> None:
        if not parser.parse_from_file(str(self._onnx)):
            errors = [parser.get_error(index) for index in range(parser.num_errors)]
            raise self._refusal(errors)
        if network.num_inputs == 0 or network.num_outputs == 0:  # an empty file parses as an empty model
            raise EngineError(
                f"{self._onnx} holds no network: found {network.num_inputs} inputs and {network.num_outputs} outputs, "
                "wanted at least one of each; export it again"
            )

    def _refusal(self, errors: list[Any]) -> EngineError:
        """Return the error for a file that the parser rejected."""
        at_nodes = [parser_error for parser_error in errors if parser_error.node() >= 0]
        if not at_nodes:
            reason = "; ".join(parser_error.desc() for parser_error in errors) or self._logger.pop_errors()
            return EngineError(f"{self._onnx} cannot be read as an ONNX model ({reason}); export it again")
        refused = ", ".join(dict.fromkeys(_refused_node(each) for each in at_nodes[:_SHOWN_ERRORS]))
        return UnsupportedModelError(
            f"model {self._onnx.name}: TensorRT {self._trt.__version__} {refused}; another engine may "
            "support it: set backend to onnxruntime"
        )

    def _configure(self) -> Any:
        trt, settings = self._trt, self._request.settings
        config = self._builder.create_builder_config()
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace_mb * MB)
        if self._request.tactic_mb is not None and hasattr(trt.MemoryPoolType, "TACTIC_DRAM"):
            config.set_memory_pool_limit(trt.MemoryPoolType.TACTIC_DRAM, self._request.tactic_mb * MB)
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # for `edge engines inspect`
        config.builder_optimization_level = settings.builder_level
        if hasattr(config, "max_aux_streams"):
            config.max_aux_streams = 0  # lanes overlap each other; streams within one would complicate its graph
        for name in self._flags:
            if name in trt.BuilderFlag.__members__:
                config.set_flag(trt.BuilderFlag.__members__[name])
        if settings.device != "gpu":
            config.default_device_type = trt.DeviceType.DLA
            config.DLA_core = _dla_core(settings)
        return config

    def _fit_batch(self, network: Any, config: Any) -> dict[str, Any]:
        """Make the batch axis dynamic, 1 to `max_batch`; return the profile, empty if the batch is fixed.

        Kernels are optimised for full batches: speed matters when frames queue, and then batches are full. A DLA has no
        dynamic axes, so its batch is fixed at `max_batch`.
        """
        tensors = [network.get_input(index) for index in range(network.num_inputs)]
        for tensor in tensors:
            if (shape := dict(self._request.settings.input_shapes).get(tensor.name)) is not None:
                tensor.shape = tuple(-1 if size is None else size for size in shape)
        largest = {tensor.name: self._largest(tensor) for tensor in tensors if -1 in _shape(tensor)}
        if self._request.settings.device != "gpu":
            for tensor in tensors:
                tensor.shape = largest.get(tensor.name, tensor.shape)
            return {}
        if not largest:
            return {}
        profile = self._builder.create_optimization_profile()
        shapes = {name: ((1, *shape[1:]), shape, shape) for name, shape in largest.items()}
        for name, (least, best, most) in shapes.items():
            profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"model {self._onnx.name}: no profile fits {shapes} ({self._logger.pop_errors()})")
        return {name: dict(zip(("min", "opt", "max"), sizes, strict=True)) for name, sizes in shapes.items()}

    def _largest(self, tensor: Any) -> tuple[int, ...]:
        """Return an input's shape at the largest batch; refuse one with another dynamic axis."""
        batch, *row = _shape(tensor)
        if batch != -1 or -1 in row:
            text = "×".join("?" if size == -1 else str(size) for size in (batch, *row))
            raise EngineError(
                f"model {self._onnx.name}: input {tensor.name!r} has the shape {text}; wanted only the batch (the "
                "first axis) dynamic: set size = [width, height] in [input], or fix the other sizes when you export it"
            )
        return (self._request.settings.max_batch, *row)

    def _dla_placement(self, network: Any, config: Any) -> dict[str, Any]:
        """Count the layers that run on the DLA, and list those left to the GPU."""
        layers = [network.get_layer(index) for index in range(network.num_layers)]
        left = [layer.name for layer in layers if not config.can_run_on_DLA(layer)]
        return {"dla": len(layers) - len(left), "gpu": left}

    def _build_plan(self, network: Any, config: Any, reporter: Reporter) -> None:
        config.progress_monitor = monitor = _monitor_class(self._trt)(reporter)
        self._logger.pop_errors()  # errors until now did not prevent the build
        host_memory = self._builder.build_serialized_network(network, config)
        del monitor  # must outlive the build
        if reporter.cancelled:
            raise BuildCancelled(f"model {self._onnx.name}: the build was cancelled")
        if host_memory is None:
            raise self._failure()
        try:
            self._request.plan.write_bytes(host_memory)
        except OSError as error:
            raise GpuMemoryError(f"model {self._onnx.name}: its plan cannot be written to memory ({error})") from None

    def _failure(self) -> EngineError:
        reason = self._logger.pop_errors()
        if is_out_of_memory(reason):
            return GpuMemoryError(
                f"model {self._onnx.name}: TensorRT ran out of memory while building with a workspace of "
                f"{self._request.settings.workspace_mb} MB ({reason}); free memory, or lower [engines] workspace_mb"
            )
        return EngineError(
            f"model {self._onnx.name}: TensorRT {self._trt.__version__} built no plan ({reason}); until it does, set "
            "backend to onnxruntime"
        )

    @contextlib.contextmanager
    def _timing_cache(self, config: Any) -> Iterator[None]:
        """Reuse the kernel timings of earlier builds on this machine, and save those of this one.

        They are saved even if the build is cancelled, so the next one continues from there.
        """
        machine = self._request.machine
        if machine is None or library_name(self._trt) != "tensorrt":  # TensorRT-RTX times no kernels while it builds
            yield
            return
        path = self._request.timing_folder / f"{file_name(f'{self._trt.__version__}-{machine}')}.cache"
        timing_cache = _attach_timing_cache(config, path)  # must outlive the build
        try:
            yield
        finally:
            host_memory = timing_cache.serialize()
            if host_memory is not None:
                _save_timing_cache(path, host_memory)


def _refused_node(parser_error: Any) -> str:
    operator, name, reason = parser_error.node_operator(), parser_error.node_name(), parser_error.desc()
    node = f"node {name!r}" if name else f"node number {parser_error.node()}"
    if _NO_SUCH_OP in reason or parser_error.code().name == "UNSUPPORTED_NODE":
        return f"does not know operator {operator} ({node})"
    return f"does not support operator {operator} ({node}: {reason})"


def _shape(tensor: Any) -> tuple[int, ...]:
    try:
        return tuple(tensor.shape)
    except ValueError:  # how the bindings report an unknown number of axes
        return (-1, -1)


def _describe(tensors: Iterator[Any]) -> dict[str, Any]:
    return {tensor.name: {"shape": _shape(tensor), "dtype": tensor.dtype.name} for tensor in tensors}


def _flags_set(trt: Any, config: Any) -> list[str]:
    return [name for name, flag in trt.BuilderFlag.__members__.items() if config.get_flag(flag)]


def _attach_timing_cache(config: Any, path: Path) -> Any:
    """Attach the stored cache and return it; an empty one if it is damaged or from another machine."""
    with contextlib.suppress(OSError):
        timing_cache = config.create_timing_cache(path.read_bytes())
        if timing_cache is not None and config.set_timing_cache(timing_cache, False):  # noqa: FBT003 -- TensorRT's signature
            return timing_cache
    timing_cache = config.create_timing_cache(b"")
    config.set_timing_cache(timing_cache, False)  # noqa: FBT003 -- likewise
    return timing_cache


def _save_timing_cache(path: Path, data: Any) -> None:
    """Save a timing cache; if that fails, the next build only takes longer."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomic(path, memoryview(data), durable=False)
    except OSError as error:
        log.info("the timing cache %s cannot be saved: %s", path, error)


def file_name(text: str) -> str:
    """Return the text with characters that a file name may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:100]
