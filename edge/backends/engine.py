"""The contract of an engine, and the choice of one.

An engine is opened once for a model and makes one context for each lane; a context owns its buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.records import EngineTimes


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    shape: tuple[int | None, ...]  # the batch axis first; None: known only when it runs
    dtype: np.dtype[Any]

    @property
    def shape_text(self) -> str:
        return "×".join("?" if size is None else str(size) for size in self.shape)


class Context(Protocol):
    """A place in which one lane runs an engine: preallocated input and output buffers, used by one thread at a time."""

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """The input buffers, each of `max_batch` rows: fill the first rows, then call `infer`."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """The outputs of the last `infer`, its batch size in rows; overwritten by the next call."""

    def infer(self, batch_size: int) -> EngineTimes:
        """Run the first `batch_size` rows of the inputs; raise EngineError where the engine fails."""

    def __enter__(self) -> Context: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A loaded model."""

    label: str  # backend/precision/first characters of the ONNX hash: `ort-cpu/fp32/3f9c…`
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed_batch: int | None  # the only batch size that it takes; None: any

    def make_context(self, max_batch: int) -> Context:
        """Allocate a context for batches of 1 to `max_batch` pictures."""


def open_engine(onnx: Path, *, threads: int) -> Engine:
    """Open a model with the engine that works here, `threads` engine threads for each context.

    Raises ModelError where the file is no model that it can take.
    """
    from edge.backends.ort import OrtEngine  # noqa: PLC0415 -- opened only where it is used

    return OrtEngine(onnx, threads=threads)
