"""Privacy: an untouched home directory, and no telemetry of libraries."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from tests.support.configuration import Json, belt, write_config
from tests.support.process import Child, edge_command, runtime_dir
from tests.support.project import CONVEYOR, ROOT
from tests.support.waiting import free_port

XDG = {"XDG_CACHE_HOME": ".cache", "XDG_CONFIG_HOME": ".config", "XDG_DATA_HOME": ".local/share"}
# No more of the tests' environment is inherited: edge, imported here, has set its variable in it, and ONNX Runtime
# switches its telemetry off where continuous integration's variables are set.
KEPT = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH")
IMPORTS = re.compile(r"^\s*(?:import|from) onnxruntime\b", re.MULTILINE)
SWITCHES_OFF = re.compile(r'^(?:(?:import|from) edge\b|os\.environ\["ORT_DISABLE_TELEMETRY"\] = "1"$)', re.MULTILINE)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


def environment(home: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in KEPT if name in os.environ}
    of_the_user = {name: str(home / folder) for name, folder in XDG.items()}
    return kept | of_the_user | {"HOME": str(home), "RUNTIME_DIRECTORY": runtime_dir()}


def left_in(home: Path) -> list[str]:
    return sorted(str(path.relative_to(home)) for path in home.rglob("*"))


@pytest.mark.parametrize("added", [{}, {"ORT_DISABLE_TELEMETRY": "0"}], ids=["plain", "asked-for-telemetry"])
def test_detect_leaves_the_home_directory_empty(added: dict[str, str], home: Path, tmp_path: Path) -> None:
    source: str = belt(frames=3)["source"]
    command = edge_command("detect", CONVEYOR, source, "--json", "--state-dir", tmp_path / "state")
    detect = Child(command, tmp_path, "detect", environment(home) | added)
    detect.start()
    try:
        assert detect.wait() == 0, detect.log
    finally:
        detect.kill()
    assert '"detections"' in detect.output
    assert left_in(home) == []


def test_the_daemon_leaves_the_home_directory_empty(home: Path, tmp_path: Path) -> None:
    tables: dict[str, Json] = {"streams.belt": belt()}
    config = write_config(tmp_path / "edge.toml", f"mqtt://127.0.0.1:{free_port()}", tables)
    command = edge_command("run", config, "--json", "--state-dir", tmp_path / "state")
    daemon = Child(command, tmp_path, "daemon", environment(home))
    daemon.start()
    try:
        daemon.await_log("stream belt is running")
        assert daemon.end() == 0, daemon.log
    finally:
        daemon.kill()
    assert left_in(home) == []


def test_scripts_switch_the_telemetry_off_before_they_import_onnxruntime() -> None:
    """The package does it in its `__init__`; a script outside of it imports the package first, or does the same."""
    too_early = []
    for path in (each for folder in ("benchmarks", "engines", "scripts") for each in (ROOT / folder).rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        imports = IMPORTS.search(text)
        if imports and not SWITCHES_OFF.search(text, 0, imports.start()):
            too_early.append(str(path.relative_to(ROOT)))
    assert too_early == []
