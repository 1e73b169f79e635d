"""Fixtures: broker, subscriber, RTSP camera, service manager, and the daemon as a process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Tables, write_config, write_toml
from tests.support.letterbox_host import compile_for_host
from tests.support.long_form import IS_LONG
from tests.support.process import Child, StartEdge, clean_environment, edge_command
from tests.support.project import ROOT, real_data
from tests.support.rtsp import RTSP_IMPORTS, RTSP_PACKAGES, RtspServer
from tests.support.scene_video import render_scene_video
from tests.support.service_manager import ServiceManager
from tests.support.subscriber import Subscriber, subscribed

# No test asserts time. Continuous integration draws the same examples each time, so that a change is judged by what it
# changes; at a developer's desk they are new ones each time.
settings.register_profile("desk", deadline=None)

settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


SYSTEM = Path(__file__).parent / "system"

# A shell's background job ignores Ctrl-C, and so would every process that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


# Fixtures that start a process, or are of use only with one.
PROCESS_FIXTURES = {
    "mosquitto", "broker", "subscriber", "start_edge", "configure", "rtsp_server", "service_manager",
    "letterbox_library", "wheel", "scene_video",
}  # fmt: skip


def pytest_itemcollected(item: pytest.Item) -> None:
    """Refuse a test that starts processes outside of tests/system: the fast tests need none."""
    started = PROCESS_FIXTURES.intersection(getattr(item, "fixturenames", ()))
    if started and SYSTEM not in item.path.parents:
        raise pytest.UsageError(
            f"{item.nodeid} starts a process by its fixture {', '.join(sorted(started))}: move it to tests/system"
        )


# Files with the longest tests, longest first: what starts last must be short, as nothing else is left to run beside it.
SLOW = (
    "test_install", "test_jtop", "test_waveforms", "test_soak", "test_end_to_end", "test_bad_links", "test_restarts",
    "test_daemon_signals", "test_daemon_killed", "test_int8_service", "test_self_heal", "test_service",
    "test_tune_command", "test_tune", "test_networks", "test_plan_store_killed", "test_clocks", "test_malformed_broker",
    "test_commands_service", "test_overload", "test_bench", "test_measure", "test_report_sections", "test_random_int8",
    "test_built_networks", "test_sensors", "test_verify",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the longest tests first; skip the long forms where nobody asks for them."""
    items.sort(key=lambda item: SLOW.index(item.path.stem) if item.path.stem in SLOW else len(SLOW))
    for item in items:
        if IS_LONG:
            item.add_marker(pytest.mark.timeout(3600))
        elif item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="the long form: EDGE_LONG_TESTS=1"))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Refuse a pytest that ignores groups: what one process prepares for a whole file would be made by all, at once."""
    if getattr(session.config.option, "loadgroup", False):
        ignored = [each for each in session.items if each.get_closest_marker("xdist_group") and "@" not in each.nodeid]
        if ignored:
            raise pytest.UsageError(f"{ignored[0].nodeid} is not in its xdist_group: take the pytest of pyproject.toml")


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


@pytest.fixture
def subscriber(broker: Mosquitto) -> Iterator[Subscriber]:
    with subscribed(broker.port) as collector:
        yield collector


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


@pytest.fixture(scope="session")
def scene_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a video of the built-in scene in H.264, rendered once."""
    path = tmp_path_factory.mktemp("video") / "scene.mp4"
    render_scene_video(path)
    return path


@pytest.fixture
def rtsp_server(tmp_path: Path, scene_video: Path) -> Iterator[RtspServer]:
    """Give a running RTSP server of the built-in scene, for the user `viewer-name`."""
    found = subprocess.run(["/usr/bin/python3", "-c", RTSP_IMPORTS], capture_output=True, check=False)
    if found.returncode:
        pytest.skip(f"GStreamer's RTSP server is not installed: apt-get install {RTSP_PACKAGES}")
    server = RtspServer(tmp_path, scene_video, "viewer-name", "pass-word")
    server.start()
    yield server
    server.kill()


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


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once; the installer is handed it."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"the wheel cannot be built: no package index can be reached ({built.stderr.strip()[-200:]})")
    return next(folder.glob("*.whl"))
