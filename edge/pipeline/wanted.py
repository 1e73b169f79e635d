"""Which of a model's findings one stream publishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections, Findings


@dataclass(frozen=True)
class FindingsFilter:
    """A stream's choice among the findings; made once, for a model's labels."""

    class_ids: NDArray[np.int64] | None = None  # None: all
    min_size_px: float = 0.0  # a box narrower or lower than this is left out

    @classmethod
    def of(cls, stream: str, wanted: Sequence[str], labels: Sequence[str], min_size_px: float) -> FindingsFilter:
        """Look the label names up; raise ConfigError for one that the model does not have."""
        unknown = [name for name in wanted if name not in labels]
        if unknown:
            raise ConfigError(
                f"[streams.{stream}] labels: found {unknown[0]!r}, wanted labels of the model: {', '.join(labels)}"
            )
        ids = [index for index, label in enumerate(labels) if label in wanted]
        return cls(np.array(ids, np.int64) if wanted else None, min_size_px)

    def choose(self, findings: Findings) -> Findings:
        """Return the findings that are wanted, in their order."""
        keep = np.ones(len(findings.class_ids), np.bool_)
        if self.class_ids is not None:
            keep &= np.isin(findings.class_ids, self.class_ids)
        if isinstance(findings, Classes):
            return Classes(findings.scores[keep], findings.class_ids[keep])
        if self.min_size_px:
            x1, y1, x2, y2 = findings.boxes.T
            keep &= np.minimum(x2 - x1, y2 - y1) >= self.min_size_px
        return Detections(findings.boxes[keep], findings.scores[keep], findings.class_ids[keep])

    @property
    def is_all(self) -> bool:
        """Tell whether there is nothing to choose."""
        return self.class_ids is None and not self.min_size_px
