"""An execution context of TensorRT: runs an engine at the addresses that it is given."""

from __future__ import annotations

import itertools
import math
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from emulation.bound import Alone, Bound, Dims, ILogger, IOutputAllocator, IProfiler, Level, require_made, tell
from emulation.errors import Code, CudaFailure
from emulation.machine import machine
from emulation.memory import Memory, Region
from emulation.network import NUMPY, Tensor
from emulation.streams import Operation, Stream

if TYPE_CHECKING:
    from emulation.runtime import ICudaEngine

_ALIGNMENT = 256
_SHAPE = "IExecutionContext::setInputShape: Error Code 3: API Usage Error"
_ENQUEUE = "IExecutionContext::enqueueV3:"
_serials = itertools.count(1)


def scratch_bytes(shapes: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Tensor]) -> int:
    """Return a need of device memory that grows with the inputs; what it really takes, only a real builder knows."""
    need = sum(math.prod(shape) * NUMPY[tensors[name].dtype].itemsize for name, shape in shapes.items())
    return -(-2 * need // _ALIGNMENT) * _ALIGNMENT


class IExecutionContext(Bound):
    """Runs an engine, for one thread at a time."""

    name = ""
    error_recorder: Any = None
    debug_sync = False
    enqueue_emits_profile = True
    persistent_cache_limit = 0
    nvtx_verbosity: Any = None

    def __init__(self) -> None:
        raise TypeError("tensorrt.IExecutionContext: No constructor defined!")

    @classmethod
    def _make(cls, engine: ICudaEngine, scratch: Region | None) -> IExecutionContext:
        context: IExecutionContext = object.__new__(cls)
        context._engine = engine
        context._logger = engine._logger
        context._memory = machine.memory
        context._scratch = scratch
        context._given_scratch = None
        context._alone = Alone("an execution context")
        context._profiler = None
        context._profile = 0
        context._shapes = {each.name: each.shape for each in engine._model.inputs if -1 not in each.shape}
        context._addresses = {}
        context._allocators = {}
        context._state = 0
        context._warm_state = -1
        context._last_ms = None
        context._failed_output = ""
        context._serial = next(_serials)
        return context

    _engine: ICudaEngine
    _logger: ILogger
    _memory: Memory
    _scratch: Region | None
    _given_scratch: tuple[int, int] | None
    _alone: Alone
    _profiler: IProfiler | None
    _profile: int
    _shapes: dict[str, tuple[int, ...]]
    _addresses: dict[str, int]
    _allocators: dict[str, IOutputAllocator]
    _state: int  # counts the changes: a graph is good for the state that it was captured in
    _warm_state: int  # the one that was run last
    _last_ms: float | None
    _failed_output: str
    _serial: int

    def __del__(self) -> None:
        scratch = getattr(self, "_scratch", None)
        if scratch is not None and not sys.is_finalizing():
            self._memory.free(scratch)

    @property
    def engine(self) -> ICudaEngine:
        return self._engine

    @property
    def active_optimization_profile(self) -> int:
        return self._profile

    @property
    def profiler(self) -> IProfiler | None:
        return self._profiler

    @profiler.setter
    def profiler(self, profiler: IProfiler) -> None:
        require_made(profiler, IProfiler)
        self._profiler = profiler

    @property
    def all_binding_shapes_specified(self) -> bool:
        return not self._open_inputs()

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        with self._alone:
            machine.stream(stream_handle)
            if not 0 <= profile_index < self._engine.num_optimization_profiles:
                raise RuntimeError("Error in set optimization profile async.")
            if profile_index != self._profile:
                self._profile = profile_index
                self._shapes = {each.name: each.shape for each in self._engine._model.inputs if -1 not in each.shape}
                self._state += 1
            return True

    def set_input_shape(self, name: str, shape: Any) -> bool:
        """Take a shape that lies within the profile; False, and a line for the log, else."""
        with self._alone:
            wanted = tuple(int(size) for size in shape)
            if reason := self._misfit(name, wanted):
                return self._refuse(f"{_SHAPE} ({reason})")
            if self._shapes.get(name) != wanted:
                self._shapes[name] = wanted
                self._state += 1
            return True

    def _misfit(self, name: str, wanted: tuple[int, ...]) -> str:
        """Return why an input cannot have a shape."""
        known = {each.name: each for each in self._engine._model.inputs}
        if name not in known:
            return f"Parameter check failed, condition: engineHasInput(name). {name} is no input of the engine."
        shape = known[name].shape
        fixed = [(axis, size) for axis, size in enumerate(shape) if size >= 0]
        if len(shape) != len(wanted) or any(wanted[axis] != size for axis, size in fixed):
            return (
                f"Static dimension mismatch while setting input shape for {name}. Set dimensions are {list(wanted)}. "
                f"Expected dimensions are {list(shape)}."
            )
        low, _, high = self._engine._extremes(name, self._profile)
        if any(not small <= size <= large for size, small, large in zip(wanted, low, high, strict=True)):
            return (
                f"Set dimension {list(wanted)} for tensor {name} does not satisfy any optimization profiles. Valid "
                f"range for profile {self._profile}: {list(low)}..{list(high)}."
            )
        return ""

    def get_tensor_shape(self, name: str) -> Dims:
        """Return the shape as far as it is known; -1 where it depends on what is computed."""
        with self._alone:
            tensor = self._engine._tensor(name)
            if name in self._shapes:
                return Dims(self._shapes[name])
            if self._open_inputs() or any(each.name == name for each in self._engine._model.inputs):
                return Dims(tensor.shape)
            return Dims(self._output_shape(name))

    def _output_shape(self, name: str) -> tuple[int, ...]:
        by_data = self._engine._plan.by_data.get(name, [])
        shape = self._engine._computation.output_shapes(self._shapes)[name]
        return tuple(-1 if axis in by_data else size for axis, size in enumerate(shape))

    def infer_shapes(self) -> list[str]:
        with self._alone:
            missing = self._open_inputs()
            if not missing:
                try:
                    self._engine._computation.output_shapes(self._shapes)
                except Exception as error:  # noqa: BLE001 -- as below
                    raise RuntimeError(f"Shape inference failed: {error}") from None
            return missing

    def _open_inputs(self) -> list[str]:
        return [each.name for each in self._engine._model.inputs if each.name not in self._shapes]

    def get_max_output_size(self, name: str) -> int:
        """Return the bytes of an output; -1 where it is not known how large it may become."""
        with self._alone:
            if self._open_inputs():
                return -1
            shape = self._output_shape(name)
            return -1 if -1 in shape else math.prod(shape) * NUMPY[self._engine._tensor(name).dtype].itemsize

    def update_device_memory_size_for_shapes(self) -> int:
        with self._alone:
            return 0 if self._open_inputs() else scratch_bytes(self._shapes, self._engine._tensors)

    def set_device_memory(self, memory: int, size: int) -> None:
        with self._alone:
            if self._scratch is not None:
                machine.misuse("device memory was given to an execution context that allocates its own")
            if memory % _ALIGNMENT:
                machine.misuse(f"device memory at {memory:#x} is not aligned to {_ALIGNMENT} bytes")
            if self._given_scratch != (memory, size):
                self._given_scratch = (memory, size)
                self._state += 1

    def set_tensor_address(self, name: str, memory: int) -> bool:
        with self._alone:
            self._engine._tensor(name)
            if self._addresses.get(name) != memory:
                self._addresses[name] = int(memory)
                self._state += 1
            return True

    def get_tensor_address(self, name: str) -> int:
        return self._addresses.get(name, 0)

    def set_output_allocator(self, name: str, output_allocator: IOutputAllocator | None) -> bool:
        with self._alone:
            self._engine._tensor(name)
            if output_allocator is None:
                self._allocators.pop(name, None)
            else:
                require_made(output_allocator, IOutputAllocator)
                self._allocators[name] = output_allocator
            self._state += 1
            return True

    def get_output_allocator(self, name: str) -> IOutputAllocator | None:
        return self._allocators.get(name)

    def set_input_consumed_event(self, event: int) -> bool:
        raise NotImplementedError("the emulation has no events by handle")

    def execute_async_v3(self, stream_handle: int) -> bool:
        """Queue a run; False, and a line for the log, where it is refused."""
        with self._alone:
            stream = machine.stream(stream_handle)
            try:
                machine.count_enqueue()
                if reason := self._unready():
                    return self._refuse(f"{_ENQUEUE} Error Code 3: API Usage Error ({reason})")
                if stream.capture is None:
                    return self._enqueue(stream)
                self._record(stream)
            except CudaFailure as failure:
                return self._refuse(f"{_ENQUEUE} Error Code 1: Cuda Runtime ({failure.code.text})")
            return True

    def _unready(self) -> str:
        """Return what is missing."""
        if missing := self._open_inputs():
            return f"Parameter check failed, condition: allInputDimensionsSpecified(): {missing[0]} has no shape."
        if reason := self._unplaced():
            return f"{reason} before enqueue/execute."
        need = scratch_bytes(self._shapes, self._engine._tensors)
        if self._scratch is None and (self._given_scratch is None or self._given_scratch[1] < need):
            return f"{need} bytes of device memory are needed and were not set."
        try:
            if not machine.controls.zero_cost:
                self._engine._computation.output_shapes(self._shapes)
        except Exception as error:  # noqa: BLE001 -- ONNX Runtime's exceptions have no common type of their own
            return str(error).replace("\n", " ")
        return ""

    def _unplaced(self) -> str:
        """Return which tensor has no address."""
        for each in self._engine._model.inputs:
            if not self._addresses.get(each.name):
                return (
                    f"Address is not set for input tensor {each.name}. Call setInputTensorAddress or setTensorAddress"
                )
        for each in self._engine._model.outputs:
            if not self._addresses.get(each.name) and each.name not in self._allocators:
                return (
                    f"Neither address or allocator is set for output tensor {each.name}. Call setOutputTensorAddress, "
                    "setTensorAddress or setOutputAllocator"
                )
        return ""

    def _enqueue(self, stream: Stream) -> bool:
        operation = self._operation()
        machine.check_alone(stream, operation)
        stream.put(operation)
        self._warm_state = self._state
        reports = self._profiler is not None and self.enqueue_emits_profile
        if self._allocators or reports:  # these wait for the GPU
            stream.drain()
            machine.check()
            if self._failed_output:
                return self._refuse(f"{_ENQUEUE} Error Code 1: {self._failed_output}")
        if reports:
            self._report()
        return True

    def _record(self, stream: Stream) -> None:
        """Give the run to a capture: not the first one since a change, nor one that must wait for the GPU."""
        assert stream.capture is not None
        if self._warm_state != self._state or self._allocators:
            stream.capture.valid = False
            raise CudaFailure(Code.CAPTURE_UNSUPPORTED)
        stream.put(self._operation())

    def _operation(self) -> Operation:
        """Return the run with the shapes and addresses of now."""
        state, reference = self._state, weakref.ref(self)

        def check() -> None:
            context = reference()
            if context is None:
                machine.misuse("a CUDA graph was launched after its execution context was destroyed")
            if context._state != state:
                machine.misuse("a CUDA graph was launched after shapes or addresses of its execution context changed")

        holds: tuple[str, ...] = (f"execution context {self._serial}",)
        if self._given_scratch is not None:
            holds = (*holds, f"the device memory at {self._given_scratch[0]:#x}")
        return Operation(self._run_of(dict(self._shapes), dict(self._addresses)), "an execution", check, holds)

    def _run_of(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> Callable[[], None]:
        """Return what the GPU does: it reads and writes the addresses of now."""
        reference = weakref.ref(self)

        def run() -> None:
            context = reference()
            if context is None:
                machine.misuse("an execution context was destroyed before its work was done")
            context._compute(shapes, addresses)

        return run

    def _compute(self, shapes: dict[str, tuple[int, ...]], addresses: dict[str, int]) -> None:
        started = time.perf_counter()
        controls = machine.controls
        if controls.run_seconds:
            time.sleep(controls.run_seconds)
        if not controls.zero_cost:
            if self._given_scratch is not None:
                machine.memory.of_device(*self._given_scratch)
            inputs = {name: self._at(name, addresses[name], shape).reshape(shape) for name, shape in shapes.items()}
            for name, array in self._engine._computation.run(inputs).items():
                self._write(name, addresses, _spoilt(array))
        self._last_ms = (time.perf_counter() - started) * 1e3

    def _at(self, name: str, address: int, shape: tuple[int, ...]) -> NDArray[Any]:
        dtype = NUMPY[self._engine._tensor(name).dtype]
        return machine.memory.of_device(address, math.prod(shape) * dtype.itemsize).view(dtype)

    def _write(self, name: str, addresses: dict[str, int], array: NDArray[Any]) -> None:
        self._failed_output = ""
        address = addresses.get(name, 0)
        if name in self._allocators:
            address = self._grow(name, address, array)
        if array.size and address:
            self._at(name, address, array.shape)[:] = array.ravel()

    def _grow(self, name: str, address: int, array: NDArray[Any]) -> int:
        """Ask the program for memory, and tell it the shape."""
        allocator: Any = self._allocators[name]
        size = max(array.nbytes, 1)
        if hasattr(allocator, "reallocate_output_async"):
            address = allocator.reallocate_output_async(name, address, size, _ALIGNMENT, 0)
        else:
            address = allocator.reallocate_output(name, address, size, _ALIGNMENT)
        if not address:
            self._failed_output = f"Memory allocation failed for output {name} ({size} bytes)"
            return 0
        allocator.notify_shape(name, Dims(array.shape))
        return int(address)

    def report_to_profiler(self) -> bool:
        with self._alone:
            if self._profiler is None or self._last_ms is None:
                return False
            self._report()
            return True

    def _report(self) -> None:
        assert self._profiler is not None
        fused = self._engine._fused
        for layer in fused:
            self._profiler.report_layer_time(layer.name, (self._last_ms or 0.0) / len(fused))

    def _refuse(self, text: str) -> bool:
        tell(self._logger, Level.ERROR, text)
        return False


def _spoilt(array: NDArray[Any]) -> NDArray[Any]:
    """Return an output as the test wants it."""
    controls = machine.controls
    if array.dtype.kind != "f" or (controls.output_factor == 1.0 and not controls.output_nan):
        return array
    return np.full_like(array, np.nan) if controls.output_nan else array * array.dtype.type(controls.output_factor)
