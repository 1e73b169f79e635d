"""Batched runs on an engine context: batch limits, warm-up, padding."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from numpy.typing import NDArray

from edge.core.errors import ModelError
from edge.core.records import EngineTimes
from edge.inference.backends.engine import Context, Engine

# Up to this batch size every size is warmed up; more would take long on a small board.
WARMED_SIZES = 8


def batch_limit(engine: Engine, max_batch: int) -> int:
    """Return the largest batch to form, which a fixed batch size or the engine's largest one limits."""
    return min(max_batch, engine.fixed_batch or max_batch, engine.largest_batch or max_batch)


class Inference:
    """Runs batches of 1 to `max_batch` pictures; short batches of a fixed-size model run padded.

    Padding rows hold pictures of earlier batches; their outputs are ignored.
    """

    def __init__(
        self,
        context: Context,
        engine: Engine,
        max_batch: int,
        is_whole: Callable[[str], bool] = lambda _output: False,
    ) -> None:
        """Take the context, and a function that says whether an output has no batch axis."""
        self._context = context
        self._is_whole = is_whole
        self._fixed_batch = engine.fixed_batch
        self._max_batch = max_batch

    def warm_up(self) -> None:
        """Run each batch size, so that the first real batch finds everything allocated.

        Above WARMED_SIZES only the smallest and the largest. Raises ModelError if an output does not have one row per
        picture.
        """
        for batch_size in self._sizes():
            self.run(batch_size)
            rows = self._fixed_batch or batch_size
            for name, array in self._context.outputs.items():
                if not self._is_whole(name) and array.shape[:1] != (rows,):
                    raise ModelError(
                        f"output {name!r}: found shape {array.shape} for {rows} pictures, wanted one row per picture; "
                        "export the model with a batch axis, or set whole_outputs = true in [output] for a decoder of "
                        "one's own"
                    )

    def _sizes(self) -> Iterable[int]:
        if self._fixed_batch:
            return (self._fixed_batch,)
        return range(1, self._max_batch + 1) if self._max_batch <= WARMED_SIZES else (1, self._max_batch)

    def run(self, batch_size: int) -> EngineTimes:
        """Run the first `batch_size` rows."""
        return self._context.infer(self._fixed_batch or batch_size)

    def all_outputs(self) -> Mapping[str, NDArray[Any]]:
        """Return the outputs of the last run, with the batch axis that they may have; OVERWRITTEN by the next one."""
        return self._context.outputs

    def outputs_of(self, row: int) -> Mapping[str, NDArray[Any]]:
        """Return the outputs for one picture, without the batch axis; OVERWRITTEN by the next run."""
        outputs = self._context.outputs.items()
        return {name: array if self._is_whole(name) else array[row] for name, array in outputs}
