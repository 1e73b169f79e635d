"""What `cuda.bindings.runtime` offers, over the emulated machine: each call returns (error, value…)."""
# ruff: noqa: N801, N802, N815, N816 -- names and parameters are the real library's

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any

from emulation.errors import Code, CudaFailure
from emulation.machine import machine
from emulation.streams import Graph

__all__ = [
    "cudaDeviceGetStreamPriorityRange",
    "cudaError_t",
    "cudaGetDeviceCount",
    "cudaGetErrorName",
    "cudaGetErrorString",
    "cudaGraphDestroy",
    "cudaGraphExecDestroy",
    "cudaGraphInstantiate",
    "cudaGraphLaunch",
    "cudaGraphUpload",
    "cudaHostGetDevicePointer",
    "cudaHostRegister",
    "cudaHostRegisterDefault",
    "cudaHostRegisterMapped",
    "cudaHostRegisterPortable",
    "cudaHostUnregister",
    "cudaStreamBeginCapture",
    "cudaStreamCaptureMode",
    "cudaStreamCaptureStatus",
    "cudaStreamCreateWithPriority",
    "cudaStreamDestroy",
    "cudaStreamEndCapture",
    "cudaStreamIsCapturing",
    "cudaStreamNonBlocking",
    "cudaStreamSynchronize",
]


class cudaError_t(enum.IntEnum):
    """The codes that the emulation gives, as driver_types.h has them."""

    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInitializationError = 3
    cudaErrorNoDevice = 100
    cudaErrorDeviceUninitialized = 201
    cudaErrorInvalidResourceHandle = 400
    cudaErrorNotReady = 600
    cudaErrorIllegalAddress = 700
    cudaErrorLaunchOutOfResources = 701
    cudaErrorHostMemoryAlreadyRegistered = 712
    cudaErrorHostMemoryNotRegistered = 713
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901
    cudaErrorStreamCaptureIsolation = 905
    cudaErrorCapturedEvent = 907


class cudaStreamCaptureMode(enum.IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


class cudaStreamCaptureStatus(enum.IntEnum):
    cudaStreamCaptureStatusNone = 0
    cudaStreamCaptureStatusActive = 1
    cudaStreamCaptureStatusInvalidated = 2


cudaHostRegisterDefault = 0
cudaHostRegisterPortable = 1
cudaHostRegisterMapped = 2
cudaStreamNonBlocking = 1

Answer = tuple[Any, ...]


def _answering(values: int) -> Callable[[Callable[..., Any]], Callable[..., Answer]]:
    """Make a function return its error and that many values; None in their place where it failed."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Answer]:
        @functools.wraps(function)
        def call(*arguments: Any) -> Answer:
            try:
                machine.check()
                result = function(*arguments)
            except CudaFailure as failure:
                return (cudaError_t(failure.code.number), *[None] * values)
            if not values:
                return (cudaError_t.cudaSuccess,)
            return (cudaError_t.cudaSuccess, *(result if isinstance(result, tuple) else (result,)))

        return call

    return decorate


@_answering(0)
def cudaStreamBeginCapture(stream: int, mode: cudaStreamCaptureMode) -> None:
    if mode == cudaStreamCaptureMode.cudaStreamCaptureModeRelaxed:
        machine.misuse("a relaxed capture lets unsafe calls through, which is not emulated")
    thread_local = mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    machine.begin_capture(machine.stream(int(stream)), thread_local=thread_local)


@_answering(1)
def cudaStreamEndCapture(stream: int) -> Graph:
    queue = machine.stream(int(stream))
    capture, queue.capture = queue.capture, None
    if capture is None:
        raise CudaFailure(Code.INVALID_VALUE)
    if not capture.valid:
        raise CudaFailure(Code.CAPTURE_INVALIDATED)
    return Graph(capture.operations)


@_answering(1)
def cudaStreamIsCapturing(stream: int) -> cudaStreamCaptureStatus:
    capture = machine.stream(int(stream)).capture
    return cudaStreamCaptureStatus(0 if capture is None else 1 if capture.valid else 2)


@_answering(1)
def cudaGraphInstantiate(graph: Graph, flags: int) -> Graph:
    machine.refuse_while_capturing()
    _alive(graph)
    return Graph(list(graph.operations))


@_answering(0)
def cudaGraphUpload(graph: Graph, stream: int) -> None:
    _alive(graph)
    machine.stream(int(stream))


@_answering(0)
def cudaGraphLaunch(graph: Graph, stream: int) -> None:
    _alive(graph)
    queue = machine.stream(int(stream))
    machine.count_enqueue()
    for operation in graph.operations:
        operation.check()
        machine.check_alone(queue, operation)
        queue.put(operation)


@_answering(0)
def cudaGraphExecDestroy(graph: Graph) -> None:
    _alive(graph)
    graph.destroyed = True


@_answering(0)
def cudaGraphDestroy(graph: Graph) -> None:
    _alive(graph)
    graph.destroyed = True


def _alive(graph: Graph) -> None:
    if graph.destroyed:
        machine.misuse("a CUDA graph was used after it was destroyed")


@_answering(0)
def cudaStreamSynchronize(stream: int) -> None:
    queue = machine.stream(int(stream))
    with queue.invalidating():
        queue.drain()
    machine.check()


@_answering(2)
def cudaDeviceGetStreamPriorityRange() -> tuple[int, int]:
    return 0, -5


@_answering(1)
def cudaGetDeviceCount() -> int:
    return 1


@_answering(1)
def cudaStreamCreateWithPriority(flags: int, priority: int) -> int:
    return machine.add_stream().handle


@_answering(0)
def cudaStreamDestroy(stream: int) -> None:
    machine.drop_stream(machine.stream(int(stream)))


@_answering(0)
def cudaHostRegister(ptr: int, size: int, flags: int) -> None:
    machine.refuse_while_capturing()
    mapped = bool(flags & cudaHostRegisterMapped) or machine.facts.pageable_access
    machine.memory.register(int(ptr), int(size), mapped=mapped)


@_answering(1)
def cudaHostGetDevicePointer(ptr: int, flags: int) -> int:
    region = machine.memory.registered_at(int(ptr))
    if region is None or not region.mapped:
        raise CudaFailure(Code.INVALID_VALUE)
    return region.address


@_answering(0)
def cudaHostUnregister(ptr: int) -> None:
    region = machine.memory.registered_at(int(ptr))
    if region is None:
        raise CudaFailure(Code.NOT_REGISTERED)
    machine.drain()
    machine.memory.free(region)


def cudaGetErrorString(error: cudaError_t) -> Answer:
    texts = {code.number: code.text for code in Code}
    return cudaError_t.cudaSuccess, texts[int(error)].encode()


def cudaGetErrorName(error: cudaError_t) -> Answer:
    return cudaError_t.cudaSuccess, error.name.encode()
