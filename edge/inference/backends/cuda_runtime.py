"""CUDA's runtime API through cuda-bindings, where it is installed: graphs, and calls that pycuda lacks."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge.core.errors import EngineError

log = logging.getLogger(__name__)


class CudaGraph:
    """Work captured from a stream, launched again in one call."""

    def __init__(self, cudart: Any, executable: Any) -> None:
        self._cudart = cudart
        self._executable = executable

    def launch(self, handle: int) -> None:
        """Queue the graph; raise EngineError if CUDA refuses."""
        checked(self._cudart.cudaGraphLaunch(self._executable, handle), "launching a CUDA graph")

    def free(self) -> None:
        self._cudart.cudaGraphExecDestroy(self._executable)


def graphs_work() -> bool:
    """Return whether cuda-bindings is installed, which CUDA graphs need."""
    return load_cudart() is not None


def load_cudart() -> Any:
    """Return cuda-bindings' runtime API; None if it is not installed."""
    try:
        from cuda.bindings import runtime as cudart  # noqa: PLC0415 -- optional
    except ImportError:
        return None
    return cudart


def capture_graph(handle: int, queue: Callable[[], None]) -> CudaGraph | None:
    """Capture what `queue` puts on the stream; None without cuda-bindings, or if it cannot be captured.

    The capture is ended even if `queue` fails, else the stream would stay unusable.
    """
    cudart = load_cudart()
    if cudart is None:
        return None
    try:
        # Thread-local: calls of other lanes must not break this capture.
        checked(
            cudart.cudaStreamBeginCapture(handle, cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal),
            "beginning a capture",
        )
        try:
            queue()
        finally:
            ended = cudart.cudaStreamEndCapture(handle)
        graph = checked(ended, "ending a capture")
        executable = checked(cudart.cudaGraphInstantiate(graph, 0), "making a CUDA graph")
        cudart.cudaGraphDestroy(graph)
    except EngineError as error:
        log.debug("no CUDA graph; batches are queued layer by layer: %s", error)
        return None
    return CudaGraph(cudart, executable)


def checked(answer: tuple[Any, ...], doing: str) -> Any:
    """Return the value of a cuda-bindings call, which returns (error, value…); raise EngineError on an error."""
    error, *values = answer
    if int(error) != 0:
        raise EngineError(f"{doing} failed ({getattr(error, 'name', error)})")
    return values[0] if values else None
