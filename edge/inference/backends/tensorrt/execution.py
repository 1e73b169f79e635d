"""TensorRT execution context for one batch size, its CUDA graph, and outputs of variable size."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import EngineError
from edge.inference.backends.cuda import Buffer, CudaDevice, MemoryKind
from edge.inference.backends.cuda_runtime import capture_graph
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.tensorrt.layers import make_layer_times
from edge.inference.backends.tensorrt.library import load_tensorrt

log = logging.getLogger(__name__)


class LoadedPlan(Protocol):
    """Engine that executions are made from."""

    label: str
    cuda_engine: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def refusal(self, doing: str) -> EngineError:
        """Return the error for a call that TensorRT refused."""


class Execution:
    """TensorRT execution context for one batch size."""

    def __init__(self, engine: LoadedPlan, size: int, stream: Any) -> None:
        """Create the context and fix its shapes; raise EngineError if TensorRT refuses."""
        trt = load_tensorrt()
        self.size = size
        self._engine = engine
        self._stream = stream
        execution = engine.cuda_engine.create_execution_context(trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if execution is None:
            raise engine.refusal("making an execution context")
        self._execution: Any = execution
        self._graph: Any = None
        if not execution.set_optimization_profile_async(0, self._stream.handle):
            raise engine.refusal("choosing the optimisation profile")
        for spec in engine.inputs:
            if not execution.set_input_shape(spec.name, spec.bound_shape(self.size)):
                raise engine.refusal(f"setting input {spec.name!r} to a batch of {self.size}")
        try:
            missing = execution.infer_shapes()
        except RuntimeError as error:  # the only exception that TensorRT's bindings raise
            raise EngineError(f"TensorRT cannot infer the shapes for a batch of {size}: {error}") from None
        if missing:
            raise EngineError(
                f"TensorRT needs the values of {', '.join(missing)} to know the shapes; wanted inputs that are data"
            )
        # -1: depends on the data
        self.output_shapes = {spec.name: tuple(execution.get_tensor_shape(spec.name)) for spec in engine.outputs}

    def bind_memory(
        self, scratch: int, scratch_bytes: int, addresses: Mapping[str, int], growing: Mapping[str, GrowingOutput]
    ) -> None:
        """Set the addresses of its scratch memory, inputs and outputs."""
        trt, execution = load_tensorrt(), self._execution
        execution.set_device_memory(scratch, scratch_bytes)
        for name, address in addresses.items():
            if not execution.set_tensor_address(name, address):
                raise self._engine.refusal(f"setting the address of {name!r}")
        self._allocators = {name: _allocator_class(trt)(output) for name, output in growing.items()}
        for name, allocator in self._allocators.items():
            if not execution.set_output_allocator(name, allocator):
                raise self._engine.refusal(f"setting the allocator of {name!r}")

    def run_once(self) -> None:
        """Run it on the current buffers, so that lazy initialisation, which cannot be captured, happens now."""
        self.enqueue()
        self._stream.synchronize()

    def capture(self) -> None:
        """Capture a CUDA graph of it if possible."""
        self._graph = capture_graph(self._stream.handle, self._enqueue_captured)

    def time_layers(self, runs: int) -> dict[str, float]:
        """Run it `runs` times with TensorRT's profiler; return the median of each layer in milliseconds, by name.

        The profiler stays attached and slows later runs down.
        """
        profiler = make_layer_times(load_tensorrt())
        self._execution.profiler = profiler
        for _ in range(runs):
            self.run_once()
        times_ms: dict[str, float] = profiler.median_ms()
        return times_ms

    def launch(self) -> None:
        """Queue it: as a graph, else layer by layer."""
        if self._graph is None:
            self.enqueue()
            return
        try:
            self._graph.launch(self._stream.handle)
        except EngineError as error:
            log.warning("%s: %s; its layers are queued one by one from now on", self._engine.label, error)
            self._graph.free()
            self._graph = None
            self.enqueue()

    def enqueue(self) -> None:
        """Queue it layer by layer; raise EngineError if TensorRT refuses."""
        if not self._execution.execute_async_v3(self._stream.handle):
            raise self._engine.refusal(f"running a batch of {self.size}")

    def _enqueue_captured(self) -> None:
        # Asking for the reason would wait for the GPU, which a capture forbids.
        if not self._execution.execute_async_v3(self._stream.handle):
            raise EngineError("TensorRT refused to be captured")

    def free(self) -> None:
        """Free the graph and the context."""
        if self._graph is not None:
            self._graph.free()
        self._graph = self._execution = None


class GrowingOutput:
    """Memory for an output whose size depends on the data; it grows as needed and is kept."""

    def __init__(self, device: CudaDevice, memory: MemoryKind, dtype: np.dtype[Any]) -> None:
        self._device = device
        self._memory: MemoryKind = memory
        self._dtype = dtype
        self._buffer: Buffer | None = None
        self._outgrown: list[Buffer] = []  # freed after the run: freeing waits for the GPU
        self.shape: tuple[int, ...] = ()  # of the last run

    def reserve(self, size_bytes: int) -> int:
        """Return an address with room for `size_bytes`; 0, if there is none, makes TensorRT fail the run."""
        if self._buffer is None or size_bytes > self._buffer.host.nbytes:
            try:
                larger = self._device.make_buffer((max(size_bytes, 1),), np.uint8, self._memory)
            except EngineError:
                log.exception("no room for an output of %d bytes", size_bytes)
                return 0
            if self._buffer is not None:
                self._outgrown.append(self._buffer)
            self._buffer = larger
        return self._buffer.address

    def fetch(self, stream: Any) -> NDArray[Any]:
        """Return the output of the last run; OVERWRITTEN by the next."""
        while self._outgrown:
            self._outgrown.pop().free()
        if self._buffer is None or 0 in self.shape:
            return np.empty(self.shape, self._dtype)
        size_bytes = math.prod(self.shape) * self._dtype.itemsize
        array = self._buffer.host[:size_bytes].view(self._dtype).reshape(self.shape)
        if self._buffer.is_copied:
            self._device.download(array, self._buffer.address, stream)
            stream.synchronize()
        return array

    def free(self) -> None:
        """Free the memory."""
        for buffer in (*self._outgrown, *([self._buffer] if self._buffer else [])):
            buffer.free()
        self._outgrown, self._buffer = [], None


@lru_cache(maxsize=4)
def _allocator_class(trt: Any) -> Any:
    """Define the allocator's class, whose base exists only once the library is loaded."""

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc]  # the base is Any
        """Provides memory once TensorRT knows how much it needs; the parameters are TensorRT's."""

        def __init__(self, output: GrowingOutput) -> None:
            trt.IOutputAllocator.__init__(self)
            self._output = output

        def reallocate_output(self, _name: str, _memory: int, size: int, _alignment: int) -> int:
            return self._output.reserve(size)

        def reallocate_output_async(self, _name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            return self._output.reserve(size)

        def notify_shape(self, _name: str, shape: Any) -> None:
            self._output.shape = tuple(shape)

    return Allocator
