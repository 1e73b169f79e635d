"""Which of a stream's results are published: at most so many a second, and only when something has changed."""

from __future__ import annotations

from edge.core.records import Classes, Findings, Result


class ResultFilter:
    """Asked about each result in capture order; remembers what was published last.

    A change that falls into the pause after a result is published with the first frame that the limit allows, if that
    one still shows it: what is published is always the newest.
    """

    def __init__(self, max_results_per_s: float = 0.0, *, only_changes: bool = False) -> None:
        """Take the limit (0: none), and whether a result must differ from the one published before."""
        self._period_ns = round(1e9 / max_results_per_s) if max_results_per_s else 0
        self._only_changes = only_changes
        self._due_ns: int | None = None  # before it, nothing is published
        self._published: tuple[int, ...] | None = None

    def passes(self, result: Result) -> bool:
        """Tell whether a result is to be published, and take it that it then is."""
        if self._due_ns is not None and result.captured_ns < self._due_ns:
            return False
        if self._only_changes and not self._is_change(result.findings):
            return False
        if self._period_ns:
            self._pause(result.captured_ns)
        return True

    def _is_change(self, findings: Findings) -> bool:
        shown = _shown(findings)
        before, self._published = self._published, shown
        return shown != before

    def _pause(self, captured_ns: int) -> None:
        """Keep to a grid of times, for a mean rate that is the limit; a quiet time begins another grid."""
        due_ns = captured_ns if self._due_ns is None else self._due_ns
        is_on_grid = captured_ns - due_ns < self._period_ns
        self._due_ns = (due_ns if is_on_grid else captured_ns) + self._period_ns


def _shown(findings: Findings) -> tuple[int, ...]:
    """Return what makes findings another: each class as often as it is there, and of a classifier which is the best."""
    class_ids: list[int] = findings.class_ids.tolist()
    best = class_ids[:1] if isinstance(findings, Classes) else []
    return (*best, *sorted(class_ids))
