"""The installer and the uninstaller in a scratch root, and the installed program run as the unit runs it."""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.broker import Mosquitto
from tests.support.process import Child, clean_environment
from tests.support.project import ROOT
from tests.support.service_manager import ServiceManager
from tests.support.subscriber import subscribed

BYTES_ONLY = {"PYTHONDONTWRITEBYTECODE": "1"}  # what runs from the scratch root leaves nothing there


# One process builds the wheel, for these tests and those of the wheel.
pytestmark = pytest.mark.xdist_group("wheel")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Give a root with something of others in it."""
    folder = tmp_path / "root"
    (folder / "opt").mkdir(parents=True)
    (folder / "etc").mkdir()
    (folder / "etc/hostname").write_text("board\n", encoding="utf-8")
    return folder


def script(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [ROOT / "scripts" / name, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=clean_environment(BYTES_ONLY | {"PYTHON": sys.executable}),
    )


def install(root: Path, wheel: Path) -> str:
    """Install the wheel alone; return what was told."""
    done = script("install", "--root", root, "--wheel", wheel, "--no-deps")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("machine", ["cpu", "jetson"])
def test_the_service_is_given_what_its_configuration_can_enable(machine: str) -> None:
    locked = (ROOT / "requirements" / f"{machine}.txt").read_text(encoding="utf-8")
    assert "\nprometheus-client==" in locked, "[http] enabled"


def tree(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return what is in a folder: kind, rights, content, and when it was written."""
    found: dict[str, tuple[object, ...]] = {}
    for path in folder.rglob("*"):
        status = path.lstat()
        if path.is_symlink():
            content = str(path.readlink())
        else:
            content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path.relative_to(folder))] = (
            status.st_mode,
            content,
            0 if path.is_dir() else status.st_mtime_ns,
        )
    return found


def test_a_second_time_changes_nothing_what_is_broken_is_mended_and_all_of_it_goes_without_a_trace(
    root: Path, wheel: Path
) -> None:
    before = tree(root)
    install(root, wheel)
    first = tree(root)
    assert (root / "etc/edge/edge.toml").stat().st_mode & 0o777 == 0o640
    assert (root / "usr/local/bin/edge").readlink() == Path("/opt/edge/bin/edge")
    install(root, wheel)
    assert tree(root) == first
    for broken in ("bin/python", "installed-wheel", "bin/edge"):
        (root / "opt/edge" / broken).unlink()
    (root / "etc/systemd/system/edge.service").write_text("half of it", encoding="utf-8")
    install(root, wheel)
    assert tree(root).keys() == first.keys()
    assert os.access(root / "opt/edge/bin/edge", os.X_OK)
    assert tree(root)["etc/systemd/system/edge.service"][1] == first["etc/systemd/system/edge.service"][1]
    (root / "var/lib/edge").mkdir(parents=True)
    (root / "var/lib/edge/state").write_text("of the daemon", encoding="utf-8")
    assert script("uninstall", "--purge", "--root", root).returncode == 0
    shutil.rmtree(root / "var")  # that folder is the system's
    assert tree(root) == before


def test_on_a_jetson_the_power_modes_are_there_and_an_upgrade_keeps_the_configuration(root: Path, wheel: Path) -> None:
    (root / "etc/nv_tegra_release").write_text("# R36 (release), REVISION: 4.4\n", encoding="utf-8")
    another = root / "usr/local/bin/edge"
    another.parent.mkdir(parents=True)
    another.write_text("another program", encoding="utf-8")
    install(root, wheel)
    units = {path.name for path in (root / "etc/systemd/system").glob("edge*")}
    assert units == {"edge.service", "edge-power.service", "edge-power.socket"}
    assert "include-system-site-packages = true" in (root / "opt/edge/pyvenv.cfg").read_text(encoding="utf-8")
    config, beside = root / "etc/edge/edge.toml", root / "etc/edge/edge.toml.new"
    assert not beside.exists()
    config.write_text('[device]\nname = "mine"\n', encoding="utf-8")
    assert "is kept" in install(root, wheel)
    assert config.read_text(encoding="utf-8") == '[device]\nname = "mine"\n'
    assert beside.read_bytes() == (ROOT / "systemd/edge.toml").read_bytes()
    assert script("uninstall", "--root", root).returncode == 0
    assert config.read_text(encoding="utf-8") == '[device]\nname = "mine"\n'
    assert not (root / "opt/edge").exists()
    assert another.read_text(encoding="utf-8") == "another program"
    assert not list((root / "etc/systemd/system").glob("edge*"))


@pytest.mark.parametrize("name", ["install", "uninstall"])
def test_an_option_that_is_none_is_refused(name: str) -> None:
    done = script(name, "--force")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"'--force' is no option; see scripts/{name} --help" in done.stderr


def commands(unit: Path, root: Path, key: str) -> list[str]:
    """Return a command of the unit, as it is below the scratch root."""
    lines = unit.read_text(encoding="utf-8").splitlines()
    parts = shlex.split(next(line for line in lines if line.startswith(f"{key}=")).partition("=")[2])
    return [f"{root}{part}" if part.startswith(("/opt", "/etc")) else part for part in parts]


@pytest.fixture
def stopped() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.mark.broker
def test_the_installed_program_serves_as_the_unit_starts_it(
    root: Path, wheel: Path, tmp_path: Path, broker: Mosquitto, service_manager: ServiceManager, stopped: ExitStack
) -> None:
    install(root, wheel)
    # What --no-deps leaves out is where the tests have it.
    (site,) = (root / "opt/edge/lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    config = root / "etc/edge/edge.toml"
    sample = config.read_text(encoding="utf-8").replace("mqtt://127.0.0.1:1883", broker.url)
    config.write_text(sample, encoding="utf-8")
    folders = {name: tmp_path / name for name in ("state", "cache", "run")}
    for folder in folders.values():
        folder.mkdir()
    environment = clean_environment(
        BYTES_ONLY
        | {"STATE_DIRECTORY": str(folders["state"]), "CACHE_DIRECTORY": str(folders["cache"])}
        | {"RUNTIME_DIRECTORY": str(folders["run"]), "HOME": str(folders["state"])}
        | service_manager.environment(watchdog_s=2)
    )
    unit = root / "etc/systemd/system/edge.service"
    checked = subprocess.run(commands(unit, root, "ExecStartPre"), check=False, capture_output=True, env=environment)
    assert checked.returncode == 0, checked.stderr
    daemon = Child(commands(unit, root, "ExecStart"), tmp_path, "installed", environment)
    stopped.callback(daemon.kill)
    daemon.start()
    service_manager.wait_for("READY=1")
    service_manager.wait_for("WATCHDOG=1")
    with subscribed(broker.port) as subscriber:
        subscriber.wait_for_results("belt", 3)
    daemon.send(signal.SIGHUP)
    service_manager.wait_for("RELOADING=1")
    assert daemon.end() == 0, daemon.log
    assert "STOPPING=1" in service_manager.told
