"""Growth as streams come and go: `.venv/bin/python benchmarks/growth.py --minutes 60 --out OUT.jsonl --plot OUT.svg`.

`edge run` serves a few synthetic streams and publishes to a Mosquitto. At random, in an order drawn from a seed,
commands add streams of several sizes and remove them, and reloads by command or SIGHUP remove all that were added.
Memory, threads and descriptors are read every 10 s and written as JSON lines, below one of the machine and the command.
`--plot` without `--minutes` draws an earlier OUT.jsonl. Exit code 4 if a figure grows.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paho.mqtt.client as mqtt
import psutil
from configuration import synthetic, write_config
from daemon_process import run_daemon
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from rich.console import Console
from soak import TITLES, TOLERANCES, Broker, machine
from soak_judge import Verdict, judge

from edge.core.errors import EdgeError
from edge.perf.plotting import check_plot, save

ROOT = Path(__file__).parents[1]
SAMPLE_S = 10.0
START_S = 60.0  # by then the daemon has answered
SIZES = ("320x240", "480x360", "640x480")
MOST_ADDED = 5
# Of the steps; adds and removals balance by themselves, as only what is there can be removed.
RELOADS = 0.2
COMMANDS = "edge/bench/cmd/"
SETTINGS: dict[str, dict[str, Any]] = {
    "telemetry": {"period_s": 1},
    "commands": {"allow": ["reload", "stream_add", "stream_remove"], "max_per_min": 6000},
}

Json = dict[str, Any]


class GrowthError(Exception):
    """The benchmark cannot be carried out."""


class Steps:
    """Random adds, removals and reloads, with the count of each and of the daemon's refusals."""

    def __init__(self, port: int, seed: int, fps: float, process: psutil.Popen) -> None:
        self.counts = Counter[str]()
        self.added: list[str] = []
        self._random = random.Random(seed)  # noqa: S311 -- no secret depends on it
        self._fps = fps
        self._process = process
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        self._client.on_connect = lambda client, *_: client.subscribe(f"{COMMANDS}+/ack", qos=1)
        self._client.on_message = self._count_answer
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def await_answer(self) -> None:
        """Reload until the daemon answers, which shows that it runs."""
        until_s = time.monotonic() + START_S
        while not self.counts["answers"]:
            if self._process.poll() is not None or time.monotonic() > until_s:
                raise GrowthError(f"the daemon has not answered within {START_S:g} s")
            self._command("reload")
            time.sleep(0.5)

    def step(self) -> None:
        """Reload, or add or remove a stream."""
        if self._random.random() < RELOADS:
            self._reload()
        elif len(self.added) < MOST_ADDED and (not self.added or self._random.random() < 0.5):  # noqa: PLR2004 -- even
            self._add()
        else:
            name = self.added.pop(self._random.randrange(len(self.added)))
            self.counts["removals"] += 1
            self._command("stream_remove", stream=name)

    def _add(self) -> None:
        self.counts["adds"] += 1
        number = self.counts["adds"]
        self.added.append(f"added{number}")
        source = synthetic(number, self._fps, self._random.choice(SIZES))
        self._command("stream_add", stream=self.added[-1], settings={"source": source, "model": "model"})

    def _reload(self) -> None:
        """Reload the configuration, in which no added stream is."""
        self.counts["reloads"] += 1
        self.added.clear()
        if self._random.random() < 0.5:  # noqa: PLR2004 -- even
            self._command("reload")
        else:
            self._process.send_signal(signal.SIGHUP)

    def _command(self, name: str, **args: Any) -> None:
        self._client.publish(COMMANDS + name, json.dumps({"args": args}), qos=1)

    def _count_answer(self, client: Any, userdata: Any, message: mqtt.MQTTMessage) -> None:  # noqa: ARG002 -- paho's
        self.counts["answers"] += 1
        self.counts["refusals"] += not json.loads(message.payload)["ok"]


@contextlib.contextmanager
def daemon(folder: Path, port: int, options: argparse.Namespace) -> Iterator[psutil.Popen]:
    """Run the daemon with the streams that are always there."""
    streams = {f"s{number}": {"source": synthetic(number, options.fps, SIZES[0])} for number in range(options.streams)}
    config = write_config(folder / "edge.toml", port, {"path": "conveyor"}, streams, SETTINGS)
    with (
        (folder / "edge.log").open("wb") as log,
        run_daemon(config, folder, ("--log-level", "warning"), log) as process,
    ):
        yield process


def measure(options: argparse.Namespace, console: Console) -> None:
    """Run the mix, and write a line every 10 s."""
    with contextlib.ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        broker = Broker(folder)
        broker.start()
        opened.callback(broker.kill)
        process = opened.enter_context(daemon(folder, broker.port, options))
        steps = opened.enter_context(contextlib.closing(Steps(broker.port, options.seed, options.fps, process)))
        lines = opened.enter_context(options.out.open("w", encoding="utf-8"))
        command = " ".join(["benchmarks/growth.py", *sys.argv[1:]])
        print(json.dumps({"machine": machine(), "command": command}), file=lines, flush=True)
        steps.await_answer()
        start_s = next_step_s = next_sample_s = time.monotonic()
        while (now_s := time.monotonic()) < start_s + 60 * options.minutes:
            if process.poll() is not None:
                raise GrowthError(f"the daemon has ended: {(folder / 'edge.log').read_text(encoding='utf-8')[-2000:]}")
            if now_s >= next_sample_s:
                next_sample_s += SAMPLE_S
                row = sample(process, now_s - start_s, steps)
                print(json.dumps(row), file=lines, flush=True)
                console.print(f"{row['time_s']:6.0f} s  {row['rss_mb']:7.1f} MB  {row['threads']} threads")
            if now_s >= next_step_s:
                next_step_s += options.every
                steps.step()
            time.sleep(max(0.0, min(next_step_s, next_sample_s) - time.monotonic()))


def sample(process: psutil.Popen, time_s: float, steps: Steps) -> Json:
    """Return one reading, with the number of streams and all steps so far."""
    with process.oneshot():
        times = process.cpu_times()
        return {
            "time_s": round(time_s, 1),
            "rss_mb": round(process.memory_info().rss / 1e6, 2),
            "threads": process.num_threads(),
            "descriptors": process.num_fds(),
            "cpu_s": round(times.user + times.system, 2),
            "added": len(steps.added),
            **{name: steps.counts[name] for name in ("adds", "removals", "reloads", "answers", "refusals")},
        }


def judged(rows: list[Json]) -> dict[str, Verdict]:
    """Judge each figure as the soak does: after the first quarter, by the slope of medians."""
    times_s = [row["time_s"] for row in rows]
    return {name: judge(times_s, [row[name] for row in rows], tolerance) for name, tolerance in TOLERANCES.items()}


def draw(rows: list[Json], verdicts: dict[str, Verdict], path: Path) -> None:
    """Write the plot as PNG or SVG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # noqa: PLC0415 -- an extra
    from matplotlib.figure import Figure  # noqa: PLC0415

    minutes = np.array([row["time_s"] / 60 for row in rows])
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    memory, counts = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    slope = verdicts["rss_mb"].whole
    trend = f"{slope.slope:+.1f} MB/h ({slope.low:+.1f} to {slope.high:+.1f}) after the first quarter"
    memory.plot(minutes, [row["rss_mb"] for row in rows], linewidth=0.9, label=f"{TITLES['rss_mb']}: {trend}")
    memory.set_ylim(bottom=0)
    memory.set_ylabel("MB")
    for name in ("threads", "descriptors"):
        counts.step(minutes, [row[name] for row in rows], where="post", linewidth=0.9, label=TITLES[name])
    counts.set_ylim(bottom=0)
    counts.set_xlabel("minutes")
    for axes in (memory, counts):
        axes.grid(visible=True, alpha=0.3)
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, ncols=2, fontsize=8)
    save(figure, path, 110)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, help="length of a run; without it, an earlier one is read from --out")
    parser.add_argument("--out", type=Path, required=True, help="JSON lines")
    parser.add_argument("--plot", type=Path, help="PNG or SVG; needs matplotlib")
    parser.add_argument("--streams", type=int, default=2, help="that are always there")
    parser.add_argument("--fps", type=float, default=5.0, help="of each stream")
    parser.add_argument("--every", type=float, default=1.0, help="seconds between two steps")
    parser.add_argument("--seed", type=int, default=1, help="of the order of steps")
    options = parser.parse_args()
    console = Console(stderr=True, width=120)
    try:
        if options.plot is not None:
            check_plot(options.plot)
        if options.minutes is not None:
            measure(options, console)
        rows = [json.loads(line) for line in options.out.read_text(encoding="utf-8").splitlines()[1:]]
        verdicts = judged(rows)
        if options.plot is not None:
            draw(rows, verdicts, options.plot)
    except (GrowthError, EdgeError, OSError, ValueError) as error:
        console.print(f"growth: {error}", markup=False)
        return 1
    for name, verdict in verdicts.items():
        whole = verdict.whole
        said = "flat" if verdict.is_flat else "growing"
        console.print(f"{TITLES[name]}: {whole.slope:+.2f} per hour ({whole.low:+.2f} to {whole.high:+.2f}), {said}")
    return 0 if all(verdict.is_flat for verdict in verdicts.values()) else 4


if __name__ == "__main__":
    sys.exit(main())
