"""Probes of `edge check`: files, machine, engines, cameras and broker."""

from __future__ import annotations

import contextlib
import platform
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import psutil

from edge import __version__
from edge.capture import open_source
from edge.capture.source import TIMEOUT_S, SourceLimits
from edge.core.clock import clock_synchronised
from edge.core.config import Config, ModelSettings, StreamSettings, load_config
from edge.core.errors import EdgeError, UnansweredError
from edge.core.manifest import read_labels, read_manifest, served_file
from edge.core.process import usable_cores
from edge.core.quantity import counted
from edge.core.records import Message
from edge.core.state_dir import find_state_dir
from edge.daemon.commands.service import subscriptions
from edge.daemon.prometheus import exporter
from edge.host.board import board_name, read_board
from edge.host.sensors.sensors import Sensors
from edge.inference.backends.cuda import open_device
from edge.inference.backends.cuda_runtime import graphs_work
from edge.inference.backends.tensorrt.library import load_tensorrt
from edge.inference.engine_provider import EngineEnvironment
from edge.mqtt.connection_trial import try_connection
from edge.mqtt.outbox.backlog import read_backlog
from edge.mqtt.tls import explain_failure, tls_context
from edge.mqtt.topics import Topics
from edge.pipeline.filters import FindingsFilter
from edge.pipeline.served_model import ServedModel
from edge.power.edge_power import CONF
from edge.power.modes import read_modes

# A camera may need this long for its first frame: an RTSP server waits for a key frame.
FIRST_FRAME_S = 10.0
SENSOR_S = 0.5  # over which power is measured
BROKER_S = 25.0  # for both versions, and the trial beside a daemon
SPARE_S = 15.0  # beyond its first frame, for opening and closing a camera
OFFLINE = b'{"state":"offline"}'


@dataclass(frozen=True)
class Finding:
    """One thing checked; `works` is None for a mere fact."""

    thing: str
    works: bool | None
    text: str

    def to_json(self) -> dict[str, Any]:
        return {"thing": self.thing, "works": self.works, "told": self.text}


def probe(config_path: Path | None, state_dir: Path | None, *, config_only: bool) -> list[Finding]:
    """Check everything; raise ConfigError or ModelError for a configuration that cannot be used."""
    config = load_config(config_path) if config_path is not None else None
    findings: list[Finding] = []
    if config is not None:
        findings += _files(config)
        findings += _no_streams(config, config_only=config_only)
    if not config_only:
        findings += _machine()
        findings += _services(config, state_dir) if config is not None else [_built_in_model()]
    return findings


def _files(config: Config) -> Iterator[Finding]:
    """Check the files that the configuration names."""
    yield Finding(
        "configuration",
        works=True,
        text=f"{counted(len(config.streams), 'stream')}, {counted(len(config.models), 'model')}",
    )
    for has_secrets in (config.mqtt.credentials, *(stream.address for stream in config.streams.values())):
        has_secrets()  # raises ConfigError where a password file cannot be used
    if config.mqtt.tls:
        tls_context(config.mqtt)
        signer = config.mqtt.ca or "the system's CAs"
        yield Finding("TLS files", works=True, text=f"{signer}; {config.mqtt.cert or 'no client certificate'}")
    for name, model in config.models.items():
        manifest = read_manifest(model.path)
        labels = read_labels(model.path, manifest)
        path = served_file(model.path, manifest)
        for stream, settings in config.streams.items():  # raises ConfigError for a label that the model lacks
            if settings.model == name:
                FindingsFilter.of(stream, settings.labels, labels, settings.min_size)
        yield Finding(f"model files {name}", works=True, text=f"{path.name}, {manifest.task}, {len(labels)} labels")


def _no_streams(config: Config, *, config_only: bool) -> Iterator[Finding]:
    """Report a configuration of which nothing comes; commands and a reload may still bring streams."""
    if any(stream.enabled for stream in config.streams.values()):
        return
    text = "no [streams.NAME] is enabled: nothing to do; wanted one or more, with source and model"
    is_fact = config_only or {"stream_add", "stream_on", "reload"} & set(config.commands.allow)
    yield Finding("streams", works=None if is_fact else False, text=text)


def _machine() -> Iterator[Finding]:
    memory_gb = psutil.virtual_memory().total / 1e9
    yield Finding("edge", None, f"{__version__} on Python {platform.python_version()}")
    yield Finding("board", None, f"{read_board().summary}, {usable_cores()} usable cores, {memory_gb:.1f} GB memory")
    synchronised = {True: "synchronised", False: "not synchronised: times in messages may be wrong", None: "unknown"}
    yield Finding("clock", None, synchronised[clock_synchronised()])
    yield Finding("GPU", None, _text_or_error(_gpu))
    yield Finding("TensorRT", None, _text_or_error(_tensorrt))
    yield Finding("power sensors", None, _sensors())
    yield Finding("power modes", None, _text_or_error(_power_modes))


def _sensors() -> str:
    """Return the rails with their present power."""
    sensors = Sensors()
    sensors.start()
    try:
        if not sensors.rails:
            return "none readable: power and energy are null in telemetry"
        sleep(SENSOR_S)
        reading = sensors.read().to_json()
    finally:
        sensors.stop()
    rails = ", ".join(f"{name} {'?' if w is None else format(w, '.2f')} W" for name, w in reading["rails_w"].items())
    return f"{rails}; total {reading['power_rail']}"


def _power_modes() -> str:
    modes = read_modes()
    if modes is None:
        return f"none: there is no {CONF}, which only a Jetson has"
    names = ", ".join(mode.name for mode in modes.modes)
    return f"{modes.current.name if modes.current else modes.unknown}, of {names} ({modes.file})"


def _gpu() -> str:
    device = open_device()
    gpu = device.gpu
    memory = "shared with the CPU" if gpu.integrated else "dedicated"
    graphs = "CUDA graphs work" if graphs_work() else "no CUDA graphs: cuda-bindings is not installed"
    return (
        f"{gpu.name}, {gpu.architecture}, {gpu.sm_count} SMs, {gpu.memory_bytes / 1e9:.1f} GB memory ({memory}), CUDA "
        f"{gpu.cuda_version}; buffers are {device.memory_kind()}; {graphs}"
    )


def _tensorrt() -> str:
    trt = load_tensorrt()
    return f"{trt.__name__} {trt.__version__}"


def _text_or_error(probe: Callable[[], str]) -> str:
    try:
        return probe()
    except EdgeError as error:
        return str(error)


def _services(config: Config, state_dir: Path | None) -> Iterator[Finding]:
    """Check what the daemon opens; cameras and broker at once, as dead ones would add up, and while engines open."""
    begun = [
        (f"camera {name}", _longest_s(stream) + SPARE_S, _begin(partial(_first_frame, stream)))
        for name, stream in config.streams.items()
        if stream.enabled
    ]
    begun.append(("broker", BROKER_S, _begin(partial(_connect, config))))
    start_s = monotonic()
    folder = _attempt("state directory", lambda: str(find_state_dir(state_dir, config.device.state_dir)))
    yield folder
    if folder.works:  # else nothing in it is used
        environment = EngineEnvironment(Path(folder.text), board_name(), config.engines)
        for name, model in config.models.items():
            yield _attempt(f"engine {name}", partial(_open_engine, name, model, environment))
        yield _backlog(config, Path(folder.text))
    for name, stream in config.streams.items():
        if not stream.enabled:
            yield Finding(f"camera {name}", None, "not examined: enabled = false")
    for thing, limit_s, future in begun:
        yield _attempt(thing, partial(_answer, future, start_s, limit_s))
    if config.http.enabled:
        yield _attempt("Prometheus", partial(exporter.address, config.http))


def _begin(action: Callable[[], str]) -> Future[str]:
    """Begin an examination on a daemon thread: one that hangs in foreign code must not keep the command."""
    future: Future[str] = Future()

    def examine() -> None:
        try:
            future.set_result(action())
        except BaseException as error:  # noqa: BLE001 -- raised again where the answer is awaited
            future.set_exception(error)

    threading.Thread(target=examine, name="check", daemon=True).start()
    return future


def _answer(future: Future[str], start_s: float, limit_s: float) -> str:
    try:
        return future.result(max(start_s + limit_s - monotonic(), 0.0))
    except FutureTimeoutError:
        if future.done():
            raise
        raise EdgeError(f"no answer in {limit_s:g} s; check that it is there") from None


def _connect(config: Config) -> str:
    settings, topics = config.mqtt, Topics(config.mqtt.prefix, config.device.name)
    will = Message(topics.status, OFFLINE, retain=True)
    try:
        return try_connection(settings, settings.client_id_of(config.device.name), will, subscriptions(config, topics))
    except (OSError, UnansweredError) as error:
        raise EdgeError(
            f"broker {settings.shown} cannot be reached ({explain_failure(settings, error)}); check that it runs "
            "and that [mqtt] url is right"
        ) from None


def _backlog(config: Config, state_dir: Path) -> Finding:
    """Count the messages on disk, with those that are held for another destination."""
    try:
        backlog = read_backlog(config, state_dir)
    except EdgeError as error:
        return Finding("backlog", works=False, text=str(error))
    waiting = sum(each.messages for each in backlog if not each.is_held)
    held = [f"{each.messages} messages for {each.destination} are held" for each in backlog if each.is_held]
    advice = ["see `edge outbox show`, `send` and `discard`"] if held else []
    return Finding("backlog", None, "; ".join([f"{waiting} messages wait on disk", *held, *advice]))


def _built_in_model() -> Finding:
    settings = ModelSettings.model_validate({"path": "conveyor"})
    return _attempt("engine of the built-in model", partial(_open_engine, "conveyor", settings))


def _open_engine(name: str, settings: ModelSettings, environment: EngineEnvironment | None = None) -> str:
    model = ServedModel(name, settings, environment)
    interim = f", until a better one is built: {model.missing_reason}" if model.missing_reason else ""
    memory = f", buffers {settings.memory}" if settings.memory != "auto" and not model.predictor.is_reference else ""
    return f"{model.engine.label}{memory}{interim}"


def _attempt(thing: str, action: Callable[[], str]) -> Finding:
    try:
        return Finding(thing, works=True, text=action())
    except (EdgeError, OSError) as error:
        return Finding(thing, works=False, text=str(error))


def _longest_s(stream: StreamSettings) -> float:
    return max(FIRST_FRAME_S, stream.stall_s)


def _first_frame(stream: StreamSettings) -> str:
    """Open a source, wait for one frame and return its size."""
    start_s, longest_s = monotonic(), _longest_s(stream)
    timeout_s = TIMEOUT_S if stream.stall_s <= FIRST_FRAME_S else stream.stall_s
    limits = SourceLimits(stream.max_mpx, stream.stall_s, timeout_s)
    with contextlib.closing(open_source(stream.address(), limits)) as source:
        while monotonic() - start_s < longest_s:
            with contextlib.suppress(TimeoutError):
                if source.grab() is None:
                    raise EdgeError(f"{stream.source.shown} ended before its first frame")
                height, width = source.retrieve(None).shape[:2]
                return f"{stream.source.shown} gives {width}×{height} after {monotonic() - start_s:.1f} s"
    raise EdgeError(f"{stream.source.shown} gave no frame in {longest_s:g} s; check that the camera streams")
