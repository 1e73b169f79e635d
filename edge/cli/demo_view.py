"""Display of `edge demo`: a live table, lines where there is no terminal, and the summary."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from edge.core.console import light_table, print_table
from edge.core.records import STAGES

WIDE_COLUMNS = 130  # of a terminal that has room for all stages
LINE_PERIOD_S = 5.0  # between two lines where there is no terminal to draw a table on


@dataclass
class DemoView:
    """The broker's messages so far, as the table shows them."""

    telemetry: dict[str, Any] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    found: dict[str, Counter[str]] = field(default_factory=dict)  # detections by label, of each stream
    results: Counter[str] = field(default_factory=Counter)

    def update(self, topic: str, body: dict[str, Any]) -> None:
        """Add one message."""
        _, _, *rest = topic.split("/")
        if rest == ["telemetry"]:
            self.telemetry = body
        elif rest[0] == "streams" and rest[2] == "status":
            self.states[rest[1]] = body["state"]
        elif rest[0] == "streams":
            self.results[rest[1]] += 1
            labels = self.found.setdefault(rest[1], Counter())
            labels.update(each["label"] for each in body.get("detections", ()))


async def show(view: DemoView, seconds: float, stop: asyncio.Event, console: Console, *, as_json: bool) -> None:
    """Draw the table until the time is up; without a terminal, print a line every few seconds."""
    until_s = monotonic() + seconds
    live = console.is_terminal and not as_json
    shown, line_due_s = view.telemetry, monotonic()
    drawing = (
        Live(_table(view, seconds, console), console=console, refresh_per_second=4)
        if live
        else contextlib.nullcontext()
    )
    with drawing as drawn:
        while (left_s := until_s - monotonic()) > 0 and not stop.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), min(0.25, left_s))
            if drawn is not None:
                drawn.update(_table(view, left_s, console))
            elif as_json and view.telemetry is not shown:
                shown = view.telemetry
                print(json.dumps(shown), flush=True)
            elif not as_json and monotonic() >= line_due_s and view.telemetry:
                line_due_s = monotonic() + LINE_PERIOD_S
                console.print(_line(view), highlight=False)


def _line(view: DemoView) -> str:
    rates = (f"{name} {each['results_per_s']:.1f} frames/s" for name, each in view.telemetry["streams"].items())
    dropped: Counter[str] = Counter()
    for stream in view.telemetry["streams"].values():
        dropped.update(stream["dropped"])
    return f"{', '.join(rates)}, {sum(view.results.values())} results, dropped: {_drops(dropped)}"


def _table(view: DemoView, left_s: float, console: Console) -> Group:
    title = f"edge demo · {max(0, left_s):.0f} s left · latency in ms, p50 / p99"
    stages = STAGES if console.width >= WIDE_COLUMNS else ("infer", "total")
    rows = []
    for name, stream in view.telemetry.get("streams", {}).items():
        latency = [_quantiles(stream["latency_ms"][stage]) for stage in stages]
        labels = ", ".join(f"{label} {count}" for label, count in view.found.get(name, Counter()).most_common(6))
        rate = f"{stream['results_per_s']:.1f}"
        rows.append([name, view.states.get(name, ""), rate, *latency, _drops(stream["dropped"]), labels])
    return light_table(console, ("stream", "state", "frames/s", *stages, "drops", "detections"), rows, title=title)


def _drops(dropped: dict[str, int]) -> str:
    """Return the drops by cause, as far as there are any."""
    return ", ".join(f"{cause} {count}" for cause, count in dropped.items() if count) or "0"


def _quantiles(latency: dict[str, float] | None) -> str:
    return "-" if latency is None else f"{latency['p50']:.1f} / {latency['p99']:.1f}"


def summary_of(view: DemoView) -> dict[str, Any]:
    """Return each stream's counts: frames, results, drops, messages received and detections by label."""
    return {
        "streams": {
            name: {
                "frames": stream["frames"],
                "results": stream["results"],
                "dropped": stream["dropped"],
                "received": view.results[name],
                "detections": dict(view.found.get(name, Counter()).most_common()),
            }
            for name, stream in view.telemetry.get("streams", {}).items()
        }
    }


def print_summary(console: Console, summary: dict[str, Any]) -> None:
    """Print the counts as a table."""
    rows = []
    for name, stream in summary["streams"].items():
        counts = [str(stream[key]) for key in ("frames", "results", "received")]
        labels = ", ".join(f"{label} {count}" for label, count in stream["detections"].items())
        rows.append([name, *counts, _drops(stream["dropped"]), labels])
    heads = ("stream", "frames", "results", "received", "dropped", "detections")
    print_table(console, heads, rows, title="Summary")
