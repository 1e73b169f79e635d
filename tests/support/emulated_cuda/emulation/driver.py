"""What `pycuda.driver` offers, over the emulated machine."""
# ruff: noqa: ARG002, N801 -- names and parameters are the real library's

from __future__ import annotations

import enum
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import DTypeLike, NDArray

from emulation import streams
from emulation.compiled import load_letterbox
from emulation.contexts import (
    Context,
    Dependent,
    Error,
    LaunchError,
    LogicError,
    MemoryError,  # noqa: A004 -- pycuda's name
    RuntimeError,  # noqa: A004 -- pycuda's name
    pycuda_error,
    routine,
)
from emulation.errors import Code, CudaFailure
from emulation.machine import machine
from emulation.memory import Memory, Region
from emulation.streams import Operation

__all__ = [
    "Context",
    "Device",
    "DeviceAllocation",
    "Error",
    "Event",
    "Function",
    "LaunchError",
    "LogicError",
    "MemoryError",
    "Module",
    "RuntimeError",
    "Stream",
    "aligned_empty",
    "ctx_flags",
    "device_attribute",
    "event_flags",
    "get_driver_version",
    "get_version",
    "host_alloc_flags",
    "init",
    "mem_alloc",
    "mem_get_info",
    "mem_host_register_flags",
    "memcpy_dtoh_async",
    "memcpy_htod_async",
    "module_from_buffer",
    "module_from_file",
    "pagelocked_empty",
    "pagelocked_zeros",
    "register_host_memory",
]


class device_attribute(enum.IntEnum):
    """Those that the emulation can answer, with the numbers of cuda.h."""

    MULTIPROCESSOR_COUNT = 16
    INTEGRATED = 18
    CAN_MAP_HOST_MEMORY = 19
    UNIFIED_ADDRESSING = 41
    COMPUTE_CAPABILITY_MAJOR = 75
    COMPUTE_CAPABILITY_MINOR = 76
    STREAM_PRIORITIES_SUPPORTED = 78
    MANAGED_MEMORY = 83
    PAGEABLE_MEMORY_ACCESS = 88
    CONCURRENT_MANAGED_ACCESS = 89


class ctx_flags(enum.IntEnum):
    SCHED_AUTO = 0
    SCHED_SPIN = 1
    SCHED_YIELD = 2
    SCHED_BLOCKING_SYNC = 4
    BLOCKING_SYNC = 4
    SCHED_MASK = 7
    MAP_HOST = 8


class event_flags(enum.IntEnum):
    DEFAULT = 0
    BLOCKING_SYNC = 1
    DISABLE_TIMING = 2
    INTERPROCESS = 4


class host_alloc_flags:
    PORTABLE = 1
    DEVICEMAP = 2
    WRITECOMBINED = 4


class mem_host_register_flags:
    PORTABLE = 1
    DEVICEMAP = 2


def init(flags: int = 0) -> None:
    try:
        machine.check()
    except CudaFailure as failure:
        raise pycuda_error("cuInit", failure.code) from None
    machine.is_initialised = True


def get_version() -> tuple[int, int, int]:
    version = machine.facts.driver_version
    return version // 1000, version % 1000 // 10, version % 10


@routine("cuDriverGetVersion", needs_context=False)
def get_driver_version() -> int:
    return machine.facts.driver_version


class Device:
    """The one device of the machine."""

    @routine("cuDeviceGet", needs_context=False)
    def __init__(self, number: int) -> None:
        if number != 0:
            raise CudaFailure(Code.INVALID_DEVICE)

    @staticmethod
    @routine("cuDeviceGetCount", needs_context=False)
    def count() -> int:
        return 1

    @routine("cuDeviceGetName", needs_context=False)
    def name(self) -> str:
        return machine.facts.name

    @routine("cuDeviceComputeCapability", needs_context=False)
    def compute_capability(self) -> tuple[int, int]:
        return machine.facts.compute_capability

    @routine("cuDeviceTotalMem", needs_context=False)
    def total_memory(self) -> int:
        return machine.controls.memory_bytes or machine.facts.memory_bytes

    @routine("cuDeviceGetAttribute", needs_context=False)
    def get_attribute(self, attribute: device_attribute) -> int:
        facts = machine.facts
        answers = {
            device_attribute.MULTIPROCESSOR_COUNT: facts.sm_count,
            device_attribute.INTEGRATED: int(facts.integrated),
            device_attribute.CAN_MAP_HOST_MEMORY: 1,
            device_attribute.UNIFIED_ADDRESSING: 1,
            device_attribute.COMPUTE_CAPABILITY_MAJOR: facts.compute_capability[0],
            device_attribute.COMPUTE_CAPABILITY_MINOR: facts.compute_capability[1],
            device_attribute.STREAM_PRIORITIES_SUPPORTED: 1,
            device_attribute.MANAGED_MEMORY: 1,
            device_attribute.PAGEABLE_MEMORY_ACCESS: int(facts.pageable_access),
            device_attribute.CONCURRENT_MANAGED_ACCESS: int(facts.pageable_access or not facts.integrated),
        }
        return answers[device_attribute(attribute)]

    @routine("cuDevicePrimaryCtxRetain", needs_context=False)
    def retain_primary_context(self) -> Context:
        return Context._retain()


class Stream(Dependent):
    """A queue; `flags` 1 keeps it out of the order of stream 0."""

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._queue = _make_stream()

    @property
    def handle(self) -> int:
        return self._queue.handle

    @routine("cuStreamSynchronize")
    def synchronize(self) -> None:
        with self._queue.invalidating():
            self._queue.drain()
        machine.check()

    @routine("cuStreamQuery")
    def is_done(self) -> bool:
        with self._queue.invalidating():
            done = self._queue.done == self._queue.queued
        if not done:
            self._queue.try_drain()
        return done

    @routine("cuStreamWaitEvent")
    def wait_for_event(self, event: Event) -> None:
        event._event.hold_up(self._queue)

    def __del__(self) -> None:
        if hasattr(self, "_queue") and not sys.is_finalizing():
            self._give_back("stream", lambda: machine.drop_stream(self._queue))


@routine("cuStreamCreate")
def _make_stream() -> streams.Stream:
    return machine.add_stream()


def _queue_of(stream: Stream | None) -> streams.Stream:
    return machine.stream(0 if stream is None else stream.handle)


class Event(Dependent):
    """A place in a stream."""

    def __init__(self, flags: int = 0) -> None:
        super().__init__()
        self._event = streams.Event(int(flags))

    @routine("cuEventRecord")
    def record(self, stream: Stream | None = None) -> Event:
        self._event.record(_queue_of(stream))
        return self

    @routine("cuEventSynchronize")
    def synchronize(self) -> Event:
        self._event.wait()
        machine.check()
        return self

    @routine("cuEventQuery")
    def query(self) -> bool:
        return self._event.is_reached()

    @routine("cuEventElapsedTime")
    def time_since(self, start: Event) -> float:
        return self._event.milliseconds_since(start._event)

    @routine("cuEventElapsedTime")
    def time_till(self, end: Event) -> float:
        return end._event.milliseconds_since(self._event)

    def __del__(self) -> None:
        if hasattr(self, "_event") and not sys.is_finalizing():
            self._give_back("event", lambda: None)


class _Allocation(Dependent):
    """A region of memory that is given back once."""

    _kind = "device_allocation"

    def __init__(self, take: Callable[[Memory], Region]) -> None:
        super().__init__()
        self._memory = machine.memory
        self._region = take(self._memory)
        self._is_free = False

    def _free(self) -> None:
        if self._is_free:
            raise pycuda_error(f"{self._kind}::free", Code.INVALID_HANDLE)
        self._is_free = True
        self._give_back(self._kind, self._release)

    def _release(self) -> None:
        machine.drain()  # the driver waits for what may still use it
        self._memory.free(self._region)

    def __del__(self) -> None:
        if not getattr(self, "_is_free", True) and not sys.is_finalizing():
            self._free()


class DeviceAllocation(_Allocation):
    """Memory that only the GPU sees; as a number, its address."""

    def __int__(self) -> int:
        return self._region.address

    def __index__(self) -> int:
        return self._region.address

    def free(self) -> None:
        self._free()


class HostPointer(_Allocation):
    """Memory of the host that the GPU may see too."""

    @routine("cuMemHostGetDevicePointer")
    def get_device_pointer(self) -> int:
        if not self._region.mapped:
            raise CudaFailure(Code.INVALID_VALUE)
        return self._region.address

    def _array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        self.__array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": dtype.str,
            "data": (self._region.address, False),
        }
        return np.asarray(cast("Any", self))


class PagelockedHostAllocation(HostPointer):
    _kind = "pagelocked_host_allocation"

    def free(self) -> None:
        self._free()

    @routine("cuMemHostGetFlags")
    def get_flags(self) -> int:
        return host_alloc_flags.DEVICEMAP if self._region.mapped else 0


class RegisteredHostMemory(HostPointer):
    _kind = "host_allocation"

    def unregister(self) -> None:
        self._free()


@routine("cuMemAlloc")
def mem_alloc(size: int) -> DeviceAllocation:
    machine.refuse_while_capturing()
    return DeviceAllocation(lambda memory: memory.allocate(int(size), "device"))


@routine("cuMemHostAlloc")
def pagelocked_empty(
    shape: int | tuple[int, ...], dtype: DTypeLike, order: str = "C", mem_flags: int = 0
) -> NDArray[Any]:
    machine.refuse_while_capturing()
    if order != "C":
        machine.misuse(f"pagelocked memory in the order {order!r} is not emulated")
    shape, wanted = _shape(shape), np.dtype(dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    mapped = bool(mem_flags & host_alloc_flags.DEVICEMAP)
    allocation = PagelockedHostAllocation(lambda memory: memory.allocate(size, "pinned", mapped=mapped))
    return allocation._array(shape, wanted)


def pagelocked_zeros(
    shape: int | tuple[int, ...], dtype: DTypeLike, order: str = "C", mem_flags: int = 0
) -> NDArray[Any]:
    array = pagelocked_empty(shape, dtype, order, mem_flags)
    array.fill(0)
    return array


def aligned_empty(
    shape: int | tuple[int, ...], dtype: DTypeLike, order: str = "C", alignment: int = 4096
) -> NDArray[Any]:
    shape, wanted = _shape(shape), np.dtype(dtype)
    size = int(np.prod(shape)) * wanted.itemsize
    room = np.empty(size + alignment - 1, np.uint8)
    start = -room.ctypes.data % alignment
    return room[start : start + size].view(wanted).reshape(shape)


def register_host_memory(ary: NDArray[Any], flags: int = 0) -> NDArray[Any]:
    """Refuse it: pycuda 2026.1 sets the base of an array that has one, and crashes (seen with NumPy 1.26 and 2.4)."""
    machine.misuse("pycuda's register_host_memory crashes the process: use cudaHostRegister of cuda-bindings")


@routine("cuMemGetInfo")
def mem_get_info() -> tuple[int, int]:
    memory = machine.memory
    return memory.limit_bytes - memory.used_bytes, memory.limit_bytes


@routine("cuMemcpyHtoDAsync")
def memcpy_htod_async(dest: int, src: NDArray[Any], stream: Stream | None = None) -> None:
    _copy(int(dest), src, stream, upwards=True)


@routine("cuMemcpyDtoHAsync")
def memcpy_dtoh_async(dest: NDArray[Any], src: int, stream: Stream | None = None) -> None:
    if not dest.flags.writeable:
        raise BufferError("buffer source array is read-only")
    _copy(int(src), dest, stream, upwards=False)


def _copy(address: int, array: NDArray[Any], stream: Stream | None, *, upwards: bool) -> None:
    """Queue a copy; the addresses are checked now, and again when it runs."""
    if not array.flags.forc:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    host, size, memory = array.ctypes.data, array.nbytes, machine.memory
    if memory.room_at(address) < size:
        raise CudaFailure(Code.INVALID_VALUE)
    if not memory.is_pagelocked(host, size):
        machine.misuse("an asynchronous copy from or to memory that is not pagelocked: the driver would wait for it")

    def run() -> None:
        if not memory.is_pagelocked(host, size):
            raise CudaFailure(Code.ILLEGAL_ADDRESS)
        near, far = memory.of_host(host, size), memory.of_device(address, size)
        (far if upwards else near)[:] = near if upwards else far

    queue = _queue_of(stream)
    queue.put(Operation(run, "a copy"))


def _shape(shape: int | tuple[int, ...]) -> tuple[int, ...]:
    return (shape,) if isinstance(shape, int) else tuple(int(each) for each in shape)


class Module(Dependent):
    """Compiled code: which kernels are in it, the test says."""

    def get_function(self, name: str) -> Function:
        return Function._find(name)

    def __del__(self) -> None:
        if hasattr(self, "_ward") and not sys.is_finalizing():
            self._give_back("module", lambda: None)


@routine("cuModuleLoad")
def module_from_file(filename: str) -> Module:
    machine.refuse_while_capturing()
    if not Path(filename).exists():
        raise CudaFailure(Code.FILE_NOT_FOUND, filename)
    return Module()


@routine("cuModuleLoadDataEx")
def module_from_buffer(buffer: bytes, options: list[Any] | None = None, message_handler: Any = None) -> Module:
    machine.refuse_while_capturing()
    if not buffer:
        raise CudaFailure(Code.INVALID_IMAGE)
    return Module()


_MAX_THREADS_A_BLOCK = 1024
_AXES = 3


class Function:
    """A kernel: a function of the test's, called with grid, block and the arguments."""

    def __init__(self) -> None:
        raise TypeError("This class cannot be instantiated from Python")

    @classmethod
    @routine("cuModuleGetFunction")
    def _find(cls, name: str) -> Function:
        if name == "letterbox" and machine.controls.letterbox_library:
            machine.kernels.setdefault(name, load_letterbox(Path(machine.controls.letterbox_library)))
        if name not in machine.kernels:
            raise CudaFailure(Code.NOT_FOUND)
        function = object.__new__(cls)
        function._name = name
        function._kernel = machine.kernels[name]
        return function

    _name: str
    _kernel: Callable[..., None]
    arg_format: str

    def prepare(self, arg_types: Any, texrefs: Any = None) -> Function:
        self.arg_format = "".join(each if isinstance(each, str) else np.dtype(each).char for each in arg_types)
        return self

    @routine("cuLaunchKernel")
    def prepared_async_call(
        self, grid: tuple[int, ...], block: tuple[int, ...], stream: Stream | None, *args: Any, shared_size: int = 0
    ) -> None:
        if len(args) != len(self.arg_format):
            raise TypeError(f"pack requires exactly {len(self.arg_format)} arguments")
        if len(grid) > _AXES or len(block) > _AXES or np.prod(block) > _MAX_THREADS_A_BLOCK or min(*grid, *block) < 1:
            raise CudaFailure(Code.INVALID_VALUE)
        numbers = [each if isinstance(each, float) else int(each) for each in args]
        for address, character in zip(numbers, self.arg_format, strict=True):
            if character == "P" and not machine.memory.room_at(int(address)):
                machine.misuse(f"the kernel {self._name} was given {address:#x}, which is no memory of the GPU")
        sizes = [(*axes, 1, 1)[:_AXES] for axes in (grid, block)]
        _queue_of(stream).put(Operation(lambda: self._kernel(*sizes, *numbers), f"the kernel {self._name}"))
