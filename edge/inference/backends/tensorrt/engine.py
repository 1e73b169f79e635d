"""TensorRT as an engine: a plan, and a context on its own CUDA stream for each lane.

A lane's context holds a TensorRT execution context for each batch size, so that the shapes, addresses and CUDA graph of
each size are fixed once. They share one block of device memory, as the stream runs them one after another.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import EngineError, GpuLostError, GpuMemoryError
from edge.core.manifest import InputSettings
from edge.core.records import EngineTimes
from edge.inference.backends.cuda import Buffer, CudaDevice, MemoryKind, release_frames
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.input_tensors import batch_of, fill_values, served_inputs
from edge.inference.backends.tensorrt.execution import Execution, GrowingOutput
from edge.inference.backends.tensorrt.gpu_preprocess import KERNEL, PictureStage
from edge.inference.backends.tensorrt.letterbox_kernel import TargetSettings, kernel_file
from edge.inference.backends.tensorrt.library import is_out_of_memory, load_tensorrt, make_logger

log = logging.getLogger(__name__)

# Each batch size up to this has an execution context of its own; above it only powers of two do, and other sizes run
# padded to the next.
MAX_UNPADDED_SIZE = 8
_ALIGNMENT_BYTES = 256
_DTYPES: dict[str, type[np.generic]] = {
    "FLOAT": np.float32,
    "HALF": np.float16,
    "INT8": np.int8,
    "UINT8": np.uint8,
    "INT32": np.int32,
    "INT64": np.int64,
    "BOOL": np.bool_,
}


@dataclass(frozen=True)
class TrtSettings:
    """Settings for running a plan."""

    label: str
    memory: Literal["auto", "mapped", "registered", "pinned"] = "auto"
    spin: bool = False  # busy-wait for the GPU, which wakes sooner
    dla_core: int | None = None
    inputs: InputSettings | None = None  # the manifest's


class TrtEngine:
    """A deserialised plan."""

    def __init__(self, plan: bytes, device: CudaDevice, settings: TrtSettings) -> None:
        """Load a plan whose origin was checked; raise EngineError if TensorRT rejects it."""
        trt = load_tensorrt()
        self.label = settings.label
        self.device = device
        self.settings = settings
        self._logger = make_logger(trt)
        with device.active(), device.translated("loading an engine"):
            self._runtime: Any = trt.Runtime(self._logger)
            if settings.dla_core is not None:
                # Before the plan is loaded, else it silently runs on core 0.
                self._runtime.DLA_core = settings.dla_core
            self.cuda_engine: Any = self._runtime.deserialize_cuda_engine(plan)
            if self.cuda_engine is None:
                raise self.refusal("loading a plan")
        specs = self._specs(trt.TensorIOMode.INPUT)
        self.inputs = specs if settings.inputs is None else served_inputs(specs, settings.inputs)
        self.outputs = self._specs(trt.TensorIOMode.OUTPUT)
        self.fixed_batch = batch_of(self.inputs, settings.inputs)
        self.largest_batch: int | None = None
        if self.fixed_batch is None:
            least, most = self._batch_range()
            self.largest_batch = most
            self.fixed_batch = most if least > 1 else None  # smaller batches run padded
        for spec in (*self.inputs, *self.outputs):
            self._require_linear(trt, spec)

    def _batch_range(self) -> tuple[int, int]:
        """Return the smallest and the largest batch that the plan's first profile takes."""
        of_batch = [spec.name for spec in self.inputs if spec.shape[:1] == (None,)]
        ranges = [self.cuda_engine.get_tensor_profile_shape(name, 0) for name in of_batch]
        return max(least[0] for least, _, _ in ranges), min(most[0] for _, _, most in ranges)

    def profile_shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an input that the plan was optimised for."""
        return tuple(self.cuda_engine.get_tensor_profile_shape(name, 0)[1])

    def _require_linear(self, trt: Any, spec: TensorSpec) -> None:
        """Refuse a plan whose tensors are not laid out as their shapes say; those that are built here are."""
        if self.cuda_engine.get_tensor_format(spec.name) != trt.TensorFormat.LINEAR:
            found = self.cuda_engine.get_tensor_format_desc(spec.name)
            raise EngineError(
                f"tensor {spec.name!r} of the plan has the format {found}; wanted a linear one: build it without other "
                "I/O formats"
            )

    def _specs(self, mode: Any) -> tuple[TensorSpec, ...]:
        cuda_engine = self.cuda_engine
        names = [cuda_engine.get_tensor_name(index) for index in range(cuda_engine.num_io_tensors)]
        return tuple(_spec(cuda_engine, name) for name in names if cuda_engine.get_tensor_mode(name) == mode)

    @property
    def memory(self) -> MemoryKind:
        """Kind of memory that buffers use."""
        return self.device.memory_kind() if self.settings.memory == "auto" else self.settings.memory

    def make_context(self, max_batch: int, pictures: TargetSettings | None = None) -> TrtContext:
        """Make a context; with `pictures`, the GPU preprocesses pictures into rows of the first input."""
        if pictures is not None and not self._has_kernel():
            pictures = None
        return TrtContext(self, self.fixed_batch or max_batch, pictures)

    def _has_kernel(self) -> bool:
        """Return whether this GPU can preprocess pictures; if not, the CPU does."""
        try:
            with self.device.active():
                self.device.load_kernel(kernel_file(self.device.gpu.architecture), KERNEL)
        except EngineError as error:
            log.warning("pictures are preprocessed on the CPU: %s", error)
            return False
        return True

    def refusal(self, doing: str) -> EngineError:
        """Return the error for a call that TensorRT refused; the device must be active."""
        reason = self._logger.pop_errors()
        if is_out_of_memory(reason):
            return GpuMemoryError(
                f"the GPU ran out of memory while {doing} ({reason}); use a smaller max_batch or fewer lanes"
            )
        return self.device.failure(reason, doing)

    def close(self) -> None:
        """Free the engine; its contexts must be closed."""
        with contextlib.suppress(GpuLostError), self.device.active():
            self.cuda_engine = None  # freed before the runtime that made it
            self._runtime = None


@dataclass
class LaunchPlan:
    """Everything prepared for running one batch size."""

    launch: Callable[[], None]
    uploads: Sequence[tuple[int, NDArray[Any]]]  # address, rows on the host
    downloads: Sequence[tuple[NDArray[Any], int]]
    outputs: Mapping[str, NDArray[Any]]


class TrtContext:
    """One lane's stream, buffers and executions, created by `__enter__`; `infer` allocates nothing."""

    def __init__(self, engine: TrtEngine, max_batch: int, pictures: TargetSettings | None) -> None:
        self._engine = engine
        self._device = engine.device
        self._max_batch = max_batch
        self._picture_settings = pictures
        self._executions: dict[int, Execution] = {}  # by batch size
        self._launch_plans: dict[int, LaunchPlan] = {}
        self._growing: dict[str, GrowingOutput] = {}  # outputs whose size depends on the data
        self._stream: Any = None
        self._events: list[Any] = []  # start, inputs on the GPU, outputs computed, outputs on the host
        self._closing = contextlib.ExitStack()
        self.inputs: Mapping[str, NDArray[Any]] = {}
        self.outputs: Mapping[str, NDArray[Any]] = {}
        self.pictures: PictureStage | None = None

    def __enter__(self) -> TrtContext:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._device.active())
            with self._device.translated("making a context"):
                self._prepare(stack)
            self._closing = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._launch_plans.clear()
        try:
            self._closing.close()
        except (
            GpuLostError,
            self._device.error_type,
        ) as lost:  # a lost GPU frees nothing; the process will end
            log.debug("a context could not be freed: %s", lost)

    def infer(self, batch_size: int) -> EngineTimes:
        """Run the first `batch_size` rows and wait for the outputs, which the next call OVERWRITES.

        `h2d_ms` covers copies to the GPU and preprocessing there; a time is None if nothing is copied. Raises
        GpuLostError if only a new process can continue, EngineError otherwise.
        """
        try:
            return self._run(self._launch_plans[batch_size], batch_size)
        except self._device.error_type as error:
            release_frames(error)  # else the error keeps stream and events beyond the context
            raise self._device.failure(error, f"running a batch of {batch_size}") from error
        except EngineError as error:
            release_frames(error)
            raise

    def _run(self, plan: LaunchPlan, batch_size: int) -> EngineTimes:
        """Queue copies, preprocessing and the network, and wait."""
        device, stream = self._device, self._stream
        started, uploaded, computed, downloaded = self._events
        started.record(stream)
        for address, rows in plan.uploads:
            device.upload(address, rows, stream)
        if self.pictures is not None:
            self.pictures.queue(stream, batch_size)
        uploaded.record(stream)
        plan.launch()
        computed.record(stream)
        for rows, address in plan.downloads:
            device.download(rows, address, stream)
        downloaded.record(stream)
        downloaded.synchronize()
        self.outputs = plan.outputs if not self._growing else self._fetch_grown(plan.outputs)
        return EngineTimes(
            compute_ms=computed.time_since(uploaded),
            h2d_ms=uploaded.time_since(started) if plan.uploads or self.pictures else None,
            d2h_ms=downloaded.time_since(computed) if plan.downloads else None,
        )

    def time_layers(self, runs: int) -> dict[str, float]:
        """Run the smallest batch with TensorRT's profiler; return the median of each layer in milliseconds, by name.

        It slows the engine down, so it is not used while serving.
        """
        with self._device.translated("timing layers"):
            return self._executions[min(self._executions)].time_layers(runs)

    def _prepare(self, stack: contextlib.ExitStack) -> None:
        """Create stream, buffers and executions, and run each size once, so that the first batch finds all ready."""
        engine = self._engine
        stack.callback(self._release)
        self._stream = self._device.make_stream()
        self._events = [self._device.make_event(spin=engine.settings.spin) for _ in range(4)]
        addresses, copied = self._make_inputs(stack)
        scratch_bytes = max(engine.cuda_engine.device_memory_size_v2, _ALIGNMENT_BYTES)
        scratch = self._device.allocate(scratch_bytes)
        stack.callback(scratch.free)
        sizes = [engine.fixed_batch] if engine.fixed_batch else _sizes_up_to(self._max_batch)
        executions = self._executions = {size: Execution(engine, size, self._stream) for size in sizes}
        stack.callback(executions.clear)
        buffers = self._make_outputs(stack, executions[sizes[-1]])
        addresses |= {name: buffer.address for name, buffer in buffers.items()}
        for execution in executions.values():
            execution.bind_memory(scratch.address, scratch_bytes, addresses, self._growing)
            execution.run_once()
            if not self._growing:
                execution.capture()
            stack.callback(execution.free)
        for batch_size in [engine.fixed_batch] if engine.fixed_batch else range(1, self._max_batch + 1):
            size = next(size for size in sizes if size >= batch_size)
            self._launch_plans[batch_size] = _make_launch_plan(executions[size], batch_size, copied, buffers)
        self.outputs = self._launch_plans[sizes[-1]].outputs

    def _release(self) -> None:
        """Release stream and events while the device is active, else they would leak."""
        self._stream = None
        self._events = []

    def _make_inputs(self, stack: contextlib.ExitStack) -> tuple[dict[str, int], list[Buffer]]:
        """Allocate the inputs; return their addresses, and the buffers that are copied to the GPU."""
        engine, device = self._engine, self._device
        buffers = {}
        addresses = {}
        for spec in engine.inputs:
            shape = spec.buffer_shape(self._max_batch)
            if self._picture_settings is not None and spec is engine.inputs[0]:
                memory = device.allocate(math.prod(shape) * spec.dtype.itemsize)
                stack.callback(memory.free)
                addresses[spec.name] = memory.address
                settings = self._picture_settings
                self.pictures = PictureStage(device, engine.memory, settings, memory.address, self._max_batch)
                stack.callback(self.pictures.free)
                continue
            buffers[spec.name] = device.make_buffer(shape, spec.dtype, engine.memory)
            stack.callback(buffers[spec.name].free)
        self.inputs = {name: buffer.host for name, buffer in buffers.items()}
        if engine.settings.inputs is not None:
            fill_values(self.inputs, engine.inputs, engine.settings.inputs)
        addresses |= {name: buffer.address for name, buffer in buffers.items()}
        return addresses, [buffer for buffer in buffers.values() if buffer.is_copied]

    def _make_outputs(self, stack: contextlib.ExitStack, largest: Execution) -> dict[str, Buffer]:
        """Allocate the outputs for the largest batch; variable sizes get growing memory."""
        buffers = {}
        for spec in self._engine.outputs:
            shape = largest.output_shapes[spec.name]
            if min(shape, default=0) < 0:
                growing = self._growing[spec.name] = GrowingOutput(self._device, self._engine.memory, spec.dtype)
                stack.callback(growing.free)
                continue
            buffers[spec.name] = self._device.make_buffer((math.prod(shape),), spec.dtype, self._engine.memory)
            stack.callback(buffers[spec.name].free)
        return buffers

    def _fetch_grown(self, fixed: Mapping[str, NDArray[Any]]) -> Mapping[str, NDArray[Any]]:
        """Copy the outputs of variable size; return all outputs in the model's order."""
        fetched = {}
        for spec in self._engine.outputs:
            if spec.name in fixed:
                fetched[spec.name] = fixed[spec.name]
                continue
            with self._device.translated(f"copying output {spec.name!r}"):
                fetched[spec.name] = self._growing[spec.name].fetch(self._stream)
        return fetched


def _make_launch_plan(
    execution: Execution, batch_size: int, copied: Sequence[Buffer], buffers: Mapping[str, Buffer]
) -> LaunchPlan:
    """Prepare for running `batch_size` rows on an execution of that size or the next larger."""
    outputs = {}
    downloads = []
    for name, buffer in buffers.items():
        shape = execution.output_shapes[name]
        array = buffer.host[: math.prod(shape)].reshape(shape)
        # An output without one row per picture is returned whole.
        outputs[name] = array[:batch_size] if shape[:1] == (execution.size,) else array
        if buffer.is_copied:
            downloads.append((outputs[name], buffer.address))
    uploads = [(buffer.address, buffer.host[:batch_size]) for buffer in copied]
    return LaunchPlan(execution.launch, uploads, downloads, outputs)


def _spec(cuda_engine: Any, name: str) -> TensorSpec:
    dtype = cuda_engine.get_tensor_dtype(name).name
    if dtype not in _DTYPES:
        raise EngineError(f"tensor {name!r} of the plan is {dtype}; wanted one of {', '.join(_DTYPES)}")
    shape = tuple(size if size >= 0 else None for size in cuda_engine.get_tensor_shape(name))
    return TensorSpec(name, shape, np.dtype(_DTYPES[dtype]))


def _sizes_up_to(max_batch: int) -> list[int]:
    """Return the batch sizes that get an execution context."""
    powers = (1 << exponent for exponent in range(max_batch.bit_length()))
    return sorted({*range(1, min(max_batch, MAX_UNPADDED_SIZE) + 1), *powers, max_batch})
