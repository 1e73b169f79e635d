"""Plot of a tuning result, drawn with matplotlib, an optional package."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from edge.core.tuned_profile import OperatingPoint
from edge.perf.plotting import save
from edge.perf.tune.report import TuneResult


def plot(result: TuneResult, path: Path) -> None:
    """Draw all points, dominated ones paler, and label Max-Q and Max-P."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional package

    points = [each for each in result.profile.points if each.images_per_s is not None]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, points, result, "energy_j_per_image", "energy per image, J")
    _draw(right, points, result, "latency_p99_ms", "p99 from capture to result, ms")
    target = result.profile.target_p99_ms
    if target is not None:
        right.axhline(target, color="black", linestyle=":", linewidth=1, label=f"target {target:g} ms")
    right.legend(fontsize=8, title="pale: another is at least as good", title_fontsize=8)
    figure.suptitle(result.title, fontsize=11)
    save(figure, path, dpi=150)


def _draw(axes: Any, points: Sequence[OperatingPoint], result: TuneResult, key: str, label: str) -> None:
    axes.set_xlabel("images/s")
    axes.set_ylabel(label)
    drawn = [each for each in points if getattr(each, key) is not None]
    if not drawn:
        axes.text(0.5, 0.5, "not measured on this machine", ha="center", va="center", transform=axes.transAxes)
        axes.set(xticks=[], yticks=[])
        return
    axes.grid(alpha=0.3)
    axes.margins(0.12)
    best = result.front
    forms = dict.fromkeys((each.power_mode, each.device, each.precision) for each in drawn)
    for number, form in enumerate(forms):
        those = [each for each in drawn if (each.power_mode, each.device, each.precision) == form]
        name = " ".join(part for part in form if part)
        for is_best, alpha, label_of in ((True, 1.0, name), (False, 0.25, None)):
            shown = [each for each in those if (each in best) == is_best]
            rates, costs = [each.images_per_s for each in shown], [getattr(each, key) for each in shown]
            axes.scatter(rates, costs, s=28, color=f"C{number}", alpha=alpha, label=label_of)
    edge = _edge([(each.images_per_s or 0.0, getattr(each, key)) for each in drawn if not each.is_throttled])
    axes.plot(*zip(*edge, strict=True), color="grey", linewidth=1, zorder=0)
    for point in drawn:
        if mark := result.mark(point):
            at = (point.images_per_s, getattr(point, key))
            axes.annotate(mark, at, xytext=(0, 8), textcoords="offset points", ha="center", fontweight="bold")


def _edge(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other beats in both: more of the first number, less of the second."""
    edge: list[tuple[float, float]] = []
    for rate, cost in sorted(points, key=lambda each: (-each[0], each[1])):
        if not edge or cost < edge[-1][1]:
            edge.append((rate, cost))
    return edge or [(math.nan, math.nan)]
