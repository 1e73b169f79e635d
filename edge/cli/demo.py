"""`edge demo`: the built-in scene and model, an embedded broker, and a table fed by it like any other subscriber."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import signal
import socket
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from edge.core.errors import ConfigError, EdgeError
from edge.core.manifest import find_model
from edge.core.records import STAGES

HOST = "127.0.0.1"
USUAL_PORT = 1883
DEVICE = "demo"
START_S = 20.0  # the first result must come within this time
END_S = 10.0  # the daemon ends within 5 s
WIDE = 130  # columns of a terminal in which all stages stand side by side
LINE_S = 5.0  # between two lines where there is no terminal to draw a table on

CONFIG = """
[device]
name = "{device}"

[mqtt]
url = "mqtt://{host}:{port}"
version = "3.1.1"

[telemetry]
period_s = 1

[models.conveyor]
path = {model}

[streams.line-1]
source = "synthetic://conveyor?fps=30&size=640x480&seed=1"
model = "conveyor"

[streams.line-2]
source = "synthetic://conveyor?fps=15&size=800x600&seed=7"
model = "conveyor"
"""


@dataclass
class View:
    """What the broker has told so far."""

    telemetry: dict[str, Any] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)
    found: dict[str, Counter[str]] = field(default_factory=dict)  # detections by label, of each stream
    results: Counter[str] = field(default_factory=Counter)

    def take(self, topic: str, body: dict[str, Any]) -> None:
        """Take one message."""
        _, _, *rest = topic.split("/")
        if rest == ["telemetry"]:
            self.telemetry = body
        elif rest[0] == "streams" and rest[2] == "status":
            self.states[rest[1]] = body["state"]
        elif rest[0] == "streams":
            self.results[rest[1]] += 1
            labels = self.found.setdefault(rest[1], Counter())
            labels.update(each["label"] for each in body.get("detections", ()))


def run(seconds: float, *, as_json: bool) -> int:
    """Show the runtime at work for some seconds; return the exit code."""
    try:
        import amqtt  # noqa: F401, PLC0415 -- the embedded broker comes with the demo's extra
    except ImportError:
        raise ConfigError(
            "the embedded broker is not installed; install it with `pip install 'edge-runtime[cpu,demo]'`"
        ) from None
    logging.disable(logging.CRITICAL)  # the embedded broker's log is not for users
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as folder:
        return asyncio.run(_demo(seconds, Path(folder), as_json=as_json))


def free_port() -> int:
    """Return MQTT's usual port where nothing listens on it, else one that is free."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            bound: int = probe.getsockname()[1]
            return bound
    raise EdgeError(f"no free port on {HOST}; end a program that listens there")


async def _demo(seconds: float, folder: Path, *, as_json: bool) -> int:
    console = Console(stderr=as_json)
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # likewise the broker's
    port = free_port()
    view = View()
    async with _broker(port), _subscriber(port, view), _daemon(port, folder) as daemon:
        await _await_first_result(view, daemon, stop)
        _tell_how_to_subscribe(console, port)
        await _show(view, seconds, stop, console, as_json=as_json)
        daemon.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(daemon.wait(), END_S)
        await asyncio.sleep(0.2)  # its last messages are on their way
    summary = _summary(view)
    if as_json:
        print(json.dumps(summary), flush=True)  # noqa: T201 -- the command's output
    else:
        _print_summary(console, summary)
    return code


@contextlib.asynccontextmanager
async def _broker(port: int) -> AsyncIterator[None]:
    from amqtt.broker import Broker  # noqa: PLC0415

    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    listener = {"type": "tcp", "bind": f"{HOST}:{port}"}
    broker = Broker({"listeners": {"default": listener}, "plugins": anonymous})
    await broker.start()
    try:
        yield
    finally:
        with contextlib.suppress(Exception):  # it waits for clients that have gone; we do not
            await asyncio.wait_for(broker.shutdown(), 1)


@contextlib.asynccontextmanager
async def _subscriber(port: int, view: View) -> AsyncIterator[None]:
    from amqtt.client import MQTTClient  # noqa: PLC0415

    client = MQTTClient(config={"auto_reconnect": False})
    await client.connect(f"mqtt://{HOST}:{port}/")
    await client.subscribe([("edge/#", 0)])

    async def read() -> None:
        while True:
            message = await client.deliver_message()
            if message is not None:
                view.take(message.topic, json.loads(message.data))

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        reading.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.disconnect(), 1)


@contextlib.asynccontextmanager
async def _daemon(port: int, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the daemon as its own process, as it runs on a device."""
    model = json.dumps(str(find_model("conveyor").resolve()))
    config = folder / "demo.toml"
    config.write_text(CONFIG.format(device=DEVICE, host=HOST, port=port, model=model), encoding="utf-8")
    command = [sys.executable, "-m", "edge", "run", str(config), "--state-dir", str(folder), "--log-level", "error"]
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, start_new_session=True)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _await_first_result(view: View, daemon: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    until_s = monotonic() + START_S
    while not view.results and not stop.is_set():
        if daemon.returncode is not None or monotonic() > until_s:
            errors = await daemon.stderr.read() if daemon.stderr and daemon.returncode is not None else b""
            raise EdgeError(f"the daemon gave no result: {errors.decode(errors='replace').strip() or 'no reason told'}")
        await asyncio.sleep(0.05)


def _tell_how_to_subscribe(console: Console, port: int) -> None:
    console.print(f"The daemon publishes to the broker at mqtt://{HOST}:{port}. In another terminal, see its messages:")
    console.print(f"  mosquitto_sub -h {HOST} -p {port} -v -t 'edge/{DEVICE}/#'", markup=False, highlight=False)


async def _show(view: View, seconds: float, stop: asyncio.Event, console: Console, *, as_json: bool) -> None:
    """Draw the table until the time is over; without a terminal, print a line now and then."""
    until_s = monotonic() + seconds
    live = console.is_terminal and not as_json
    shown, line_due_s = view.telemetry, monotonic()
    drawing = (
        Live(_table(view, seconds, console.width), console=console, refresh_per_second=4)
        if live
        else contextlib.nullcontext()
    )
    with drawing as drawn:
        while (left_s := until_s - monotonic()) > 0 and not stop.is_set():
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(stop.wait(), min(0.25, left_s))
            if drawn is not None:
                drawn.update(_table(view, left_s, console.width))
            elif as_json and view.telemetry is not shown:
                shown = view.telemetry
                print(json.dumps(shown), flush=True)  # noqa: T201 -- the command's output
            elif not as_json and monotonic() >= line_due_s and view.telemetry:
                line_due_s = monotonic() + LINE_S
                console.print(_line(view), highlight=False)


def _line(view: View) -> str:
    rates = (f"{name} {each['results_per_s']:.1f} frames/s" for name, each in view.telemetry["streams"].items())
    return f"{', '.join(rates)}, {sum(view.results.values())} results"


def _table(view: View, left_s: float, width: int) -> Table:
    title = f"edge demo · {max(0, left_s):.0f} s left · latency in ms, p50 / p99"
    stages = STAGES if width >= WIDE else ("infer", "total")
    table = Table("stream", "state", "frames/s", *stages, "drops", "detections", title=title)
    for name, stream in view.telemetry.get("streams", {}).items():
        latency = [_quantiles(stream["latency_ms"][stage]) for stage in stages]
        labels = ", ".join(f"{label} {count}" for label, count in view.found.get(name, Counter()).most_common(6))
        rate, drops = f"{stream['results_per_s']:.1f}", str(sum(stream["dropped"].values()))
        table.add_row(name, view.states.get(name, ""), rate, *latency, drops, labels)
    return table


def _quantiles(latency: dict[str, float] | None) -> str:
    return "-" if latency is None else f"{latency['p50']:.1f} / {latency['p99']:.1f}"


def _summary(view: View) -> dict[str, Any]:
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


def _print_summary(console: Console, summary: dict[str, Any]) -> None:
    table = Table("stream", "frames", "results", "received", "dropped", "detections", title="Summary")
    for name, stream in summary["streams"].items():
        counts = [str(stream[key]) for key in ("frames", "results", "received")]
        labels = ", ".join(f"{label} {count}" for label, count in stream["detections"].items())
        table.add_row(name, *counts, str(sum(stream["dropped"].values())), labels)
    console.print(table)
