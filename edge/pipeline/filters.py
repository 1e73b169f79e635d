"""Filters of one stream: which findings of a result it keeps, and which of its results it publishes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ConfigError
from edge.core.records import Classes, Detections, Findings, Result
from edge.core.suggestion import did_you_mean

MOST_LISTED = 20  # labels in an error


@dataclass(frozen=True)
class FindingsFilter:
    """Keeps the findings of some labels and of a least size; made once, for a model's labels."""

    class_ids: NDArray[np.int64] | None = None  # None: all
    min_size_px: float = 0.0  # a box narrower or lower than this is left out

    @classmethod
    def of(cls, stream: str, kept: Sequence[str], labels: Sequence[str], min_size_px: float) -> FindingsFilter:
        """Look the label names up; raise ConfigError for one that the model does not have."""
        unknown = [name for name in kept if name not in labels]
        if unknown:
            listed = f"{', '.join(labels[:MOST_LISTED])}{', …' if len(labels) > MOST_LISTED else ''}" or "it has none"
            raise ConfigError(
                f"[streams.{stream}] labels: found {unknown[0]!r}, wanted labels of the model ({listed})"
                f"{did_you_mean(unknown[0], labels)}"
            )
        ids = [index for index, label in enumerate(labels) if label in kept]
        return cls(np.array(ids, np.int64) if kept else None, min_size_px)

    def apply(self, findings: Findings) -> Findings:
        """Return the findings to keep, in their order."""
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
    def keeps_all(self) -> bool:
        """True where it leaves all findings as they are."""
        return self.class_ids is None and not self.min_size_px


class ResultFilter:
    """Limits a stream's results: at most so many a second, and only changes; remembers what was published last.

    A change during the pause after a result is published with the first frame that the limit allows, if that frame
    still shows it: the published result is always the newest.
    """

    def __init__(self, max_results_per_s: float = 0.0, *, only_changes: bool = False) -> None:
        """Take the limit (0: none), and whether a result must differ from the one published before."""
        self._period_ns = round(1e9 / max_results_per_s) if max_results_per_s else 0
        self._only_changes = only_changes
        self._due_ns: int | None = None  # before it, nothing is published
        self._published: tuple[int, ...] | None = None  # summary

    def passes(self, result: Result) -> bool:
        """Return whether to publish this result; if so, remember it as published. Called in capture order."""
        if self._due_ns is not None and result.captured_ns < self._due_ns:
            return False
        if self._only_changes and not self._is_change(result.findings):
            return False
        if self._period_ns:
            self._pause(result.captured_ns)
        return True

    def _is_change(self, findings: Findings) -> bool:
        summary = _summary(findings)
        before, self._published = self._published, summary
        return summary != before

    def _pause(self, captured_ns: int) -> None:
        """Keep to a grid of times, so that the mean rate is the limit; a quiet time starts a new grid."""
        due_ns = captured_ns if self._due_ns is None else self._due_ns
        is_on_grid = captured_ns - due_ns < self._period_ns
        self._due_ns = (due_ns if is_on_grid else captured_ns) + self._period_ns


def _summary(findings: Findings) -> tuple[int, ...]:
    """Return what distinguishes findings: how often each class occurs, and for a classifier the best class."""
    class_ids: list[int] = findings.class_ids.tolist()
    best = class_ids[:1] if isinstance(findings, Classes) else []
    return (*best, *sorted(class_ids))
