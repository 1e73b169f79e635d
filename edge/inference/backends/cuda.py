"""CUDA devices, streams, events, buffers and kernels, through pycuda.

pycuda works on the device's primary context, which TensorRT and ONNX Runtime use too. cuda-bindings (`cuda_runtime.py`)
adds what it lacks, on the same context and the same streams.

Threads call everything here inside `with device.active():`.
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
from edge.core.installation import install_advice
from edge.host.board import read_board
from edge.inference.backends.cuda_runtime import checked, graphs_work, load_cudart

log = logging.getLogger(__name__)

MemoryKind = Literal["mapped", "registered", "pinned"]
_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: not ordered with the stream 0 of other libraries


@dataclass(frozen=True)
class Gpu:
    """A GPU's attributes, as the driver reports them."""

    name: str
    compute_capability: tuple[int, int]
    sm_count: int
    memory_bytes: int
    cuda_version: str  # of the driver: "12.6"
    integrated: bool  # shares its memory with the CPU
    pageable_access: bool  # reads the CPU's pageable memory coherently (Thor)

    @property
    def architecture(self) -> str:
        """The compilers' name for it: `sm_87`."""
        return f"sm_{self.compute_capability[0]}{self.compute_capability[1]}"


@functools.lru_cache(maxsize=1)
def open_device() -> CudaDevice:
    """Open the first GPU, once per process; raise EngineError if there is none."""
    try:
        from pycuda import driver  # noqa: PLC0415 -- there only with the extra `jetson`
    except ImportError as error:
        board = read_board()
        if not board.is_jetson and board.gpu is None:
            raise EngineError(
                "no GPU can be used: there is neither an NVIDIA driver nor pycuda on this machine"
            ) from None
        raise EngineError(
            f"no GPU can be used: pycuda cannot be imported ({error}); {install_advice('jetson')}"
        ) from None
    try:
        driver.init()
        return CudaDevice(driver, driver.Device(0))
    except driver.Error as error:
        raise EngineError(f"no GPU can be used: {error}; wanted a working NVIDIA driver and a device") from None


def find_gpu() -> Gpu:
    """Return the GPU's attributes; raise EngineError if there is none."""
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
        """Make the device's context current on this thread; raise GpuLostError if that fails."""
        try:
            self._context.push()
        except self._driver.Error as error:
            raise GpuLostError(f"the GPU is lost ({error}); only a new process can use it again") from error
        try:
            yield
        finally:
            with contextlib.suppress(self._driver.Error):  # a lost GPU was reported by the calls in between
                self._driver.Context.pop()

    def memory_kind(self) -> MemoryKind:
        """Return the fastest way for host and GPU to share buffers on this device.

        Orin reads mapped host memory as fast as its own, but uncached, so data that is read once needs no copy.
        Thor reads pageable memory through its caches. A discrete GPU gets copies from pinned memory.
        """
        if not self.gpu.integrated:
            return "pinned"
        return "registered" if self.gpu.pageable_access and graphs_work() else "mapped"

    def make_stream(self) -> Any:
        """Make a stream (`handle`) that is not ordered with stream 0."""
        return self._driver.Stream(_NON_BLOCKING)

    def make_event(self, *, spin: bool) -> Any:
        """Make a timed event; waiting for it sleeps, or with `spin` keeps a core busy and wakes sooner."""
        return self._driver.Event(0 if spin else self._driver.event_flags.BLOCKING_SYNC)

    def make_buffer(self, shape: tuple[int, ...], dtype: DTypeLike, kind: MemoryKind) -> Buffer:
        """Allocate memory that both the host and the GPU use."""
        driver = self._driver
        with self.translated(f"allocating {_size_bytes(shape, dtype)} bytes"):
            if kind == "registered":
                return _Registered(shape, dtype)
            if kind == "mapped":
                return _Mapped(driver, shape, dtype)
            return _Copied(driver, shape, dtype)

    def allocate(self, size_bytes: int) -> DeviceMemory:
        """Allocate memory that only the GPU uses."""
        with self.translated(f"allocating {size_bytes} bytes"):
            return DeviceMemory(self._driver.mem_alloc(max(size_bytes, 1)))

    def upload(self, address: int, array: NDArray[Any], stream: Any) -> None:
        """Queue a copy to the GPU."""
        self._driver.memcpy_htod_async(address, array, stream)

    def download(self, array: NDArray[Any], address: int, stream: Any) -> None:
        """Queue a copy from the GPU."""
        self._driver.memcpy_dtoh_async(array, address, stream)

    def load_kernel(self, path: Path, name: str) -> Kernel:
        """Load a compiled kernel that takes two addresses, once; raise EngineError if it does not fit the GPU."""
        if path not in self._kernels:
            with self.translated(f"loading the kernel {path.name}"):
                self._kernels[path] = Kernel(self._driver.module_from_file(str(path)), name)
        return self._kernels[path]

    def free_memory_bytes(self) -> int:
        """Return the memory that the driver reports as free; on a Jetson the CPU shares it."""
        free, _ = self._driver.mem_get_info()
        return int(free)

    @contextlib.contextmanager
    def translated(self, doing: str) -> Iterator[None]:
        """Turn CUDA's errors into ours; `doing` completes "failed while …"."""
        try:
            yield
        except self._driver.Error as error:
            release_frames(error)
            raise self.failure(error, doing) from error
        except EngineError as error:
            release_frames(error)
            raise

    @property
    def error_type(self) -> type[Exception]:
        """Base class of pycuda's errors."""
        error: type[Exception] = self._driver.Error
        return error

    def failure(self, error: object, doing: str) -> EngineError:
        """Return our error for a failure of CUDA or TensorRT.

        A kernel's error stays in its context and fails every later call (cuda.h: "the process must be terminated and
        relaunched"), so a context that cannot be synchronised is lost.
        """
        if isinstance(error, self._driver.MemoryError):
            return GpuMemoryError(
                f"the GPU ran out of memory while {doing} ({error}); use a smaller max_batch or fewer lanes"
            )
        try:
            self._driver.Context.synchronize()
        except self._driver.Error as sticky:
            return GpuLostError(f"the GPU is lost while {doing} ({sticky}); only a new process can use it again")
        return EngineError(f"the GPU failed while {doing} ({error})")


def release_frames(error: BaseException | None) -> None:
    """Clear the frames of an error while the device is active: pycuda frees memory only then."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


class Buffer:
    """Memory shared by host and GPU: `host` is the array, `address` is the GPU's pointer."""

    host: NDArray[Any]
    address: int
    is_copied: bool  # False: both are the same memory

    def free(self) -> None:
        """Free the memory; `host` must not be used afterwards."""
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
    """Registered through cuda-bindings: `register_host_memory` of pycuda 2026.1 crashes the process."""

    is_copied = False

    def __init__(self, shape: tuple[int, ...], dtype: DTypeLike) -> None:
        cudart = load_cudart()
        if cudart is None:
            raise EngineError(
                "memory is set to registered, which requires cuda-bindings, and it is not installed (docs/jetson.md); "
                "install it, or set memory to mapped"
            )
        self._cudart = cudart
        size_bytes = _size_bytes(shape, dtype)
        block = np.empty(size_bytes + mmap.PAGESIZE, np.uint8)
        start = -block.ctypes.data % mmap.PAGESIZE  # only whole pages can be registered
        self._pages = block[start : start + size_bytes]
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
    """Memory that only the GPU uses, aligned to at least 256 bytes."""

    def __init__(self, allocation: Any) -> None:
        self._allocation = allocation
        self.address = int(allocation)

    def free(self) -> None:
        self._allocation.free()


class Kernel:
    """A compiled kernel with two pointer parameters."""

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
    # Older builds of pycuda lack this attribute.
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
    """Return the allocation behind an array of pycuda."""
    return array.base


def _size_bytes(shape: tuple[int, ...], dtype: DTypeLike) -> int:
    """Return an array's size; at least one byte, as CUDA does not allocate zero."""
    return max(math.prod(shape) * np.dtype(dtype).itemsize, 1)


def _zeroed(memory: NDArray[np.uint8], shape: tuple[int, ...], dtype: DTypeLike) -> NDArray[Any]:
    """View memory as an array of zeros."""
    memory.fill(0)
    return memory[: math.prod(shape) * np.dtype(dtype).itemsize].view(dtype).reshape(shape)
