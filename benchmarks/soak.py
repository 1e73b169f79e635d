"""Soak test for growth and loss: `.venv/bin/python benchmarks/soak.py --minutes 30 --json OUT.json --plot OUT.png`.

`edge run` with 8 streams publishes to a Mosquitto that is killed (-9) and restarted, reloads changed configurations,
and has streams removed and added, in a random order drawn from a seed. Its memory, threads and descriptors are read
once a second. Exit code 4 if one of them grows, or a frame or a result is unaccounted for.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import platform
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import psutil
from configuration import synthetic, write_config
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from rich.console import Console
from soak_judge import Verdict, judge
from soak_ledger import Json, Ledger
from soak_plot import draw

from edge.core.errors import EdgeError
from edge.core.process import usable_cores
from edge.host.board import board_name
from edge.perf.plotting import check_plot

STREAMS = 8
SAMPLE_S = 1.0
START_S = 60.0  # by then every stream has published
RELOAD_S = 30.0  # within which a reload must be logged
END_S = 60.0  # from SIGTERM to the last message at the subscriber
AWAY_S = (0.5, 3.0)  # how long the broker stays away
ROOT = Path(__file__).parents[1]
# Tolerated growth over the assessed time: a megabyte of memory, half a thread, half a descriptor.
TOLERANCES = {"rss_mb": 1.0, "threads": 0.5, "descriptors": 0.5}
TITLES = {"rss_mb": "memory (RSS), MB", "threads": "threads", "descriptors": "file descriptors"}
BROKER = """
listener {port} 127.0.0.1
user {user}
allow_anonymous true
max_queued_messages 0
max_inflight_messages 0
persistence true
persistence_location {folder}/
autosave_on_changes true
autosave_interval 1
"""
# Keys that a change of the configuration gives a stream.
CHANGES: tuple[dict[str, Any], ...] = (
    {},
    {"max_age_ms": 500},
    {"qos": 1, "score_threshold": 0.5},
    {"labels": ["bolt", "nut"]},
    {"only_changes": True},
    {"max_results_per_s": 2},
)


class SoakError(Exception):
    """The test cannot be carried out."""


@dataclass
class Samples:
    """Readings, one per second, with a list for each figure."""

    time_s: list[float] = field(default_factory=list)
    rss_mb: list[float] = field(default_factory=list)
    threads: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)
    cpu_s: list[float] = field(default_factory=list)
    results: list[int] = field(default_factory=list)  # at the subscriber, duplicates not counted
    streams: list[int] = field(default_factory=list)  # in the configuration


@dataclass(frozen=True)
class Event:
    """Disturbance of the daemon."""

    time_s: float
    kind: str


class Broker:
    """Mosquitto that keeps its port and its messages across kill -9."""

    def __init__(self, folder: Path) -> None:
        path = shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin:/usr/bin")
        if path is None:
            sys.exit("mosquitto is not installed: apt-get install mosquitto")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        config = folder / "mosquitto.conf"
        user = psutil.Process().username()
        config.write_text(BROKER.format(port=self.port, user=user, folder=folder), encoding="utf-8")
        self._command = [path, "-c", str(config)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until_s = time.monotonic() + START_S
        while time.monotonic() < until_s:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.02)
        raise SoakError(f"mosquitto does not listen on port {self.port} after {START_S:g} s")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()


class Subscriber:
    """Subscriber that accounts for all messages, in a broker session that outlives its connections.

    It also listens at QoS 0: a killed broker has acknowledged messages that it kept only in memory. They are in the
    subscriber's socket by then, but a client that cannot acknowledge one of them discards the rest.
    """

    def __init__(self, port: int) -> None:
        self.ledger, self._heard = Ledger(), Ledger()
        self.streams: set[str] = set()
        self._clients = [self._connect("soak", port, 1, self._take), self._connect("soak-heard", port, 0, self._hear)]

    @staticmethod
    def _connect(name: str, port: int, qos: int, take: Callable[[str, Json], None]) -> mqtt.Client:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, name, protocol=MQTTProtocolVersion.MQTTv5)
        client.on_connect = lambda client, *_: client.subscribe("edge/#", qos=qos)
        # An empty message only clears a retained one.
        client.on_message = lambda _client, _data, message: (
            take(message.topic, json.loads(message.payload)) if message.payload else None
        )
        client.reconnect_delay_set(1, 1)
        session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        session.SessionExpiryInterval = 3600 * qos
        client.connect("127.0.0.1", port, clean_start=not qos, properties=session)
        client.loop_start()
        return client

    def _take(self, topic: str, body: Json) -> None:
        self.ledger.record(topic, body)
        if topic.endswith("/results"):
            self.streams.add(body["stream"])

    def _hear(self, topic: str, body: Json) -> None:
        self._heard.record(topic, body)

    def close(self) -> None:
        for client in self._clients:
            client.disconnect()
            client.loop_stop()

    def only_heard(self) -> int:
        """Add the messages received only at QoS 0 to the ledger, and return their number."""
        return self.ledger.add(self._heard)


class Subject:
    """Daemon under test, and its configuration."""

    def __init__(self, folder: Path, port: int, options: argparse.Namespace) -> None:
        self._port = port
        self._options = options
        self._config = folder / "edge.toml"
        self._log = folder / "edge.log"
        self.streams: dict[int, dict[str, Any]] = {number: {} for number in range(STREAMS)}
        self._write()
        command = [
            sys.executable,
            "-m",
            "edge",
            "run",
            str(self._config),
            "--json",
            "--state-dir",
            str(folder / "state"),
        ]
        with self._log.open("wb") as log:
            self.process = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=log)

    def _write(self) -> None:
        options = self._options
        streams = {
            f"s{number}": {"source": synthetic(number, options.fps, options.size), **keys}
            for number, keys in self.streams.items()
        }
        model = {"path": str(options.model.resolve())}
        write_config(self._config, self._port, model, streams, {"telemetry": {"period_s": 1}})

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            self.process.kill()
            self.process.wait()

    @property
    def log(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")

    def reload(self) -> None:
        """Write the configuration and reload it; wait until the log confirms it."""
        before = self.log.count("configuration reloaded")
        self._write()
        self.process.send_signal(signal.SIGHUP)
        until_s = time.monotonic() + RELOAD_S
        while self.log.count("configuration reloaded") == before:
            if self.process.poll() is not None or time.monotonic() > until_s:
                raise SoakError(f"a reload was not logged within {RELOAD_S:g} s; the log ends:\n{self.log[-2000:]}")
            time.sleep(0.05)


def sample(samples: Samples, start_s: float, subject: Subject, ledger: Ledger) -> None:
    process = subject.process
    with process.oneshot():
        times = process.cpu_times()
        samples.time_s.append(round(time.monotonic() - start_s, 3))
        samples.rss_mb.append(round(process.memory_info().rss / 1e6, 3))
        samples.threads.append(process.num_threads())
        samples.descriptors.append(process.num_fds())
        samples.cpu_s.append(round(times.user + times.system, 2))
        samples.results.append(ledger.results)
        samples.streams.append(len(subject.streams))


class Trouble:
    """Disturbances of the daemon, each kind equally often, in an order drawn from a seed."""

    def __init__(self, subject: Subject, broker: Broker, seed: int) -> None:
        self._subject = subject
        self._broker = broker
        self._random = random.Random(seed)  # noqa: S311 -- no secret depends on it
        self._kinds: dict[str, Callable[[], None]] = {
            "broker killed": self._flap,
            "configuration changed": self._change,
            "stream taken out or added": self._take_out_or_add,
            "reloaded as it is": subject.reload,
        }
        self._next: list[str] = []

    def make(self) -> str:
        """Cause the next disturbance, and return its kind."""
        if not self._next:
            self._next = list(self._kinds)
            self._random.shuffle(self._next)
        kind = self._next.pop()
        self._kinds[kind]()
        return kind

    def _flap(self) -> None:
        self._broker.kill()
        time.sleep(self._random.uniform(*AWAY_S))
        self._broker.start()

    def _change(self) -> None:
        streams = self._subject.streams
        streams[self._random.choice(list(streams))] = self._random.choice(CHANGES)
        self._subject.reload()

    def _take_out_or_add(self) -> None:
        streams = self._subject.streams
        gone = set(range(STREAMS)) - streams.keys()
        if gone:
            streams[gone.pop()] = {}
        else:
            del streams[self._random.choice(list(streams))]
        self._subject.reload()


@contextlib.contextmanager
def running(options: argparse.Namespace) -> Iterator[tuple[Broker, Subscriber, Subject]]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        broker = Broker(folder)
        broker.start()
        with contextlib.ExitStack() as opened:
            opened.callback(broker.kill)
            subscriber = opened.enter_context(contextlib.closing(Subscriber(broker.port)))
            subject = Subject(folder, broker.port, options)
            opened.callback(subject.kill)
            yield broker, subscriber, subject


def soak(options: argparse.Namespace, console: Console) -> dict[str, Any]:
    """Run the test, and return its document."""
    samples, events = Samples(), list[Event]()
    with running(options) as (broker, subscriber, subject):
        _await(lambda: len(subscriber.streams) == STREAMS, START_S, "not every stream has published", subject)
        trouble = Trouble(subject, broker, options.seed)
        start_s = time.monotonic()
        end_s, next_trouble_s, next_sample_s = start_s + 60 * options.minutes, start_s + options.every, start_s
        while (now_s := time.monotonic()) < end_s:
            if subject.process.poll() is not None:
                raise SoakError(f"the daemon has ended; its log ends:\n{subject.log[-2000:]}")
            sample(samples, start_s, subject, subscriber.ledger)
            if now_s >= next_trouble_s:
                next_trouble_s += options.every
                events.append(Event(round(now_s - start_s, 3), trouble.make()))
                console.print(f"{now_s - start_s:6.0f} s  {samples.rss_mb[-1]:7.1f} MB  {events[-1].kind}")
            next_sample_s = max(next_sample_s + SAMPLE_S, time.monotonic())
            time.sleep(max(0.0, next_sample_s - time.monotonic()))
        subject.process.terminate()
        code = subject.process.wait(END_S)
        _await(lambda: subscriber.ledger.has_stopped, END_S, "the last status has not arrived", None)
        log, only_heard = subject.log, subscriber.only_heard()
    document = _document(options, samples, events, subscriber.ledger, code, log)
    return document | {"only_heard": only_heard}


def _await(condition: Callable[[], bool], timeout_s: float, problem: str, subject: Subject | None) -> None:
    until_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > until_s or (subject is not None and subject.process.poll() is not None):
            more = "" if subject is None else f"; the daemon's log ends:\n{subject.log[-2000:]}"
            raise SoakError(f"{problem} within {timeout_s:g} s{more}")
        time.sleep(0.1)


def _document(
    options: argparse.Namespace, samples: Samples, events: list[Event], ledger: Ledger, code: int, log: str
) -> dict[str, Any]:
    verdicts = {
        name: judge(samples.time_s, getattr(samples, name), tolerance) for name, tolerance in TOLERANCES.items()
    }
    faults = [
        *(f"{TITLES[name]}: {_growth(verdict)}" for name, verdict in verdicts.items() if not verdict.is_flat),
        *(f"never came: {each}" for each in ledger.missing),
        *(f"not accounted for: {each}" for each in ledger.unaccounted),
        *([f"{ledger.outbox_dropped} messages were dropped"] if ledger.outbox_dropped else []),
        *([f"exit code {code}"] if code else []),
        *(["the log holds a traceback"] if "Traceback" in log else []),
    ]
    return {
        "machine": machine(),
        "command": " ".join(["benchmarks/soak.py", *sys.argv[1:]]),
        "streams": STREAMS,
        "fps": options.fps,
        "results": ledger.results,
        "duplicates": ledger.duplicates,
        "telemetry_messages": ledger.telemetry,
        "verdicts": {name: asdict(verdict) | {"is_flat": verdict.is_flat} for name, verdict in verdicts.items()},
        "faults": faults,
        "log_warnings": sum(line.startswith(("WARNING ", "ERROR ")) for line in log.splitlines()),
        "events": [asdict(event) for event in events],
        "samples": asdict(samples),
    }


def _growth(verdict: Verdict) -> str:
    whole = verdict.whole
    return f"{whole.slope:+.2f} per hour ({whole.low:+.2f} to {whole.high:+.2f}), {whole.growth:+.2f} in total"


def machine() -> dict[str, Any]:
    packages = {name: version(name) for name in ("onnxruntime", "opencv-python-headless", "paho-mqtt")}
    return {"board": board_name(), "cores": usable_cores(), "python": platform.python_version(), **packages}


def tell(document: dict[str, Any], console: Console) -> None:
    samples, events = document["samples"], document["events"]
    console.print(
        f"{len(samples['time_s'])} readings; {document['results']} results, {document['duplicates']} duplicates, "
        f"{document['only_heard']} lost by the broker but heard; "
        f"{document['telemetry_messages']} telemetry messages; {len(events)} disturbances"
    )
    for name, verdict in document["verdicts"].items():
        whole = verdict["whole"]
        console.print(
            f"{TITLES[name]}: {whole['slope']:+.3f} per hour ({whole['low']:+.3f} to {whole['high']:+.3f}), "
            f"{'flat' if verdict['is_flat'] else 'growing'}"
        )
    console.print("everything is accounted for" if not document["faults"] else "\n".join(document["faults"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two disturbances")
    parser.add_argument("--seed", type=int, default=1, help="of the order of disturbances")
    parser.add_argument("--fps", type=float, default=5.0, help="of each stream")
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--model", type=Path, default=ROOT / "engines" / "conveyor")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path, help="PNG or SVG; needs matplotlib")
    options = parser.parse_args()
    console = Console(stderr=True, width=120)
    try:
        if options.plot is not None:
            check_plot(options.plot)
        document = soak(options, console)
        if options.json is not None:
            options.json.write_text(json.dumps(document) + "\n", encoding="utf-8")
        if options.plot is not None:
            draw(document, options.plot)
    except (EdgeError, SoakError, ValueError) as error:
        sys.exit(str(error))
    tell(document, console)
    return 4 if document["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
