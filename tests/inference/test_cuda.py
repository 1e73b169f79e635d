"""Buffers, streams and events of CUDA, on the emulation and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from edge.core.errors import GpuMemoryError
from edge.inference.backends.cuda import CudaDevice, MemoryKind

KINDS: tuple[MemoryKind, ...] = ("mapped", "registered", "pinned")
NUMBERS = np.arange(1000, dtype=np.float32).reshape(10, 100)


def test_a_device_tells_what_it_is(device: CudaDevice) -> None:
    gpu = device.gpu
    assert gpu.name
    assert gpu.architecture == f"sm_{gpu.compute_capability[0]}{gpu.compute_capability[1]}"
    assert gpu.sm_count > 0
    assert 0 < device.free_memory_bytes() <= gpu.memory_bytes
    major, minor = gpu.cuda_version.split(".")
    assert int(major) >= 11
    assert int(minor) >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_host_writes_comes_back_from_the_gpu(device: CudaDevice, kind: MemoryKind) -> None:
    stream = device.make_stream()
    source, target = (device.make_buffer(NUMBERS.shape, np.float32, each) for each in (kind, "pinned"))
    assert not source.host.any()
    source.host[:] = NUMBERS
    if source.is_copied:
        device.upload(source.address, source.host, stream)
    device.download(target.host, source.address, stream)
    stream.synchronize()
    assert np.array_equal(target.host, NUMBERS)
    for buffer in (source, target):
        buffer.free()


@pytest.mark.parametrize("spin", [False, True])
def test_events_tell_the_time_between_them(device: CudaDevice, *, spin: bool) -> None:
    stream = device.make_stream()
    started, ended = device.make_event(spin=spin), device.make_event(spin=spin)
    buffer = device.make_buffer((1 << 20,), np.uint8, "pinned")
    started.record(stream)
    device.upload(buffer.address, buffer.host, stream)
    ended.record(stream)
    ended.synchronize()
    assert ended.time_since(started) >= 0
    buffer.free()


def test_memory_that_is_not_there_is_told(device: CudaDevice) -> None:
    with pytest.raises(GpuMemoryError, match="ran out of memory while allocating"):
        device.allocate(1 << 46)
