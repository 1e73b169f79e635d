"""CUDA graphs, on the emulation and on a GPU."""

from __future__ import annotations

import numpy as np
import pytest

from edge.core.errors import EngineError
from edge.inference.backends.cuda import CudaDevice
from edge.inference.backends.cuda_runtime import capture_graph, graphs_work
from tests.inference.test_cuda import NUMBERS


def test_a_graph_does_the_same_again(device: CudaDevice) -> None:
    if not graphs_work():
        pytest.skip("cuda-bindings is not installed")
    stream = device.make_stream()
    source, target = (device.make_buffer(NUMBERS.shape, np.float32, "pinned") for _ in range(2))

    def queue() -> None:
        device.upload(source.address, source.host, stream)
        device.download(target.host, source.address, stream)

    graph = capture_graph(stream.handle, queue)
    assert graph is not None
    assert not target.host.any()  # capturing runs nothing
    for factor in (1, 2, 3):
        source.host[:] = factor * NUMBERS
        graph.launch(stream.handle)
        stream.synchronize()
        assert np.array_equal(target.host, factor * NUMBERS)
    graph.free()
    for buffer in (source, target):
        buffer.free()


def test_what_cannot_be_captured_leaves_the_stream_usable(device: CudaDevice) -> None:
    if not graphs_work():
        pytest.skip("cuda-bindings is not installed")
    stream = device.make_stream()

    def refuse() -> None:
        raise EngineError("not to be captured")

    assert capture_graph(stream.handle, refuse) is None
    buffer = device.make_buffer(NUMBERS.shape, np.float32, "pinned")
    device.upload(buffer.address, buffer.host, stream)
    stream.synchronize()
    buffer.free()
