"""Set-up of `edge demo`: an embedded broker, a subscriber, and the daemon as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from time import monotonic

from rich.console import Console

from edge.cli.demo_view import DemoView, print_summary, show, summary_of
from edge.core.console import output_console
from edge.core.errors import EdgeError
from edge.core.manifest import find_model

HOST = "127.0.0.1"
USUAL_PORT = 1883
PORT_ATTEMPTS = 5
DEVICE = "demo"
START_S = 20.0  # the first result must come within this time
END_S = 10.0  # the daemon ends within 5 s

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


async def show_demo(seconds: float, folder: Path, *, as_json: bool) -> int:
    """Run broker, daemon and display for some seconds; return the daemon's exit code."""
    console = Console(stderr=True) if as_json else output_console()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)  # the broker reports its own there
    view = DemoView()
    async with _broker() as port, _subscriber(port, view), _daemon(port, folder) as daemon:
        await _await_first_result(view, daemon, stop)
        _print_how_to_subscribe(console, port)
        await show(view, seconds, stop, console, as_json=as_json)
        daemon.send_signal(signal.SIGTERM)
        code = await asyncio.wait_for(daemon.wait(), END_S)
        await asyncio.sleep(0.2)  # its last messages are on their way
    summary = summary_of(view)
    if as_json:
        print(json.dumps(summary), flush=True)
    else:
        print_summary(console, summary)
    return code


def free_port() -> int:
    """Return MQTT's usual port where nothing listens on it, otherwise a free one."""
    for port in (USUAL_PORT, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
            bound: int = probe.getsockname()[1]
            return bound
    raise EdgeError(f"no free port on {HOST}; end a program that listens there")


@contextlib.asynccontextmanager
async def _broker() -> AsyncIterator[int]:
    """Run the embedded broker; yield its port."""
    from amqtt.broker import Broker
    from amqtt.errors import BrokerError

    anonymous = {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}}
    for attempt in range(1, PORT_ATTEMPTS + 1):
        port = free_port()
        listener = {"type": "tcp", "bind": f"{HOST}:{port}"}
        broker = Broker({"listeners": {"default": listener}, "plugins": anonymous})
        try:
            await broker.start()
            break
        except BrokerError:  # another program took the port meanwhile
            if attempt == PORT_ATTEMPTS:
                raise
    try:
        yield port
    finally:
        with contextlib.suppress(Exception):  # it would wait for clients that have gone
            await asyncio.wait_for(broker.shutdown(), 1)


@contextlib.asynccontextmanager
async def _subscriber(port: int, view: DemoView) -> AsyncIterator[None]:
    from amqtt.client import MQTTClient

    client = MQTTClient(config={"auto_reconnect": False})
    await client.connect(f"mqtt://{HOST}:{port}/")
    await client.subscribe([("edge/#", 0)])

    async def read() -> None:
        while True:
            message = await client.deliver_message()
            if message is not None:
                view.update(message.topic, json.loads(message.data))

    reading = asyncio.create_task(read())
    try:
        yield
    finally:
        reading.cancel()
        with contextlib.suppress(Exception):
            await asyncio.wait_for(client.disconnect(), 1)


@contextlib.asynccontextmanager
async def _daemon(port: int, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the daemon as a process of its own, as on a device."""
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


async def _await_first_result(view: DemoView, daemon: asyncio.subprocess.Process, stop: asyncio.Event) -> None:
    until_s = monotonic() + START_S
    while not view.results and not stop.is_set():
        if daemon.returncode is not None or monotonic() > until_s:
            errors = await daemon.stderr.read() if daemon.stderr and daemon.returncode is not None else b""
            raise EdgeError(
                f"the daemon gave no result: {errors.decode(errors='replace').strip() or 'no reason given'}"
            )
        await asyncio.sleep(0.05)


def _print_how_to_subscribe(console: Console, port: int) -> None:
    console.print(
        f"The daemon publishes to the broker at mqtt://{HOST}:{port}. To see its messages in another terminal:"
    )
    console.print(f"  mosquitto_sub -h {HOST} -p {port} -v -t 'edge/{DEVICE}/#'", markup=False, highlight=False)
