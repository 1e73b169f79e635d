"""The emulation refuses what the real libraries refuse, else tests on it would prove nothing."""

from __future__ import annotations

import importlib
import json
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto

from tests.support.emulated_engines import emulated_gpu
from tests.support.one_node_model import model

ROWS = 3  # of the profile's largest batch
NON_BLOCKING = 1
NONZERO = model("NonZero", out=(2, "found"))


class Rig:
    """The emulated libraries, a thread with the context pushed, and a stream."""

    def __init__(self, emulation: Any) -> None:
        self.emulation = emulation
        self.trt: Any = importlib.import_module("tensorrt")
        self.driver: Any = importlib.import_module("pycuda.driver")
        self.cudart: Any = importlib.import_module("cuda.bindings.runtime")
        self.lines: list[tuple[str, str]] = []
        self.driver.init()
        self.context = self.driver.Device(0).retain_primary_context()
        self.context.push()
        self.stream = self.driver.Stream(NON_BLOCKING)
        self.logger = self.make_logger()

    def close(self) -> None:
        del self.stream
        self.driver.Context.pop()

    def make_logger(self) -> Any:
        trt, lines = self.trt, self.lines

        class Logger(trt.ILogger):  # type: ignore[misc,name-defined]  # the base is Any
            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, text: str) -> None:
                lines.append((severity.name, text))

        return Logger()

    @property
    def errors(self) -> str:
        return "\n".join(text for severity, text in self.lines if severity == "ERROR")

    def network(self, content: bytes, *, strong: bool = True) -> tuple[Any, Any]:
        flag = 1 << int(self.trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
        builder = self.trt.Builder(self.logger)
        network = builder.create_network(flag if strong else 0)
        parser = self.trt.OnnxParser(network, self.logger)
        assert parser.parse(content), self.errors
        return builder, network

    def build(self, content: bytes, configure: Callable[[Any], None] = lambda _: None, *, rows: int = ROWS) -> Any:
        """Build with a profile of 1 to `rows` rows; return what the builder returns."""
        builder, network = self.network(content)
        config = builder.create_builder_config()
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            tensor = network.get_input(index)
            if -1 in tensor.shape:
                row = tuple(tensor.shape)[1:]
                profile.set_shape(tensor.name, (1, *row), (rows, *row), (rows, *row))
        assert config.add_optimization_profile(profile) == 0
        configure(config)
        return builder.build_serialized_network(network, config)

    def plan(self, content: bytes | None = None) -> bytes:
        built = self.build(content or model())
        assert built is not None, self.errors
        return bytes(built)

    def engine(self, content: bytes | None = None) -> Any:
        engine = self.trt.Runtime(self.logger).deserialize_cuda_engine(self.plan(content))
        assert engine is not None, self.errors
        return engine


class Run:
    """An execution context with buffers: x and y of `rows` rows."""

    def __init__(self, rig: Rig, rows: int = 2, engine: Any = None, strategy: Any = None) -> None:
        driver = rig.driver
        self.rig = rig
        arguments = [] if strategy is None else [strategy]
        self.execution = (engine or rig.engine()).create_execution_context(*arguments)
        self.x = driver.mem_alloc(rows * 16)
        self.y = driver.mem_alloc(rows * 16)
        self.host_x = driver.pagelocked_zeros((rows, 4), np.float32)
        self.host_y = driver.pagelocked_zeros((rows, 4), np.float32)
        self.host_x[:] = np.arange(rows * 4).reshape(rows, 4) - 2
        assert self.execution.set_input_shape("x", (rows, 4))
        self.execution.set_tensor_address("x", int(self.x))
        self.execution.set_tensor_address("y", int(self.y))

    def enqueue(self, stream: Any = None) -> bool:
        taken: bool = self.execution.execute_async_v3((stream or self.rig.stream).handle)
        return taken

    def there_and_back(self) -> None:
        """Queue copy, execution, copy."""
        self.rig.driver.memcpy_htod_async(int(self.x), self.host_x, self.rig.stream)
        assert self.enqueue(), self.rig.errors
        self.rig.driver.memcpy_dtoh_async(self.host_y, int(self.y), self.rig.stream)

    @property
    def wanted(self) -> NDArray[Any]:
        wanted: NDArray[Any] = np.maximum(self.host_x, 0)
        return wanted

    def capture(self) -> Any:
        """Capture the execution; return the graph that can be launched."""
        cudart, handle = self.rig.cudart, self.rig.stream.handle
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        assert cudart.cudaStreamBeginCapture(handle, mode) == (cudart.cudaError_t.cudaSuccess,)
        assert self.enqueue(), self.rig.errors
        error, graph = cudart.cudaStreamEndCapture(handle)
        assert error == 0
        error, executable = cudart.cudaGraphInstantiate(graph, 0)
        assert error == 0
        return executable

    def launch(self, graph: Any) -> None:
        assert self.rig.cudart.cudaGraphLaunch(graph, self.rig.stream.handle)[0] == 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    with emulated_gpu() as emulation:
        made = Rig(emulation)
        try:
            yield made
        finally:
            made.close()


def misused(rig: Rig, text: str, do: Callable[[], object]) -> None:
    """What is done must be a misuse, and be noted as one."""
    with pytest.raises(rig.emulation.Misuse, match=text):
        do()
    forgive(rig, text)


def forgive(rig: Rig, text: str) -> None:
    noted = list(rig.emulation.misuses)
    rig.emulation.misuses.clear()
    assert [text in each for each in noted] == [True], noted


def in_thread(do: Callable[[], object]) -> list[BaseException]:
    """Do it in another thread; return what it raised."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            do()
        except BaseException as error:  # noqa: BLE001 -- the test looks at it
            # Frames would keep what is to be freed in the test's thread.
            traceback.clear_frames(error.__traceback__)
            error.__context__ = None
            raised.append(error.with_traceback(None))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return raised


# Plans


def test_a_plan_begins_like_a_real_one(rig: Rig) -> None:
    plan = rig.plan()
    assert plan[:8] == b"ftrt\0\0\0\0"
    assert int.from_bytes(plan[16:24], "little") == len(plan)
    assert list(plan[24:28]) == [10, 3, 0, 30]


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda _: b"", "Cannot deserialize with an empty memory buffer"),
        (lambda plan: plan[:20], "bufferSize >= minBufferSize failed"),
        (lambda plan: plan[:-1], "plan.header.size == blobSize failed"),
        (lambda plan: b"vtrt" + plan[4:], "header.magicTag == kEXPECTED_MAGIC_TAG failed"),
        (lambda plan: plan[:27] + b"\x1f" + plan[28:], "expecting library version 10.3.0.30 got 10.3.0.31, please"),
    ],
)
def test_a_foreign_or_damaged_plan_is_refused(rig: Rig, spoil: Callable[[bytes], bytes], text: str) -> None:
    assert rig.trt.Runtime(rig.logger).deserialize_cuda_engine(spoil(rig.plan())) is None
    assert text in rig.errors


def test_a_plan_of_another_device_is_refused_and_one_of_another_model_warned_of(rig: Rig) -> None:
    plan = rig.plan()
    runtime = rig.trt.Runtime(rig.logger)
    rig.emulation.controls.device = "orin-agx"
    assert runtime.deserialize_cuda_engine(plan) is not None
    ((severity, text),) = rig.lines
    assert severity == "WARNING"
    assert "Using an engine plan file across different models of devices is not supported" in text
    rig.emulation.controls.device = "thor"
    assert runtime.deserialize_cuda_engine(plan) is None
    assert "expecting compute 11.0 got compute 8.7, please rebuild." in rig.errors


def test_a_library_that_takes_no_plan(rig: Rig) -> None:
    plan = rig.plan()
    rig.emulation.controls.deserialize_fails = True
    assert rig.trt.Runtime(rig.logger).deserialize_cuda_engine(plan) is None


# Running


def test_outputs_are_the_old_ones_until_somebody_waits(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    assert not run.host_y.any()
    rig.stream.synchronize()
    assert np.array_equal(run.host_y, run.wanted)


def test_inputs_are_read_when_the_gpu_comes_to_them(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    run.host_x[:] = 9
    rig.stream.synchronize()
    assert (run.host_y == 9).all()


@pytest.mark.parametrize(
    ("shape", "text"),
    [
        ((4, 4), "does not satisfy any optimization profiles"),
        ((0, 4), "does not satisfy any optimization profiles"),
        ((2, 5), "Static dimension mismatch while setting input shape for x"),
        ((2,), "Static dimension mismatch while setting input shape for x"),
    ],
)
def test_a_shape_outside_the_profile_is_refused(rig: Rig, shape: tuple[int, ...], text: str) -> None:
    execution = rig.engine().create_execution_context()
    assert not execution.set_input_shape("x", shape)
    assert text in rig.errors
    assert execution.infer_shapes() == ["x"]
    assert tuple(execution.get_tensor_shape("y")) == (-1, 4)


@pytest.mark.parametrize("name", ["x", "y"])
def test_an_unset_address_is_refused(rig: Rig, name: str) -> None:
    run = Run(rig)
    run.execution.set_tensor_address(name, 0)
    assert not run.enqueue()
    assert f"put tensor {name}. Call set" in rig.errors
    assert "before enqueue/execute." in rig.errors


def test_an_unset_shape_is_refused(rig: Rig) -> None:
    execution = rig.engine().create_execution_context()
    assert not execution.execute_async_v3(rig.stream.handle)
    assert "allInputDimensionsSpecified()" in rig.errors


def test_stream_0_is_a_misuse(rig: Rig) -> None:
    run = Run(rig)
    misused(rig, "stream 0", lambda: run.execution.execute_async_v3(0))
    misused(rig, "stream 0", lambda: rig.driver.Event().record())
    misused(rig, "stream 0", lambda: rig.driver.memcpy_htod_async(int(run.x), run.host_x))


def test_a_stream_that_is_gone_is_a_misuse(rig: Rig) -> None:
    run = Run(rig)
    stream = rig.driver.Stream(NON_BLOCKING)
    handle = stream.handle
    del stream
    misused(rig, "is no stream", lambda: run.execution.execute_async_v3(handle))


def fails_for_ever(rig: Rig, text: str) -> None:
    """Every call of the driver fails now."""
    with pytest.raises(rig.driver.Error, match=text):
        rig.stream.synchronize()
    with pytest.raises(rig.driver.Error, match=text):
        rig.driver.mem_alloc(16)
    with pytest.raises(rig.driver.Error, match=text):
        rig.driver.Context.synchronize()


ILLEGAL = "an illegal memory access was encountered"


@pytest.mark.parametrize("where", ["freed", "too small", "pinned, not mapped", "no memory"])
def test_an_address_that_is_no_memory_of_the_gpu_fails_for_ever(rig: Rig, where: str) -> None:
    run = Run(rig)
    if where == "freed":
        run.y.free()
    else:
        small = rig.driver.mem_alloc(8)
        address = {"too small": int(small), "pinned, not mapped": run.host_y.ctypes.data, "no memory": 4096}[where]
        run.execution.set_tensor_address("y", address)
    assert run.enqueue()
    fails_for_ever(rig, ILLEGAL)
    assert not run.enqueue()
    assert ILLEGAL in rig.errors


def test_nothing_runs_after_an_illegal_access(rig: Rig) -> None:
    run = Run(rig)
    rig.driver.memcpy_dtoh_async(run.host_x, int(run.y), rig.stream)
    rig.stream.synchronize()
    garbage = run.host_x.copy()
    run.x.free()
    run.enqueue()
    run.host_x[:] = 0
    rig.driver.memcpy_dtoh_async(run.host_x, int(run.y), rig.stream)
    fails_for_ever(rig, ILLEGAL)
    assert garbage.any()
    assert not run.host_x.any()


def test_an_illegal_access_is_a_logic_error_as_pycuda_maps_it(rig: Rig) -> None:
    rig.emulation.controls.sticky_from_enqueue = 1
    assert not Run(rig).enqueue()
    with pytest.raises(rig.driver.LogicError, match=f"cuStreamSynchronize failed: {ILLEGAL}"):
        rig.stream.synchronize()


def test_mapped_memory_is_seen_by_both(rig: Rig) -> None:
    driver = rig.driver
    run = Run(rig)
    shared = driver.pagelocked_empty((2, 4), np.float32, mem_flags=driver.host_alloc_flags.DEVICEMAP)
    run.execution.set_tensor_address("y", shared.base.get_device_pointer())
    driver.memcpy_htod_async(int(run.x), run.host_x, rig.stream)
    run.enqueue()
    rig.stream.synchronize()
    assert np.array_equal(shared, run.wanted)


def test_memory_that_is_not_mapped_has_no_address_for_the_gpu(rig: Rig) -> None:
    array = rig.driver.pagelocked_empty(4, np.float32)
    with pytest.raises(rig.driver.LogicError, match="cuMemHostGetDevicePointer failed: invalid argument"):
        array.base.get_device_pointer()


def test_a_copy_from_pageable_memory_is_a_misuse(rig: Rig) -> None:
    run = Run(rig)
    misused(rig, "not pagelocked", lambda: rig.driver.memcpy_htod_async(int(run.x), np.zeros(8, "f4"), rig.stream))


def test_a_copy_beyond_the_buffer_is_refused(rig: Rig) -> None:
    run = Run(rig)
    with pytest.raises(rig.driver.LogicError, match="cuMemcpyDtoHAsync failed: invalid argument"):
        rig.driver.memcpy_dtoh_async(run.host_y, int(run.y) + 4, rig.stream)


def test_registering_by_pycuda_is_a_misuse_and_by_cuda_bindings_works(rig: Rig) -> None:
    cudart = rig.cudart
    run = Run(rig)
    array = rig.driver.aligned_empty((2, 4), np.float32)
    misused(rig, "crashes", lambda: rig.driver.register_host_memory(array))
    address = array.ctypes.data
    assert cudart.cudaHostGetDevicePointer(address, 0) == (cudart.cudaError_t.cudaErrorInvalidValue, None)
    assert cudart.cudaHostRegister(address, array.nbytes, cudart.cudaHostRegisterMapped) == (0,)
    assert cudart.cudaHostRegister(address, 4, 0) == (cudart.cudaError_t.cudaErrorHostMemoryAlreadyRegistered,)
    error, seen = cudart.cudaHostGetDevicePointer(address, 0)
    assert error == 0
    run.execution.set_tensor_address("y", seen)
    rig.driver.memcpy_htod_async(int(run.x), run.host_x, rig.stream)
    run.enqueue()
    rig.stream.synchronize()
    assert np.array_equal(array, run.wanted)
    assert cudart.cudaHostUnregister(address) == (0,)
    assert cudart.cudaHostUnregister(address) == (cudart.cudaError_t.cudaErrorHostMemoryNotRegistered,)


def test_freeing_twice_is_refused(rig: Rig) -> None:
    memory = rig.driver.mem_alloc(16)
    memory.free()
    with pytest.raises(rig.driver.LogicError, match="device_allocation::free failed: invalid resource handle"):
        memory.free()


def test_memory_is_counted_and_runs_out(rig: Rig) -> None:
    free, total = rig.driver.mem_get_info()
    memory = rig.driver.mem_alloc(1 << 20)
    assert rig.driver.mem_get_info() == (free - (1 << 20), total)
    with pytest.raises(rig.driver.MemoryError, match="cuMemAlloc failed: out of memory"):
        rig.driver.mem_alloc(total)
    memory.free()
    assert rig.driver.mem_get_info() == (free, total)


def test_an_execution_context_needs_memory(rig: Rig) -> None:
    engine = rig.engine()
    rig.emulation.controls.context_fails = True
    assert engine.create_execution_context() is None
    assert "Requested amount of GPU memory (" in rig.errors
    assert "could not be allocated. There may not be enough free memory for allocation to succeed." in rig.errors


def test_user_managed_memory_must_be_given_aligned_and_large_enough(rig: Rig) -> None:
    engine = rig.engine()
    run = Run(rig, engine=engine, strategy=rig.trt.ExecutionContextAllocationStrategy.USER_MANAGED)
    need = run.execution.update_device_memory_size_for_shapes()
    assert 0 < need <= engine.device_memory_size_v2
    scratch = rig.driver.mem_alloc(need)
    assert not run.enqueue()
    run.execution.set_device_memory(int(scratch), need - 1)
    assert not run.enqueue()
    misused(rig, "not aligned", lambda: run.execution.set_device_memory(int(scratch) + 1, need))
    run.execution.set_device_memory(int(scratch), need)
    assert run.enqueue()
    rig.stream.synchronize()


def test_work_whose_execution_context_is_gone_is_a_misuse(rig: Rig) -> None:
    run = Run(rig)
    run.enqueue()
    del run.execution
    misused(rig, "destroyed before its work was done", rig.stream.synchronize)


def test_an_output_decided_by_the_data_asks_for_memory(rig: Rig) -> None:
    trt, driver = rig.trt, rig.driver
    asked: list[tuple[Any, ...]] = []

    class Allocator(trt.IOutputAllocator):  # type: ignore[misc,name-defined]  # the base is Any
        def __init__(self) -> None:
            trt.IOutputAllocator.__init__(self)
            self.memory: Any = None

        def reallocate_output_async(self, _name: str, _memory: int, size: int, _alignment: int, _stream: int) -> int:
            asked.append((size,))
            self.memory = driver.mem_alloc(size)
            return int(self.memory)

        def notify_shape(self, _name: str, shape: Any) -> None:
            asked.append(tuple(shape))

    run = Run(rig, engine=rig.engine(NONZERO))
    assert tuple(run.execution.get_tensor_shape("y")) == (2, -1)
    assert run.execution.get_max_output_size("y") == -1
    allocator = Allocator()
    assert run.execution.set_output_allocator("y", allocator)
    run.host_x[:] = 0
    run.host_x[1, 2] = 1
    driver.memcpy_htod_async(int(run.x), run.host_x, rig.stream)
    assert run.enqueue()
    assert asked == [(16,), (2, 1)]
    allocator.memory.free()


# Threads


@pytest.mark.parametrize(
    "call",
    [
        lambda rig, _: rig.driver.mem_alloc(16),
        lambda rig, _: rig.driver.Stream(NON_BLOCKING),
        lambda rig, _: rig.driver.Event(),
        lambda rig, _: rig.stream.synchronize(),
        lambda rig, event: event.record(rig.stream),
        lambda _, event: event.synchronize(),
        lambda rig, _: rig.driver.pagelocked_empty(4, np.uint8),
        lambda rig, _: rig.driver.Context.synchronize(),
    ],
)
def test_a_thread_without_the_context_is_refused(rig: Rig, call: Callable[[Rig, Any], object]) -> None:
    event = rig.driver.Event()
    (error,) = in_thread(lambda: call(rig, event))
    assert isinstance(error, rig.driver.LogicError)
    assert "invalid device context" in str(error)


def test_a_thread_that_pushes_the_context_may_do_all(rig: Rig) -> None:
    run = Run(rig)

    def work() -> None:
        rig.context.push()
        run.there_and_back()
        rig.stream.synchronize()
        rig.driver.Context.pop()

    assert in_thread(work) == []
    assert np.array_equal(run.host_y, run.wanted)


def test_what_is_freed_in_a_foreign_thread_without_the_context_leaks(rig: Rig) -> None:
    memory = rig.driver.mem_alloc(16)
    with pytest.warns(UserWarning, match="device_allocation in out-of-thread context could not be cleaned up"):
        in_thread(memory.free)
    forgive(rig, "it is leaked")


def test_a_thread_that_ends_with_the_context_pushed_is_a_misuse(rig: Rig) -> None:
    assert in_thread(rig.context.push) == []
    forgive(rig, "the real pycuda aborts")


def test_popping_what_was_not_pushed_is_refused(rig: Rig) -> None:
    (error,) = in_thread(rig.driver.Context.pop)
    assert str(error) == "context::pop failed: invalid device context - cannot pop non-current context"


def test_an_execution_context_in_two_threads_at_once_is_a_misuse(rig: Rig) -> None:
    trt = rig.trt
    run = Run(rig, engine=rig.engine(NONZERO))
    raised: list[BaseException] = []

    class Nosy(trt.IOutputAllocator):  # type: ignore[misc,name-defined]  # the base is Any
        def __init__(self, execution: Any) -> None:
            trt.IOutputAllocator.__init__(self)
            self._execution = execution

        def reallocate_output(self, _name: str, memory: int, _size: int, _alignment: int) -> int:
            raised.extend(in_thread(lambda: self._execution.set_input_shape("x", (1, 4))))
            return memory

        def notify_shape(self, _name: str, _shape: Any) -> None: ...

    run.execution.set_output_allocator("y", Nosy(run.execution))
    assert not Run(rig).host_y.any()
    run.enqueue()
    assert [type(error) for error in raised] == [rig.emulation.Misuse]
    forgive(rig, "two threads at once")
    run.execution.set_output_allocator("y", None)  # else a cycle, which any thread may free


def test_two_streams_that_share_scratch_memory_must_wait_for_each_other(rig: Rig) -> None:
    driver = rig.driver
    engine = rig.engine()
    need = engine.device_memory_size_v2
    scratch = driver.mem_alloc(need)
    runs = [Run(rig, engine=engine, strategy=rig.trt.ExecutionContextAllocationStrategy.USER_MANAGED) for _ in "ab"]
    for run in runs:
        run.execution.set_device_memory(int(scratch), need)
    other = driver.Stream(NON_BLOCKING)
    assert runs[0].enqueue()
    misused(rig, "the device memory at 0x", lambda: runs[1].enqueue(other))
    event = driver.Event()
    event.record(rig.stream)
    other.wait_for_event(event)
    assert runs[1].enqueue(other)
    other.synchronize()
    assert event.query()


# Events


def test_an_event_is_reached_when_the_stream_is(rig: Rig) -> None:
    started, ended = rig.driver.Event(), rig.driver.Event()
    run = Run(rig)
    started.record(rig.stream)
    run.there_and_back()
    ended.record(rig.stream)
    with pytest.raises(rig.driver.RuntimeError, match="cuEventElapsedTime failed: device not ready"):
        ended.time_since(started)
    assert (ended.query(), ended.query()) == (False, True)
    assert ended.synchronize().time_since(started) > 0
    assert started.time_till(ended) == ended.time_since(started)


def test_an_event_without_timing_tells_none(rig: Rig) -> None:
    event = rig.driver.Event(rig.driver.event_flags.DISABLE_TIMING | rig.driver.event_flags.BLOCKING_SYNC)
    event.record(rig.stream).synchronize()
    with pytest.raises(rig.driver.LogicError, match="invalid resource handle"):
        event.time_since(event)


# Graphs


def test_a_graph_runs_again_at_the_same_addresses(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    rig.stream.synchronize()
    graph = run.capture()
    run.host_y[:] = 0
    for value in (5, 6):
        run.host_x[:] = value
        rig.driver.memcpy_htod_async(int(run.x), run.host_x, rig.stream)
        run.launch(graph)
        rig.driver.memcpy_dtoh_async(run.host_y, int(run.y), rig.stream)
        assert not (run.host_y == value).any()
        rig.stream.synchronize()
        assert (run.host_y == value).all()


def begin(rig: Rig) -> None:
    mode = rig.cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    assert rig.cudart.cudaStreamBeginCapture(rig.stream.handle, mode)[0] == 0


def end(rig: Rig) -> Any:
    return rig.cudart.cudaStreamEndCapture(rig.stream.handle)[0]


def test_the_first_run_since_a_change_cannot_be_captured(rig: Rig) -> None:
    run = Run(rig)
    begin(rig)
    assert not run.enqueue()
    assert "operation not permitted when stream is capturing" in rig.errors
    assert end(rig).name == "cudaErrorStreamCaptureInvalidated"
    run.there_and_back()
    rig.stream.synchronize()
    assert run.capture() is not None


@pytest.mark.parametrize(
    "call",
    [
        lambda rig: rig.stream.synchronize(),
        lambda rig: rig.stream.is_done(),
        lambda rig: rig.driver.mem_alloc(16),
        lambda rig: rig.driver.pagelocked_empty(4, np.uint8),
        lambda rig: rig.driver.Context.synchronize(),
    ],
)
def test_what_a_capture_forbids_spoils_it(rig: Rig, call: Callable[[Rig], object]) -> None:
    begin(rig)
    with pytest.raises(rig.driver.LogicError, match="operation not permitted when stream is capturing"):
        call(rig)
    assert end(rig).name == "cudaErrorStreamCaptureInvalidated"
    call(rig)


def test_an_event_of_a_capture_cannot_be_waited_for(rig: Rig) -> None:
    event = rig.driver.Event()
    begin(rig)
    event.record(rig.stream)
    with pytest.raises(rig.driver.LogicError, match="last recorded in a capturing stream"):
        event.synchronize()
    assert end(rig).name == "cudaErrorStreamCaptureInvalidated"


def test_a_capture_in_one_thread_leaves_the_others_alone(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    rig.stream.synchronize()
    begin(rig)

    def work() -> None:
        rig.context.push()
        rig.driver.mem_alloc(16).free()
        other = rig.driver.Stream(NON_BLOCKING)
        other.synchronize()
        del other
        rig.driver.Context.pop()

    assert in_thread(work) == []
    assert run.enqueue()
    assert end(rig) == 0


def test_a_capture_that_was_not_begun_cannot_be_ended(rig: Rig) -> None:
    assert end(rig).name == "cudaErrorInvalidValue"


def set_shape(run: Run) -> None:
    run.execution.set_input_shape("x", (1, 4))


def set_address(run: Run) -> None:
    run.execution.set_tensor_address("y", int(run.x))


@pytest.mark.parametrize("change", [set_shape, set_address])
def test_a_graph_is_stale_once_its_context_has_changed(rig: Rig, change: Callable[[Run], None]) -> None:
    run = Run(rig)
    run.there_and_back()
    rig.stream.synchronize()
    graph = run.capture()
    change(run)
    misused(rig, "shapes or addresses of its execution context changed", lambda: run.launch(graph))


def test_a_graph_does_not_outlive_its_context_nor_its_end(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    rig.stream.synchronize()
    first, second = run.capture(), run.capture()
    assert rig.cudart.cudaGraphExecDestroy(first)[0] == 0
    misused(rig, "after it was destroyed", lambda: run.launch(first))
    del run.execution
    misused(rig, "after its execution context was destroyed", lambda: run.launch(second))


def test_a_graph_whose_memory_was_freed_fails_for_ever(rig: Rig) -> None:
    run = Run(rig)
    run.there_and_back()
    rig.stream.synchronize()
    graph = run.capture()
    run.y.free()
    run.launch(graph)
    fails_for_ever(rig, ILLEGAL)


# Faults


def test_an_enqueue_fails_once(rig: Rig) -> None:
    run = Run(rig)
    rig.emulation.controls.fail_enqueue = 2
    assert [run.enqueue() for _ in range(3)] == [True, False, True]
    rig.stream.synchronize()
    assert "too many resources requested for launch" in rig.errors


def test_the_launch_of_a_graph_is_an_enqueue(rig: Rig) -> None:
    run = Run(rig)
    run.enqueue()
    graph = run.capture()
    rig.emulation.controls.fail_enqueue = 3
    answers = [rig.cudart.cudaGraphLaunch(graph, rig.stream.handle)[0].name for _ in range(2)]
    rig.stream.synchronize()
    assert answers == ["cudaErrorLaunchOutOfResources", "cudaSuccess"]


def test_a_gpu_disappears(rig: Rig) -> None:
    run = Run(rig)
    rig.emulation.controls.lost_from_enqueue = 2
    assert [run.enqueue() for _ in range(3)] == [True, False, False]
    assert "no CUDA-capable device is detected" in rig.errors
    fails_for_ever(rig, "no CUDA-capable device is detected")
    with pytest.raises(rig.driver.RuntimeError, match="cuInit failed: no CUDA-capable device is detected"):
        rig.driver.init()
    with pytest.raises(TypeError, match="factory function returned nullptr"):
        rig.trt.Builder(rig.logger)


@pytest.mark.parametrize(("controls", "first"), [({"output_factor": 2.0}, 2.0), ({"output_nan": True}, np.nan)])
def test_an_engine_computes_wrongly(rig: Rig, controls: dict[str, Any], first: float) -> None:
    run = Run(rig)
    run.host_x[:] = 1
    for name, value in controls.items():
        setattr(rig.emulation.controls, name, value)
    run.there_and_back()
    rig.stream.synchronize()
    assert np.array_equal(run.host_y, np.full((2, 4), first, "f4"), equal_nan=True)


def test_an_engine_costs_nothing(rig: Rig) -> None:
    rig.emulation.controls.zero_cost = True
    run = Run(rig)
    run.host_y[:] = 7
    assert run.enqueue()
    rig.stream.synchronize()
    assert (run.host_y == 7).all()


# Kernels


def test_a_kernel_is_what_the_test_gives(rig: Rig, tmp_path: Path) -> None:
    (tmp_path / "some.cubin").write_bytes(b"code")
    module = rig.driver.module_from_file(str(tmp_path / "some.cubin"))
    with pytest.raises(rig.driver.LogicError, match="cuModuleGetFunction failed: named symbol not found"):
        module.get_function("double")
    calls: list[tuple[Any, ...]] = []
    rig.emulation.kernels["double"] = lambda *arguments: calls.append(arguments)
    function = module.get_function("double").prepare("PPi")
    memory = rig.driver.mem_alloc(16)
    function.prepared_async_call((2, 3), (32, 1, 1), rig.stream, int(memory), memory, 5)
    assert calls == []
    rig.stream.synchronize()
    assert calls == [((2, 3, 1), (32, 1, 1), int(memory), int(memory), 5)]
    misused(
        rig, "no memory of the GPU", lambda: function.prepared_async_call((1,), (1, 1, 1), rig.stream, 1, memory, 5)
    )
    with pytest.raises(rig.driver.LogicError, match="cuLaunchKernel failed: invalid argument"):
        function.prepared_async_call((1,), (2048, 1, 1), rig.stream, memory, memory, 5)


def test_a_kernel_file_that_is_not_there_is_refused(rig: Rig) -> None:
    with pytest.raises(rig.driver.RuntimeError, match="cuModuleLoad failed: file not found"):
        rig.driver.module_from_file("/none.cubin")


# Building


def test_an_op_that_the_parser_does_not_know_is_told(rig: Rig) -> None:
    rig.emulation.controls.unsupported_ops = ["Relu"]
    network = rig.trt.Builder(rig.logger).create_network(0)
    parser = rig.trt.OnnxParser(network, rig.logger)
    assert not parser.parse(model())
    error = parser.get_error(0)
    assert (parser.num_errors, error.node(), error.node_name(), error.node_operator()) == (1, 0, "only", "Relu")
    assert "Plugin not found" in error.desc()
    assert network.num_layers == 0


def test_a_type_that_the_library_does_not_know_is_told(rig: Rig) -> None:
    parser = rig.trt.OnnxParser(rig.trt.Builder(rig.logger).create_network(0), rig.logger)
    assert not parser.parse(model("Identity", dtype=TensorProto.DOUBLE))
    assert [parser.get_error(index).node() for index in range(parser.num_errors)] == [-1, -1]


def test_bytes_that_are_no_model_give_an_empty_network(rig: Rig) -> None:
    """So does the parser of TensorRT-RTX 1.7."""
    builder = rig.trt.Builder(rig.logger)
    network = builder.create_network(0)
    assert rig.trt.OnnxParser(network, rig.logger).parse(b"no model")
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "Network must have at least one output" in rig.errors


def test_an_open_size_needs_a_profile(rig: Rig) -> None:
    builder, network = rig.network(model())
    assert builder.build_serialized_network(network, builder.create_builder_config()) is None
    assert "Network has dynamic or shape inputs, but no optimization profile has been defined" in rig.errors


@pytest.mark.parametrize(
    ("shapes", "added", "text"),
    [
        (((1, 4), (3, 4), (2, 4)), -1, "ensure that the optimization profiles satisfy MIN<=OPT<=MAX"),
        (((1, 5), (2, 5), (3, 5)), 0, "profile has min=5, opt=5, max=5 but tensor has 4"),
    ],
)
def test_a_profile_must_fit(rig: Rig, shapes: tuple[Any, Any, Any], added: int, text: str) -> None:
    builder, network = rig.network(model())
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape("x", *shapes)
    assert config.add_optimization_profile(profile) == added
    assert builder.build_serialized_network(network, config) is None
    assert text in rig.errors


def test_a_strongly_typed_network_takes_no_flag_of_a_type(rig: Rig) -> None:
    assert rig.build(model(), lambda config: config.set_flag(rig.trt.BuilderFlag.FP16)) is None
    assert "FP16" in rig.errors


def monitor(trt: Any, steps_until_cancelled: int, events: list[tuple[Any, ...]]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]  # the base is Any
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            events.append((phase_name, parent_phase, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            events.append((phase_name, step))
            return len(events) < steps_until_cancelled

        def phase_finish(self, phase_name: str) -> None:
            events.append((phase_name,))

    return Monitor()


def test_progress_is_told_in_nested_phases(rig: Rig) -> None:
    events: list[tuple[Any, ...]] = []
    mine = monitor(rig.trt, 1000, events)
    assert rig.build(model(), lambda config: setattr(config, "progress_monitor", mine)) is not None
    assert events[0][:2] == ("Building engine", None)
    assert events[-1] == ("Building engine",)
    assert {event[1] for event in events[1:] if len(event) == 3} == {"Building engine"}


def test_a_cancelled_build_gives_nothing_and_logs_nothing(rig: Rig) -> None:
    events: list[tuple[Any, ...]] = []
    mine = monitor(rig.trt, 3, events)
    assert rig.build(model(), lambda config: setattr(config, "progress_monitor", mine)) is None
    assert rig.lines == []
    assert len(events) == 3


def test_a_build_fails_or_runs_out_of_memory(rig: Rig) -> None:
    workspace = rig.trt.MemoryPoolType.WORKSPACE
    rig.emulation.controls.build_memory_bytes = 64 << 20
    assert rig.build(model(), lambda config: config.set_memory_pool_limit(workspace, 65 << 20)) is None
    assert "could not be allocated" in rig.errors
    rig.emulation.controls.builder = "fail"
    assert rig.build(model(), lambda config: config.set_memory_pool_limit(workspace, 64 << 20)) is None
    assert rig.emulation.controls.build_error in rig.errors


def test_a_timing_cache_of_another_device_is_refused(rig: Rig) -> None:
    config = rig.trt.Builder(rig.logger).create_builder_config()
    cache = config.create_timing_cache(b"")
    assert config.set_timing_cache(cache, ignore_mismatch=False)
    kept = bytes(config.get_timing_cache().serialize())
    rig.emulation.controls.device = "thor"
    assert not config.set_timing_cache(config.create_timing_cache(kept), ignore_mismatch=False)
    assert config.set_timing_cache(config.create_timing_cache(kept), ignore_mismatch=True)
    assert config.set_timing_cache(config.create_timing_cache(b"garbage"), ignore_mismatch=False)


def on_dla(config: Any) -> None:
    trt: Any = importlib.import_module("tensorrt")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = 1


FIXED = model(shape=(2, 4), dtype=TensorProto.FLOAT16)


def test_a_dla_takes_what_it_can(rig: Rig) -> None:
    trt = rig.trt
    assert rig.build(FIXED, on_dla) is None
    assert "Cannot create DLA engine, 1 not available" in rig.errors
    rig.emulation.controls.device = "orin-agx"
    plan = rig.build(FIXED, on_dla)
    assert plan is not None
    assert rig.build(model(shape=(2, 4)), on_dla) is None
    assert "Unsupported on DLA" in rig.errors

    def with_fallback(config: Any) -> None:
        on_dla(config)
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)

    assert rig.build(model(shape=(2, 4)), with_fallback) is not None
    assert any("Switching this layer's device type to GPU." in text for _, text in rig.lines)
    assert rig.build(model(dtype=TensorProto.FLOAT16), with_fallback) is None
    runtime = trt.Runtime(rig.logger)
    runtime.DLA_core = 2
    assert runtime.deserialize_cuda_engine(plan) is None


def test_the_inspector_tells_layers_as_10_3_does(rig: Rig) -> None:
    detailed = rig.trt.ProfilingVerbosity.DETAILED
    plan = rig.build(model(), lambda config: setattr(config, "profiling_verbosity", detailed))
    json_form = rig.trt.LayerInformationFormat.JSON
    engine = rig.trt.Runtime(rig.logger).deserialize_cuda_engine(plan)
    told = json.loads(engine.create_engine_inspector().get_engine_information(json_form))
    assert told["Bindings"] == ["x", "y"]
    (layer,) = told["Layers"]
    assert layer["Outputs"][0]["Format/Datatype"] == "Row major linear FP32"
    assert layer["Metadata"] == "[ONNX Layer: only]"
    named = json.loads(rig.engine().create_engine_inspector().get_engine_information(json_form))
    assert named["Layers"] == ["only"]


def test_a_profiler_hears_of_each_layer(rig: Rig) -> None:
    trt = rig.trt
    heard: list[str] = []

    class Profiler(trt.IProfiler):  # type: ignore[misc,name-defined]  # the base is Any
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, _ms: float) -> None:
            heard.append(layer_name)

    run = Run(rig)
    assert not run.execution.report_to_profiler()
    run.execution.profiler = Profiler()
    run.enqueue()
    assert heard == ["only"]
    run.execution.enqueue_emits_profile = False
    run.enqueue()
    assert heard == ["only"]
    rig.stream.synchronize()
    assert run.execution.report_to_profiler()
    assert heard == ["only", "only"]


# The bindings' own strictness


def test_attributes_cannot_be_invented(rig: Rig) -> None:
    config = rig.trt.Builder(rig.logger).create_builder_config()
    with pytest.raises(AttributeError, match="builder_optimisation_level"):
        config.builder_optimisation_level = 3


def test_a_subclass_must_call_its_base(rig: Rig) -> None:
    trt = rig.trt

    class Logger(trt.ILogger):  # type: ignore[misc,name-defined]  # the base is Any
        def __init__(self) -> None: ...

    with pytest.raises(TypeError, match="must be called when overriding __init__"):
        trt.Runtime(Logger())


def test_a_plan_is_a_buffer_and_nothing_else(rig: Rig) -> None:
    plan = rig.build(model())
    assert bytes(plan) == bytes(memoryview(plan))
    assert plan.nbytes == len(bytes(plan))
    with pytest.raises(TypeError, match="no len"):
        len(plan)
