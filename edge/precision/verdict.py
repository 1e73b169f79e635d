"""What two engines make of the same pictures, down to their raw outputs, and whether that is near enough."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.core.records import Findings
from edge.inference.infer import Inference
from edge.pipeline.served_model import Served
from edge.precision.agreement import OutputError, agreement, output_error

Picture = NDArray[np.uint8]
# The mean error of raw outputs, in parts of their spread. FP16 keeps 11 bits, so a sound engine is far below it.
MAX_MEAN_ERROR = 0.05


@dataclass(frozen=True)
class EngineAnswer:
    """What an engine makes of one picture."""

    outputs: dict[str, NDArray[Any]]  # copies, without the batch axis
    findings: Findings


def answers(served: Served, pictures: Sequence[Picture], max_batch: int) -> list[EngineAnswer]:
    """Run pictures through an engine, in batches of up to `max_batch`."""
    found = []
    with served.make_context(max_batch) as context:
        inference = Inference(context, served.engine, max_batch)
        fill = served.make_fill(context)
        for start in range(0, len(pictures), max_batch):
            batch = pictures[start : start + max_batch]
            geometries = [fill(picture, row) for row, picture in enumerate(batch)]
            inference.run(len(batch))
            for row, geometry in enumerate(geometries):
                outputs = {name: array.copy() for name, array in inference.outputs_of(row).items()}
                found.append(EngineAnswer(outputs, served.decoder.decode(outputs, geometry)))
    return found


@dataclass(frozen=True)
class NumericCheck:
    """How far two engines agree over some pictures."""

    error: OutputError  # of the worst picture
    agreement: float | None  # None: neither found anything

    def why_not(self, min_agreement: float) -> str | None:
        """Return why that is not enough; None where it is."""
        if not np.isfinite(self.error.max):
            return "its outputs are not finite, or of another shape"
        if self.error.mean > MAX_MEAN_ERROR:
            return f"its outputs are off by more than {MAX_MEAN_ERROR:g} of their spread in the mean"
        if self.agreement is not None and self.agreement < min_agreement:
            return f"it agrees by {self.agreement:.3f} in what is found, wanted {min_agreement:g}"
        return None

    def __str__(self) -> str:
        found = "nothing was found" if self.agreement is None else f"agreement {self.agreement:.3f}"
        return f"{found}, output error mean {self.error.mean:.2g}, max {self.error.max:.2g} of the spread"


def compare(wanted: Sequence[EngineAnswer], got: Sequence[EngineAnswer]) -> NumericCheck:
    """Judge the answers of a new engine by those of another."""
    errors = [output_error(one.outputs, other.outputs) for one, other in zip(wanted, got, strict=True)]
    worst = OutputError(max(error.max for error in errors), max(error.mean for error in errors))
    return NumericCheck(worst, agreement([one.findings for one in wanted], [other.findings for other in got]))
