"""Real parts for the tests: broker, subscriber, RTSP camera, service manager's socket, and the daemon as a process."""

from __future__ import annotations

import atexit
import contextlib
import functools
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx
import paho.mqtt.client as mqtt
import pytest
from hypothesis import settings
from jsonschema import Draft202012Validator
from onnx import TensorProto, helper
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge.mqtt import schemas
from tests.support.letterbox_host import compile_for_host

# No test asserts time. Continuous integration draws the same examples each time, so that a change is judged by what it
# changes; at a developer's desk they are new ones each time.
settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")

ROOT = Path(__file__).parents[1]
DATA = ROOT.parent / "shared" / "data"
CONVEYOR = ROOT / "engines" / "conveyor"
DEVICE = "bench-01"
PATIENCE_S = 60.0  # ends a test that would hang; no promise of speed
POLL_S = 0.05

Json = dict[str, Any]
Tables = Mapping[str, Mapping[str, Any]]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def eventually(condition: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until the condition holds; fail saying what did not come."""
    until_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until_s, f"waited {timeout_s:g} s for: {what}"
        time.sleep(POLL_S)


def accepts_connections(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def program(name: str, package: str) -> str:
    """Return a program's path; skip the test where it is not installed."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed: apt-get install {package}")
    return path


def real_data(name: str) -> Path:
    """Return a file of the shared test data; skip the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"test data {path} is absent")
    return path


class Child:
    """A process whose output goes into files, which grow over its restarts."""

    def __init__(
        self, command: Sequence[str | Path], folder: Path, name: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self._command = [str(part) for part in command]
        self._folder = folder
        self._out, self._log = folder / f"{name}.out", folder / f"{name}.log"
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._out.open("ab") as out, self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self._folder, stdout=out, stderr=log, stdin=subprocess.DEVNULL, env=self._environment
            )

    @property
    def log(self) -> str:
        """What it wrote to standard error."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    @property
    def output(self) -> str:
        return self._out.read_text(encoding="utf-8")

    @property
    def process(self) -> subprocess.Popen[bytes]:
        assert self._process is not None, "it was not started"
        return self._process

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self, timeout_s: float = PATIENCE_S) -> int:
        """Wait for its end and return the exit code; fail with its log where it does not come."""
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            pytest.fail(f"{self._command} did not end within {timeout_s:g} s; its log:\n{self.log}")

    def end(self, number: signal.Signals = signal.SIGTERM, timeout_s: float = PATIENCE_S) -> int:
        self.send(number)
        return self.wait(timeout_s)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def await_log(self, text: str, timeout_s: float = PATIENCE_S) -> None:
        until_s = time.monotonic() + timeout_s
        while text not in self.log:
            assert time.monotonic() < until_s, f"waited {timeout_s:g} s for {text!r} in the log:\n{self.log}"
            assert self.process.poll() is None, f"it ended without {text!r} in its log:\n{self.log}"
            time.sleep(POLL_S)


class Server(Child):
    """A process that listens on one port all its life."""

    def __init__(self, command: Sequence[str | Path], folder: Path, name: str, port: int) -> None:
        super().__init__(command, folder, name)
        self.port = port

    def start(self) -> None:
        super().start()
        eventually(lambda: accepts_connections(self.port) or self.process.poll() is not None, "the port is open")
        assert self.process.poll() is None, self.log

    def restart(self) -> None:
        self.kill()
        self.start()


class Mosquitto(Server):
    """A real broker that keeps its port and, where it is ended in peace, its sessions."""

    def __init__(self, folder: Path, *settings: str, name: str = "mosquitto") -> None:
        port = free_port()
        config = folder / f"{name}.conf"
        lines = [
            f"listener {port} 127.0.0.1",
            f"user {getpass.getuser()}",
            "max_queued_messages 0",  # a subscriber that is slow must not lose what the test counts
            "persistence true",
            f"persistence_location {folder}/",
            f"persistence_file {name}.db",
            *(settings or ["allow_anonymous true"]),
        ]
        config.write_text("\n".join(lines) + "\n", encoding="utf-8")
        super().__init__([program("mosquitto", "mosquitto"), "-c", config], folder, name, port)

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


@dataclass(frozen=True)
class Received:
    """One message as the subscriber got it."""

    topic: str
    raw: bytes
    retained: bool

    @property
    def body(self) -> Json:
        body: Json = json.loads(self.raw)
        return body

    @property
    def schema(self) -> str:
        """Name the schema that stands for this topic; none for what is no JSON of ours: a picture, or a question."""
        last = self.topic.rsplit("/", 1)[-1]
        if "/cmd/" in self.topic:
            return "ack" if last == "ack" else ""
        if "/streams/" in self.topic:
            return {"results": "result", "status": "stream-status", "counts": "counts"}.get(last, "")
        own = {"status": "status", "telemetry": "telemetry", "alarms": "alarm", "governor": "governor"}
        return "" if self.topic.startswith("homeassistant/") else own.get(last, "")


def lasting_session(protocol: MQTTProtocolVersion) -> Json:
    """Return what asks the broker to keep the subscriber's messages while it is away, where the protocol can."""
    if protocol != MQTTProtocolVersion.MQTTv5:
        return {}
    session = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    session.SessionExpiryInterval = 3600
    return {"clean_start": False, "properties": session}


class Subscriber:
    """Collects every message of a broker, over restarts of it too, for its session outlives a connection."""

    def __init__(self, port: int, protocol: MQTTProtocolVersion) -> None:
        self._messages: list[Received] = []
        self._arrived = threading.Condition()
        self._subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, "subscriber", protocol=protocol)
        self._client.on_connect = lambda client, *_: client.subscribe("#", qos=1)
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.on_message = self._on_message
        self._client.reconnect_delay_set(1, 1)
        self._client.connect("127.0.0.1", port, **lasting_session(protocol))
        self._client.loop_start()
        assert self._subscribed.wait(PATIENCE_S), "the broker did not take the subscription"

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def _on_message(self, _client: Any, _userdata: Any, message: mqtt.MQTTMessage) -> None:
        with self._arrived:
            self._messages.append(Received(message.topic, bytes(message.payload), message.retain))
            self._arrived.notify_all()

    @property
    def messages(self) -> list[Received]:
        return list(self._messages)

    def wait_for(
        self, wanted: Callable[[Received], bool], what: str, *, after: int = 0, timeout_s: float = PATIENCE_S
    ) -> Received:
        """Return the first message that is wanted, skipping the first `after` messages."""
        until_s = time.monotonic() + timeout_s
        looked_at = after
        with self._arrived:
            while True:
                for message in self._messages[looked_at:]:
                    if wanted(message):
                        return message
                looked_at = max(after, len(self._messages))
                left_s = until_s - time.monotonic()
                assert left_s > 0, f"waited {timeout_s:g} s for: {what}; last: {self._messages[-3:]}"
                self._arrived.wait(left_s)

    def wait_for_state(self, state: str, stream: str | None = None, *, after: int = 0) -> Received:
        """Wait for the daemon's status, or a stream's, to be `state`."""
        topic = f"/streams/{stream}/status" if stream else f"{DEVICE}/status"
        return self.wait_for(
            lambda m: m.topic.endswith(topic) and bool(m.raw) and m.body["state"] == state,
            f"{topic} {state}",
            after=after,
        )

    def wait_for_results(self, stream: str, count: int, *, after: int = 0) -> None:
        """Wait for `count` results of a stream, not counting those among the first `after` messages."""
        topic = f"/streams/{stream}/results"
        eventually(lambda: sum(m.topic.endswith(topic) for m in self.messages[after:]) >= count, f"{count} of {topic}")

    def results(self, stream: str) -> list[Json]:
        return [m.body for m in self.messages if m.topic.endswith(f"/streams/{stream}/results")]

    def seqs(self, stream: str) -> list[int]:
        return [result["seq"] for result in self.results(stream)]

    def states(self, stream: str | None = None) -> list[str]:
        """Return the states of a stream, or of the daemon, in the order of their coming."""
        topic = f"/streams/{stream}/status" if stream else f"{DEVICE}/status"
        return [m.body["state"] for m in self.messages if m.topic.endswith(topic) and m.raw]

    def alarms(self) -> list[Json]:
        return [m.body for m in self.messages if m.schema == "alarm"]

    def telemetry(self) -> list[Json]:
        return [m.body for m in self.messages if m.schema == "telemetry"]


def closed(schema: Any) -> Any:
    """Return the schema refusing every key that it does not describe."""
    if isinstance(schema, list):
        return [closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    inner = {key: closed(value) for key, value in schema.items()}
    return {"additionalProperties": False} | inner if isinstance(schema.get("properties"), dict) else inner


VALIDATORS = {name: Draft202012Validator(closed(json.loads(schemas.read(name)))) for name in schemas.NAMES}


def violations(messages: Sequence[Received]) -> list[str]:
    """Tell what in the messages does not agree with the package's schemas."""
    return [
        f"{message.topic}: {error.json_path}: {error.message}"
        for message in messages
        if message.schema and message.raw  # an empty one takes a retained message away
        for error in VALIDATORS[message.schema].iter_errors(message.body)
    ]


@pytest.fixture
def mosquitto(tmp_path: Path) -> Iterator[Mosquitto]:
    """Give a broker that is not running yet."""
    server = Mosquitto(tmp_path)
    yield server
    server.kill()


@pytest.fixture
def broker(mosquitto: Mosquitto) -> Mosquitto:
    """Give a running broker."""
    mosquitto.start()
    return mosquitto


@contextlib.contextmanager
def subscribed(port: int, protocol: MQTTProtocolVersion = MQTTProtocolVersion.MQTTv5) -> Iterator[Subscriber]:
    """Collect a broker's messages; at the end, each must agree with its schema."""
    collector = Subscriber(port, protocol)
    try:
        yield collector
    finally:
        collector.close()
    assert not violations(collector.messages)


@pytest.fixture
def subscriber(broker: Mosquitto) -> Iterator[Subscriber]:
    with subscribed(broker.port) as collector:
        yield collector


class StartEdge(Protocol):
    """Starts `edge run CONFIG`; `name` tells two daemons of one test apart, in their logs and state directories."""

    def __call__(
        self,
        config: Path,
        *,
        name: str = "edge",
        state_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        options: Sequence[str] = (),
    ) -> Child: ...


# What the service manager of the tests themselves may have set.
INHERITED = ("RUNTIME_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "STATE_DIRECTORY", "EDGE_ROOT")


def edge_command(*arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "edge", *arguments]


@functools.cache
def runtime_dir() -> str:
    """Return a folder in memory, as systemd gives one to a service; it is removed at the end of all tests."""
    memory = Path("/dev/shm")
    folder = tempfile.mkdtemp(prefix="edge-tests-", dir=memory if os.access(memory, os.W_OK) else None)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def clean_environment(added: Mapping[str, str] | None = None) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if key not in INHERITED}
    return inherited | {"RUNTIME_DIRECTORY": runtime_dir()} | dict(added or {})


@pytest.fixture
def start_edge(tmp_path: Path) -> Iterator[StartEdge]:
    """Give a function that starts the daemon; whatever still runs at the end is killed."""
    with contextlib.ExitStack() as started:

        def start(
            config: Path,
            *,
            name: str = "edge",
            state_dir: Path | None = None,
            environment: Mapping[str, str] | None = None,
            options: Sequence[str] = (),
        ) -> Child:
            state_dir = state_dir or tmp_path / f"{name}-state"
            command = edge_command("run", config, "--json", "--state-dir", state_dir, *options)
            child = Child(command, tmp_path, name, clean_environment(environment))
            started.callback(child.kill)
            child.start()
            return child

        yield start


def run_edge(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command of `edge` to its end."""
    return subprocess.run(
        edge_command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        env=clean_environment(),
    )


def belt(*, fps: float = 30, size: str = "320x240", frames: int = 0, seed: int = 1, **keys: Any) -> Json:
    """Return the table of a synthetic stream on the built-in model."""
    source = f"synthetic://conveyor?fps={fps:g}&size={size}&seed={seed}&frames={frames}"
    return {"source": source, "model": "conveyor"} | keys


class Configure(Protocol):
    """Writes a configuration as `write_config` does, for the test's broker."""

    def __call__(self, tables: Tables, *, name: str = "edge.toml") -> Path: ...


def write_toml(path: Path, tables: Tables) -> Path:
    # A JSON value that is no object and no null is a TOML value.
    lines = [
        line
        for table, keys in tables.items()
        for line in (f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), "")
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_config(path: Path, broker_url: str, tables: Tables) -> Path:
    """Write a configuration; `tables` come on top of a device, its broker and the built-in model."""
    standard: dict[str, Json] = {
        "device": {"name": DEVICE},
        "mqtt": {"url": broker_url},
        "telemetry": {"period_s": 0.5},
        "models.conveyor": {"path": str(CONVEYOR)},
    }
    return write_toml(path, standard | {table: standard.get(table, {}) | dict(keys) for table, keys in tables.items()})


@pytest.fixture
def configure(tmp_path: Path, mosquitto: Mosquitto) -> Configure:
    """Give a function that writes a configuration for the test's broker."""

    def write(tables: Tables, *, name: str = "edge.toml") -> Path:
        return write_config(tmp_path / name, mosquitto.url, tables)

    return write


@pytest.fixture
def yolox(tmp_path: Path) -> Path:
    """Give a model folder of YOLOX-Nano."""
    folder = tmp_path / "yolox_nano"
    folder.mkdir()
    for name in ("yolox_nano.onnx", "coco.names"):
        (folder / name).symlink_to(real_data(f"models/{name}"))
    manifest = {
        "input": {"color": "bgr", "resize": "letterbox", "anchor": "top-left", "pad": 114},
        "output": {"decoder": "yolox", "score_threshold": 0.35, "iou_threshold": 0.45},
    }
    write_toml(folder / "tables.toml", manifest)
    head = 'task = "detect"\nonnx = "yolox_nano.onnx"\nlabels = "coco.names"\n\n'
    (folder / "model.toml").write_text(head + (folder / "tables.toml").read_text(), encoding="utf-8")
    return folder


# Of one's own: one box over the input's left upper quarter, whatever the picture.
ONE_BOX = """
import numpy as np

def decode(outputs, options):
    boxes = np.array([[0, 0, 16, 16]], np.float32)
    return boxes, np.array([0.9], np.float32), np.array([0])
"""


def tiny_model(folder: Path, decoder: str = ONE_BOX) -> Path:
    """Make a model folder of a network that costs nothing, read by a decoder of one's own."""
    folder.mkdir()
    pool = helper.make_node("GlobalAveragePool", ["images"], ["means"])
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, 32, 32])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["n", 3, 1, 1])
    graph = helper.make_graph([pool], "tiny", [images], [means])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "tiny.onnx")
    (folder / "labels.txt").write_text("thing\n", encoding="utf-8")
    (folder / "own_decoder.py").write_text(decoder, encoding="utf-8")
    (folder / "model.toml").write_text(
        'task = "detect"\nonnx = "tiny.onnx"\nlabels = "labels.txt"\n[output]\ndecoder = "own_decoder:decode"\n',
        encoding="utf-8",
    )
    return folder


class RtspServer(Server):
    """A real RTSP server that plays one video, in its own time, to each client from the start."""

    def __init__(self, folder: Path, video: Path, user: str, password: str) -> None:
        self._user, self._password = user, password
        port = free_port()
        script = Path(__file__).with_name("support") / "rtsp_server.py"
        super().__init__(["/usr/bin/python3", script, str(port), video, user, password], folder, "rtsp", port)

    @property
    def url(self) -> str:
        return f"rtsp://127.0.0.1:{self.port}/main"

    @property
    def secret_url(self) -> str:
        return f"rtsp://{self._user}:{self._password}@127.0.0.1:{self.port}/main"


RTSP_IMPORTS = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
RTSP_PACKAGES = "python3-gi gir1.2-gst-rtsp-server-1.0 gstreamer1.0-plugins-good gstreamer1.0-plugins-bad"


@pytest.fixture
def rtsp_server(tmp_path: Path) -> Iterator[RtspServer]:
    """Give a running RTSP server of the walking people, for the user `viewer-name`."""
    found = subprocess.run(["/usr/bin/python3", "-c", RTSP_IMPORTS], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"GStreamer's RTSP server is not installed: apt-get install {RTSP_PACKAGES}")
    server = RtspServer(tmp_path, real_data("person.mp4"), "viewer-name", "pass-word")
    server.start()
    yield server
    server.kill()


class ServiceManager:
    """What the daemon tells systemd, over a real socket."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)  # noqa: FBT003 -- the standard library's signature
        self._told: list[str] = []

    def environment(self, watchdog_s: float | None = None) -> dict[str, str]:
        """Return what systemd would set for a service of `Type=notify`."""
        watchdog = {} if watchdog_s is None else {"WATCHDOG_USEC": str(int(watchdog_s * 1e6))}
        return {"NOTIFY_SOCKET": str(self._path)} | watchdog

    @property
    def told(self) -> list[str]:
        """All messages up to now, in order."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self._told.append(self._socket.recv(4096).decode())
        return list(self._told)

    def wait_for(self, text: str, *, after: int = 0) -> None:
        eventually(lambda: any(text in each for each in self.told[after:]), f"{text} at the service manager")

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def service_manager(tmp_path: Path) -> Iterator[ServiceManager]:
    manager = ServiceManager(tmp_path / "notify")
    yield manager
    manager.close()


@pytest.fixture(scope="session")
def letterbox_library(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Give the path of the preprocess kernel as a library of this machine."""
    folder = tmp_path_factory.mktemp("kernel")
    compile_for_host(folder)
    return str(folder / "letterbox.so")
