"""The memory of the GPU, and what of the host's it can see: every address that is used must lie in a live region."""

from __future__ import annotations

import bisect
import ctypes
import mmap
import threading
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from emulation.errors import Code, CudaFailure

GARBAGE = 0xA5  # fills fresh memory: what is there before it is written has no meaning

Kind = Literal["device", "pinned", "registered", "scratch"]


@dataclass
class Region:
    """Bytes in a row; `visible` to the GPU, and `copyable` by the copy engines without a detour."""

    address: int
    size: int
    kind: Kind
    mapped: bool
    bytes: NDArray[np.uint8] | None  # None: only counted
    owner: Any = None  # keeps the memory alive
    live: bool = True

    @property
    def end(self) -> int:
        return self.address + self.size

    @property
    def visible(self) -> bool:
        return self.kind == "device" or self.mapped


@dataclass
class Memory:
    """All regions. An address is never given twice, so that a use after free is found."""

    limit_bytes: int
    host_limit_bytes: int | None
    integrated: bool
    _regions: list[Region] = field(default_factory=list)
    _graves: list[Any] = field(default_factory=list)
    _lock: threading.RLock = field(default_factory=threading.RLock)
    used_bytes: int = 0
    host_bytes: int = 0

    def allocate(self, size: int, kind: Kind, *, mapped: bool = False) -> Region:
        """Take fresh memory, full of garbage."""
        if size <= 0:
            raise CudaFailure(Code.INVALID_VALUE)
        with self._lock:
            self._account(size, kind)
            mapping = mmap.mmap(-1, size)
            array = np.frombuffer(mapping, np.uint8)
            array.fill(GARBAGE)
            return self._add(Region(array.ctypes.data, size, kind, mapped, array, mapping))

    def reserve(self, size: int) -> Region:
        """Count memory that only TensorRT itself uses."""
        with self._lock:
            self._account(size, "scratch")
            return Region(0, size, "scratch", mapped=False, bytes=None)

    def register(self, address: int, size: int, *, mapped: bool) -> Region:
        """Make ordinary memory of the host known to the GPU."""
        if size <= 0:
            raise CudaFailure(Code.INVALID_VALUE)
        with self._lock:
            if any(each.address < address + size and address < each.end for each in self._regions):
                raise CudaFailure(Code.ALREADY_REGISTERED)
            content = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address))
            return self._add(Region(address, size, "registered", mapped, content))

    def registered_at(self, address: int) -> Region | None:
        """Return the registered memory that begins at an address."""
        region = self._find(address, 1)
        is_it = region is not None and region.kind == "registered" and region.address == address
        return region if is_it else None

    def free(self, region: Region) -> None:
        with self._lock:
            if not region.live:
                raise CudaFailure(Code.INVALID_VALUE)
            region.live = False
            self._account(-region.size, region.kind)
            if region.bytes is not None:
                self._regions.remove(region)
            if isinstance(region.owner, mmap.mmap):
                region.owner.madvise(mmap.MADV_DONTNEED)
                self._graves.append(region.owner)
            region.owner = None

    def of_device(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return the bytes that the GPU sees at an address; an illegal access where it sees none."""
        region = self._find(address, size)
        if region is None or not region.visible or region.bytes is None:
            raise CudaFailure(Code.ILLEGAL_ADDRESS)
        start = address - region.address
        return region.bytes[start : start + size]

    def of_host(self, address: int, size: int) -> NDArray[np.uint8]:
        """Return the bytes that the copy engines see of the host's memory."""
        region = self._find(address, size)
        if region is None or region.bytes is None or region.kind == "device":
            raise CudaFailure(Code.ILLEGAL_ADDRESS)
        start = address - region.address
        return region.bytes[start : start + size]

    def room_at(self, address: int) -> int:
        """Return how many bytes the GPU sees from an address on; 0 where it sees none."""
        region = self._find(address, 1)
        return region.end - address if region is not None and region.visible else 0

    def is_pagelocked(self, address: int, size: int) -> bool:
        region = self._find(address, size)
        return region is not None and region.kind in ("pinned", "registered")

    def _find(self, address: int, size: int) -> Region | None:
        with self._lock:
            place = bisect.bisect_right(self._regions, address, key=lambda region: region.address) - 1
            if place < 0:
                return None
            region = self._regions[place]
            return region if address + size <= region.end else None

    def _add(self, region: Region) -> Region:
        bisect.insort(self._regions, region, key=lambda each: each.address)
        return region

    def _account(self, size: int, kind: Kind) -> None:
        if kind == "registered":
            return
        if kind == "pinned":
            if self.host_limit_bytes is not None and self.host_bytes + size > self.host_limit_bytes:
                raise CudaFailure(Code.OUT_OF_MEMORY)
            self.host_bytes += size
        if kind != "pinned" or self.integrated:
            if self.used_bytes + size > self.limit_bytes:
                self.host_bytes -= size if kind == "pinned" else 0
                raise CudaFailure(Code.OUT_OF_MEMORY)
            self.used_bytes += size
