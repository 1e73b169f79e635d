"""Cost per stream by number of streams: `.venv/bin/python benchmarks/scaling.py --json OUT.json --plot OUT.png`.

For 1, 2, 4 … 64 synthetic streams, `edge run` in a fresh process publishes to a Mosquitto started for it, all on this
machine. Once every stream has published, the daemon's processor time, memory, results and their ages are recorded for
some seconds. Exit code 4 if a result costs more with many streams than with few.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import median, quantiles
from typing import Any

import paho.mqtt.client as mqtt
import psutil
from configuration import synthetic, write_config
from daemon_process import run_daemon
from paho.mqtt.enums import CallbackAPIVersion
from pipeline import mosquitto
from rich.console import Console
from rich.table import Table

from edge.core.process import usable_cores
from edge.host.board import board_name

ALL_PUBLISH_S = 60.0  # from the daemon's start
SETTLE_S = 2.0  # afterwards, before counting starts
SERVED = 0.97  # of the cameras' frames; with fewer results the machine is saturated
FLAT = 1.25  # highest cost of a result ÷ the cost with fewer streams
LEAST_FOR_P99 = 100
PANELS = {
    "results/s": {"frames of all cameras": "wanted_per_s", "results": "results_per_s"},
    "age of a result, ms": {"p50": "age_p50_ms", "p99": "age_p99_ms"},
    "CPU ms per result": {"daemon": "cpu_ms_per_result"},
    "memory, MB (RSS)": {"daemon": "rss_mb"},
}


@dataclass(frozen=True)
class Point:
    """Measurement with one number of streams."""

    streams: int
    wanted_per_s: float  # frames of all cameras
    results_per_s: float
    age_p50_ms: float  # of a result when sent, from the capture of its frame
    age_p99_ms: float | None  # None: fewer than 100 results
    cpu_cores: float  # of the daemon
    cpu_ms_per_result: float
    rss_mb: float
    threads: int
    others_cores: float  # used by everything else on this machine, including broker and subscriber
    seconds: float

    @property
    def is_saturated(self) -> bool:
        return self.results_per_s < SERVED * self.wanted_per_s


class Subscriber:
    """Subscriber that records the age of each result."""

    def __init__(self, port: int) -> None:
        self._lock = threading.Lock()
        self._ages_ms: list[float] = []
        self.streams: set[str] = set()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2)
        self._client.on_message = self._take
        self._client.connect("127.0.0.1", port)
        self._client.subscribe("edge/bench/streams/+/results")
        self._client.loop_start()

    def _take(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ARG002 -- paho's
        age_ms = json.loads(message.payload)["age_ms"]
        with self._lock:
            self._ages_ms.append(age_ms)
            self.streams.add(message.topic.split("/")[3])

    def pop_ages_ms(self) -> list[float]:
        """Return the ages since the last call."""
        with self._lock:
            taken, self._ages_ms = self._ages_ms, []
        return taken

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


def measure(streams: int, options: argparse.Namespace) -> Point:
    """Run the daemon with a number of streams, and count."""
    with mosquitto() as port, tempfile.TemporaryDirectory() as folder:
        config = write_config(
            Path(folder) / "edge.toml",
            port,
            {"path": str(options.model.resolve())},
            {f"s{number}": {"source": synthetic(number, options.fps, options.size)} for number in range(streams)},
            {"telemetry": {"period_s": 5}},
        )
        with contextlib.closing(Subscriber(port)) as subscriber, run_daemon(config, Path(folder)) as daemon:
            _wait_for(streams, subscriber, daemon)
            time.sleep(SETTLE_S)
            return _count(streams, options, subscriber, daemon)


def _wait_for(streams: int, subscriber: Subscriber, daemon: psutil.Popen) -> None:
    until_s = time.monotonic() + ALL_PUBLISH_S
    while len(subscriber.streams) < streams:
        if daemon.poll() is not None or time.monotonic() > until_s:
            sys.exit(f"{len(subscriber.streams)} of {streams} streams published within {ALL_PUBLISH_S:g} s")
        time.sleep(0.05)


def _count(streams: int, options: argparse.Namespace, subscriber: Subscriber, daemon: psutil.Popen) -> Point:
    subscriber.pop_ages_ms()
    start_s, start_cpu_s, start_busy_s = time.monotonic(), _cpu_s(daemon), _busy_s()
    time.sleep(options.seconds)
    ages_ms = subscriber.pop_ages_ms()
    seconds = time.monotonic() - start_s
    cpu_s, busy_s = _cpu_s(daemon) - start_cpu_s, _busy_s() - start_busy_s
    return Point(
        streams=streams,
        wanted_per_s=streams * options.fps,
        results_per_s=len(ages_ms) / seconds,
        age_p50_ms=median(ages_ms),
        age_p99_ms=quantiles(ages_ms, n=100)[98] if len(ages_ms) >= LEAST_FOR_P99 else None,
        cpu_cores=cpu_s / seconds,
        cpu_ms_per_result=cpu_s * 1000 / len(ages_ms),
        rss_mb=daemon.memory_info().rss / 1e6,
        threads=daemon.num_threads(),
        others_cores=max(busy_s - cpu_s, 0.0) / seconds,
        seconds=seconds,
    )


def _cpu_s(process: psutil.Popen) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _busy_s() -> float:
    """Return the processor time of the whole machine, which a container may see in full."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def verdict(points: list[Point]) -> tuple[str, bool]:
    """Return a sentence on the growth of the cost per result, and whether it is flat."""
    fit = [point for point in points if not point.is_saturated]
    if len(fit) < 2:  # noqa: PLR2004 -- a ratio needs two
        return "fewer than two numbers of streams were served completely, so the cost per stream is unknown", False
    least, most = fit[0], fit[-1]
    cheapest = min(fit, key=lambda point: point.cpu_ms_per_result)
    to_least = most.cpu_ms_per_result / least.cpu_ms_per_result
    to_cheapest = most.cpu_ms_per_result / cheapest.cpu_ms_per_result
    is_flat = to_cheapest <= FLAT
    return (
        f"CPU time per result with {most.streams} streams ÷ with {least.streams}: {to_least:.2f}; ÷ the least, with "
        f"{cheapest.streams}: {to_cheapest:.2f} (flat: at most {FLAT:g}): {'flat' if is_flat else 'growing'}"
    ), is_flat


def tell(points: list[Point], console: Console) -> None:
    """Print the table."""
    table = Table(title="edge run by number of streams")
    for head in ("streams", "wanted/s", "results/s", "p50 ms", "p99 ms", "cores", "CPU ms/result", "MB", "threads"):
        table.add_column(head, justify="right")
    table.add_column("others' cores", justify="right")
    table.add_column("")
    for point in points:
        table.add_row(*_cells(point))
    console.print(table)


def _cells(point: Point) -> list[str]:
    p99 = "-" if point.age_p99_ms is None else f"{point.age_p99_ms:.1f}"
    return [
        f"{point.streams}",
        f"{point.wanted_per_s:.0f}",
        f"{point.results_per_s:.1f}",
        f"{point.age_p50_ms:.1f}",
        p99,
        f"{point.cpu_cores:.2f}",
        f"{point.cpu_ms_per_result:.2f}",
        f"{point.rss_mb:.0f}",
        f"{point.threads}",
        f"{point.others_cores:.2f}",
        "saturated" if point.is_saturated else "",
    ]


def draw(points: list[Point], path: Path) -> None:
    """Draw four panels over the number of streams."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (title, curves) in zip((*panels[0], *panels[1]), PANELS.items(), strict=True):
        _draw_panel(axes, title, curves, points)
    for axes in panels[1]:
        axes.set_xlabel("streams")
    figure.savefig(path, dpi=110)


def _draw_panel(axes: Any, title: str, curves: Mapping[str, str], points: list[Point]) -> None:
    streams = [point.streams for point in points]
    if saturated := [point.streams for point in points if point.is_saturated]:
        axes.axvspan(saturated[0] / 2**0.5, streams[-1] * 2**0.5, color="0.9", label="saturated")
    for name, attribute in curves.items():
        values = [getattr(point, attribute) for point in points]
        drawn = [float("nan") if value is None else value for value in values]
        axes.plot(streams, drawn, marker="o", linestyle="--" if attribute == "wanted_per_s" else "-", label=name)
    axes.set_title(title)
    axes.set_xscale("log", base=2)
    axes.set_xticks(streams, [str(count) for count in streams])
    axes.grid(visible=True, alpha=0.3)
    if len(curves) > 1:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.legend()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    counts = [1, 2, 4, 8, 16, 32, 64]
    parser.add_argument("--streams", type=int, nargs="+", default=counts, help="default: 1 2 4 8 16 32 64")
    parser.add_argument("--fps", type=float, default=5.0, help="of each stream")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--seconds", type=float, default=15.0, help="counted for each number of streams")
    parser.add_argument("--model", type=Path, default=Path(__file__).parents[1] / "engines" / "conveyor")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="needs matplotlib")
    options = parser.parse_args()
    console = Console(stderr=True, width=120)
    points = []
    for count in sorted(options.streams):
        points.append(measure(count, options))
        console.print(f"{count} streams: {points[-1].results_per_s:.1f} results/s")
    tell(points, console)
    said, is_flat = verdict(points)
    console.print(said)
    document = {
        "machine": _machine(),
        "command": " ".join(["benchmarks/scaling.py", *sys.argv[1:]]),
        "points": [asdict(point) | {"saturated": point.is_saturated} for point in points],
        "verdict": said,
    }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    if options.plot is not None:
        draw(points, options.plot)
    return 0 if is_flat else 4


def _machine() -> dict[str, Any]:
    packages = {name: version(name) for name in ("onnxruntime", "opencv-python-headless", "paho-mqtt")}
    return {"board": board_name(), "cores": usable_cores(), "python": platform.python_version(), **packages}


if __name__ == "__main__":
    sys.exit(main())
