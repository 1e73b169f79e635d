"""The contract of an engine.

An engine is opened once for a model and makes one context for each lane; a context owns its buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.records import EngineTimes
from edge.inference.backends.tensorrt.letterbox_kernel import TargetSettings

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    shape: tuple[int | None, ...]  # the batch axis first; None: known only when it runs
    dtype: np.dtype[Any]

    @property
    def shape_text(self) -> str:
        return "×".join("?" if size is None else str(size) for size in self.shape)


class Pictures(Protocol):
    """A context's way of making rows of its input by itself, out of pictures, on its own device."""

    def put(self, row: int, image: NDArray[np.uint8], region: Box, place: Box) -> None:
        """Copy the picture (H×W×3, BGR): `infer` brings its `region` to the `place` of that row, in pixels of each."""


class Context(Protocol):
    """A place in which one lane runs an engine: preallocated input and output buffers, used by one thread at a time.

    It is opened (`with`) on the thread that uses it.
    """

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """The input buffers, each of `max_batch` rows: fill the first rows, then call `infer`."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """The outputs of the last `infer`, its batch size in rows; overwritten by the next call."""

    @property
    def pictures(self) -> Pictures | None:
        """Where this is not None, it takes the pictures, and the input has no buffer here."""

    def infer(self, batch_size: int) -> EngineTimes:
        """Run the first `batch_size` rows of the inputs; raise EngineError where the engine fails."""

    def __enter__(self) -> Context: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A loaded model."""

    label: str  # backend/precision/first characters of the ONNX hash: `ort-cpu/fp32/3f9c…`, `trt/fp16/3f9c…`
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed_batch: int | None  # the only batch size that it takes; None: any

    def make_context(self, max_batch: int, pictures: TargetSettings | None = None) -> Context:
        """Make a context for batches of 1 to `max_batch` pictures.

        Where `pictures` tells how rows are made, the context may offer to make them.
        """

    def close(self) -> None:
        """Free what the engine holds, once its contexts are closed."""
