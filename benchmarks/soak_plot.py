"""Plot of a soak run: memory with its trend, threads and descriptors, results, and the disturbances."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from soak_judge import HOUR_S, medians

from edge.perf.plotting import save

COLOURS = {
    "broker killed": "tab:red",
    "configuration changed": "tab:purple",
    "stream taken out or added": "tab:green",
    "reloaded as it is": "0.6",
}
SMOOTHED_S = 10


def draw(document: dict[str, Any], path: Path) -> None:
    """Write the plot as PNG or SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    samples = document["samples"]
    minutes = np.asarray(samples["time_s"]) / 60
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts, results = figure.subplots(3, 1, sharex=True)
    memory.plot(minutes, samples["rss_mb"], color="tab:blue", linewidth=0.8, label="memory (RSS)")
    _draw_trend(memory, document)
    memory.set_ylabel("MB")
    for name, title in (("threads", "threads"), ("descriptors", "file descriptors"), ("streams", "streams")):
        counts.step(minutes, samples[name], where="post", linewidth=0.8, label=title)
    counts.set_ylim(bottom=0)
    results.plot(minutes[SMOOTHED_S:], _rate(samples), linewidth=0.8, label=f"results/s ({SMOOTHED_S} s)")
    results.set_ylim(bottom=0)
    results.set_xlabel("minutes")
    for axes in (memory, counts, results):
        axes.grid(visible=True, alpha=0.3)
    _draw_events(results, document["events"])
    for axes in (memory, counts, results):
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), fontsize=7, ncols=5, frameon=False, columnspacing=1)
    save(figure, path, 110)


def _rate(samples: dict[str, Any]) -> Any:
    results, time_s = np.asarray(samples["results"]), np.asarray(samples["time_s"])
    return (results[SMOOTHED_S:] - results[:-SMOOTHED_S]) / (time_s[SMOOTHED_S:] - time_s[:-SMOOTHED_S])


def _draw_trend(axes: Any, document: dict[str, Any]) -> None:
    samples, whole = document["samples"], document["verdicts"]["rss_mb"]["whole"]
    times_s, points = medians(np.asarray(samples["time_s"], float), np.asarray(samples["rss_mb"], float))
    line = whole["slope"] * times_s / HOUR_S
    label = f"trend after the warm-up: {whole['slope']:+.1f} MB/h ({whole['low']:+.1f} to {whole['high']:+.1f})"
    axes.plot(times_s / 60, line + np.median(points - line), color="black", linestyle="--", label=label)


def _draw_events(axes: Any, events: list[dict[str, Any]]) -> None:
    """Mark the disturbances along the lower edge."""
    for kind, colour in COLOURS.items():
        when = [event["time_s"] / 60 for event in events if event["kind"] == kind]
        axes.plot(when, [0] * len(when), "|", color=colour, markersize=12, label=kind, clip_on=False)
