"""Contract of an inference engine.

An engine is opened once per model and makes one context per lane; a context owns its buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.core.records import EngineTimes, Image
from edge.inference.backends.tensorrt.letterbox_kernel import TargetSettings

Box = tuple[int, int, int, int]  # x, y, width, height in pixels
LABEL_HASH_DIGITS = 12  # of the ONNX hash in an engine's label


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model."""

    name: str
    shape: tuple[int | None, ...]  # batch axis first; None: known only at run time
    dtype: np.dtype[Any]
    has_batch: bool = True  # False: the model's own tensor lacks the first axis of `shape`, which is 1

    def bound_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape that the model itself takes for a batch; sizes known only at run time count as 1."""
        return self.buffer_shape(batch_size) if self.has_batch else self.buffer_shape(1)[1:]

    def buffer_shape(self, batch_size: int) -> tuple[int, ...]:
        """Return the shape of an array for a batch, which has one row where the model's own tensor has no batch axis.

        Sizes known only at run time count as 1.
        """
        return (batch_size if self.has_batch else 1, *(1 if size is None else size for size in self.shape[1:]))

    @property
    def shape_text(self) -> str:
        return "×".join("?" if size is None else str(size) for size in self.shape)


class Pictures(Protocol):
    """Preprocessing of pictures into input rows on the context's own device."""

    def put(self, row: int, image: Image, region: Box, place: Box) -> None:
        """Copy a picture (H×W×3, BGR); `infer` scales its `region` to `place` in that row, each in its own pixels."""


class Context(Protocol):
    """One lane's use of an engine: preallocated input and output buffers, for one thread at a time.

    It is opened (`with`) on the thread that uses it.
    """

    @property
    def inputs(self) -> Mapping[str, NDArray[Any]]:
        """Input buffers of `max_batch` rows each: fill the first rows, then call `infer`."""

    @property
    def outputs(self) -> Mapping[str, NDArray[Any]]:
        """Outputs of the last `infer`, one row per picture; OVERWRITTEN by the next call."""

    @property
    def pictures(self) -> Pictures | None:
        """Preprocessing on the device, in place of an input buffer; None: the caller fills `inputs`."""

    def infer(self, batch_size: int) -> EngineTimes:
        """Run the first `batch_size` rows of the inputs; raise EngineError if the engine fails."""

    def __enter__(self) -> Context: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """A loaded model."""

    label: str  # backend/precision/first characters of the ONNX hash: `ort-cpu/fp32/3f9c…`, `trt/fp16/3f9c…`
    inputs: tuple[TensorSpec, ...]  # that of the picture first
    outputs: tuple[TensorSpec, ...]
    fixed_batch: int | None  # the only supported batch size; None: any
    largest_batch: int | None  # None: any

    def make_context(self, max_batch: int, pictures: TargetSettings | None = None) -> Context:
        """Make a context for batches of 1 to `max_batch` pictures.

        With `pictures`, the context may offer to preprocess them on its device.
        """

    def close(self) -> None:
        """Free the engine's resources; its contexts must be closed."""
