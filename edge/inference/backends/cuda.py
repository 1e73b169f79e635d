"""CUDA behind a few nouns: device, stream, event, buffer, graph, kernel. The one file that knows its Python bindings.

pycuda does the work, on the device's primary context, which TensorRT and ONNX Runtime use too. cuda-bindings, where it
is installed, adds what pycuda lacks: CUDA graphs, on the same context and the same streams.

A thread that calls anything here does so inside `with device.active():`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import mmap
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import DTypeLike, NDArray

from edge.core.errors import EngineError, GpuLostError, GpuMemoryError
from edge.inference.backends.cuda_runtime import checked, graphs_work, load_cudart

log = logging.getLogger(__name__)

MemoryKind = Literal["mapped", "registered", "pinned"]
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered with the stream 0 of other libraries


@dataclass(frozen=True)
class Gpu:
    """One GPU, as its attributes tell."""

    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_bytes: int
    cuda_version: str  # of the driver: "12.6"
    integrated: bool  # shares its memory with the CPU
    pageable_access: bool  # reads ordinary memory of the CPU coherently (Thor)

    @property
    def architecture(self) -> str:
        """The name that compilers give it: `sm_87`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"


@functools.lru_cache(maxsize=1)
def open_device() -> CudaDevice:
    """Open the first GPU, once in a process; raise EngineError in one sentence where there is none."""
    try:
        from pycuda import driver  # noqa: PLC0415 -- there only with the extra `jetson`
    except ImportError as error:
        raise EngineError(
            f"no GPU can be used: pycuda cannot be imported ({error}); install it with `pip install "
            "'edge-runtime[jetson]'`"
        ) from None
    try:
        driver.init()
        return CudaDevice(driver, driver.Device(0))
    except driver.Error as error:
        raise EngineError(f"no GPU can be used: {error}; wanted a working NVIDIA driver and a device") from None


def find_gpu() -> Gpu:
    """Return what is known of the GPU; raise EngineError where there is none."""
    return open_device().gpu


class CudaDevice:
    """A GPU and its primary context."""

    def __init__(self, driver: Any, device: Any) -> None:
        self._driver = driver
        self._context = device.retain_primary_context()
        self._kernels: dict[Path, Kernel] = {}
        self.gpu = _describe(driver, device)

    @contextlib.contextmanager
    def active(self) -> Iterator[None]:
        """Make the device's context the current one of this thread; raise GpuLostError where that cannot be."""
        try:
            self._context.push()
        except self._driver.Error as error:
            raise GpuLostError(f"the GPU is lost ({error}); only a new process can use it again") from error
        try:
            yield
        finally:
            with contextlib.suppress(self._driver.Error):  # a lost GPU is told by what was done in between
                self._driver.Context.pop()

    def memory_kind(self) -> MemoryKind:
        """Return how host and GPU share buffers best on this device.

        On Orin the GPU reads mapped host memory as fast as its own, past its cache, so what is read once needs no copy.
        Thor reads ordinary memory through its caches. A GPU with memory of its own gets a copy from pinned memory.
        """
        if not self.gpu.integrated:
            return "pinned"
        return "registered" if self.gpu.pageable_access and graphs_work() else "mapped"

    def make_stream(self) -> Any:
        """Make a stream (`handle`); never stream 0, which would order it with all others."""
        return self._driver.Stream(_NON_BLOCKING)

    def make_event(self, *, spin: bool) -> Any:
        """Make an event with a time stamp; waiting for it sleeps, or with `spin` keeps a core busy and wakes sooner."""
        return self._driver.Event(0 if spin else self._driver.event_flags.BLOCKING_SYNC)

    def make_buffer(self, shape: tuple[int, ...], dtype: DTypeLike, kind: MemoryKind) -> Buffer:
        """Allocate memory that the host fills or reads and the GPU reads or writes."""
        driver = self._driver
        with self.translated(f"allocating {_size_bytes(shape, dtype)} bytes"):
            if kind == "registered":
                return _Registered(shape, dtype)
            if kind == "mapped":
                return _Mapped(driver, shape, dtype)
            return _Copied(driver, shape, dtype)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate memory that only the GPU sees."""
        with self.translated(f"allocating {size_bytes} bytes"):
            return DeviceMemory(self._driver.mem_alloc(max(size_bytes, 1)))

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Queue a copy to the GPU."""
        self._driver.memcpy_htod_async(address, array, stream)

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the GPU."""
        self._driver.memcpy_dtoh_async(array, address, stream)

    def load_kernel(self, path: Path, name: str) -> Kernel:
        """Load a compiled kernel that takes two addresses, once; raise EngineError where it does not fit the GPU."""
        if path not in self._kernels:
            with self.translated(f"loading the kernel {path.name}"):
                self._kernels[path] = Kernel(self._driver.module_from_file(str(path)), name)
        return self._kernels[path]

    def free_memory_bytes(self) -> int:
        """Return how much the driver calls free; on a board that is shared with the CPU."""
        free, _ = self._driver.mem_get_info()
        return int(free)

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn an error of CUDA into one of ours; `doing` completes "failed while …"."""
        try:
            yield
        except self._driver.Error as error:
            let_go(error)
            raise self.failure(error, doing) from error
        except EngineError as error:
            let_go(error)
            raise

    @property
    def error_type(self) -> type[Exception]:
        """What pycuda raises."""
        error: type[Exception] = self._driver.Error
        return error

    def failure(self, error: object, doing: str) -> EngineError:
        """Return the error of ours for a failure of CUDA or TensorRT.

        An error of a kernel stays in its context for ever and every later call fails with it (cuda.h: "the process must
        be terminated and relaunched"), so a context that cannot even be waited for is lost.
        """
        if isinstance(error, self._driver.MemoryError):
            return GpuMemoryError(
                f"the GPU ran out of memory while {doing} ({error}); use a smaller max_batch or lanes"
            )
        try:
            self._driver.Context.synchronize()
        except self._driver.Error as lasting:
            return GpuLostError(f"the GPU is lost while {doing} ({lasting}); only a new process can use it again")
        return EngineError(f"the GPU failed while {doing} ({error})")


def let_go(error: BaseException | None) -> None:
    """Drop what the frames of an error hold, while the device is active: pycuda frees nothing when it is not."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Buffer:
    """Memory with two faces: `host` is the array, `address` what the GPU is given."""

    host: NDArray[Any]
    address: int
    is_copied: bool  # else both faces are the same memory

    def free(self) -> None:
        """Give the memory back; `host` must not be used any more."""
        raise NotImplementedError


class _Mapped(Buffer):
    is_copied = False

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        memory = driver.pagelocked_empty(
            _size_bytes(shape, dtype), np.uint8, mem_flags=driver.host_alloc_flags.DEVICEMAP
        )
        self._allocation = _allocation(memory)
        self.host = _zeroed(memory, shape, dtype)
        self.address = int(self._allocation.get_device_pointer())

    def free(self) -> None:
        self._allocation.free()


class _Registered(Buffer):
    """By cuda-bindings: `register_host_memory` of pycuda 2026.1 crashes the process."""

    is_copied = False

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        cudart = load_cudart()
        if cudart is None:
            raise EngineError(
                "memory is set to registered, which takes cuda-bindings, and that is not installed (docs/jetson.md); "
                "install it, or set memory to mapped"
            )
        self._cudart = cudart
        size_bytes = _size_bytes(shape, dtype)
        room = np.empty(size_bytes + mmap.PAGESIZE, np.uint8)
        start = -room.ctypes.data % mmap.PAGESIZE  # whole pages are registered
        self._pages = room[start : start + size_bytes]
        self.host = _zeroed(self._pages, shape, dtype)
        begin = self._pages.ctypes.data
        registered = cudart.cudaHostRegister(begin, size_bytes, cudart.cudaHostRegisterMapped)
        checked(registered, f"registering {size_bytes} bytes")
        self.address = int(checked(cudart.cudaHostGetDevicePointer(begin, 0), "asking for a device address"))

    def free(self) -> None:
        self._cudart.cudaHostUnregister(self._pages.ctypes.data)


class _Copied(Buffer):
    is_copied = True

    def __init__(self, driver: Any, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        memory = driver.pagelocked_empty(_size_bytes(shape, dtype), np.uint8)
        self._allocation = _allocation(memory)
        self.host = _zeroed(memory, shape, dtype)
        self._device = driver.mem_alloc(memory.nbytes)
        self.address = int(self._device)

    def free(self) -> None:
        self._device.free()
        self._allocation.free()


class DeviceMemory:
    """Memory that only the GPU sees, aligned to 256 bytes and more."""

    def __init__(self, allocation: Any) -> None:
        self._allocation = allocation
        self.address = int(allocation)

    def free(self) -> None:
        self._allocation.free()


class Kernel:
    """A compiled kernel that takes two addresses."""

    def __init__(self, module: Any, name: str) -> None:
        self._module = module  # holds the code
        self._function = module.get_function(name)
        self._function.prepare("PP")

    def launch(
        self, grid: tuple[int, ...], block: tuple[int, int, int], stream: Any, pictures: int, target: int
    ) -> None:
        """Queue the kernel."""
        self._function.prepared_async_call(grid, block, stream, pictures, target)


def _describe(driver: Any, device: Any) -> Gpu:
    attribute = driver.device_attribute
    major, minor = device.compute_capability()
    version = driver.get_driver_version()  # 12060 for 12.6
    # What this build of pycuda has no name for is not used.
    pageable = getattr(attribute, "PAGEABLE_MEMORY_ACCESS", None)
    return Gpu(
        name=device.name(),
        compute_capability=(major, minor),
        sm_count=device.get_attribute(attribute.MULTIPROCESSOR_COUNT),
        memory_bytes=device.total_memory(),
        cuda_version=f"{version // 1000}.{version % 1000 // 10}",
        integrated=bool(device.get_attribute(attribute.INTEGRATED)),
        pageable_access=pageable is not None and bool(device.get_attribute(pageable)),
    )


def _allocation(array: Any) -> Any:
    """Return what an array of pycuda stands on."""
    return array.base


def _size_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return the memory of an array; at least a byte, as nothing cannot be allocated."""
    return max(math.prod(shape) * np.dtype(dtype).itemsize, 1)


def _zeroed(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """View memory as an array of zeros."""
    memory.fill(0)
    return memory[: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
