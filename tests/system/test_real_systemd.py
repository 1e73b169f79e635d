"""The installer and the units under a real systemd, in namespaces of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.emulated_boards.power_modes import TOOLS, write_power_modes
from tests.support.private_systemd import CHECKOUT, NEEDED, PYTHON, PrivateSystem, private_system
from tests.support.project import program
from tests.support.waiting import eventually

# One process builds the wheel, for these tests and those of the installer.
pytestmark = [pytest.mark.long, pytest.mark.broker, pytest.mark.xdist_group("wheel")]
CONFIG = "/etc/edge/edge.toml"
CREDENTIAL = "LoadCredential=mqtt-password:/etc/edge/mqtt-password"
ONLINE = "/sys/devices/system/cpu/cpu1/online"


@pytest.fixture
def system(tmp_path: Path, wheel: Path) -> Iterator[PrivateSystem]:
    """Give a Jetson with its power modes, a broker and the wheel; nothing is installed yet."""
    broker = program("mosquitto", "mosquitto")
    with private_system(tmp_path) as system:
        (system.root / "opt/test" / wheel.name).write_bytes(wheel.read_bytes())
        emulate_jetson(system.root)
        system.run("systemctl", "start", "dbus.socket")
        system.run("systemd-run", "--unit=broker", broker, "-p", "1883")
        yield system


def emulate_jetson(root: Path) -> None:
    """Write a TX2's modes, and an nvpmodel that sets one of a mode's values, as the real one sets all."""
    (root / "etc/nv_tegra_release").write_text("# R32 (release), REVISION: 7.4\n", encoding="utf-8")
    write_power_modes(root, "tx2")
    online = root / ONLINE.lstrip("/")
    online.parent.mkdir(parents=True)
    online.write_text("1", encoding="utf-8")
    online.chmod(0o444)
    for name in ("nvpmodel", "jetson_clocks"):
        tool = root / "usr/sbin" / name
        tool.write_text(f"#!{PYTHON} -IS\n{(TOOLS / f'{name}.py').read_text(encoding='utf-8')}", encoding="utf-8")
        tool.chmod(0o755)
    nvpmodel = root / "usr/sbin/nvpmodel"
    nvpmodel.rename(nvpmodel.with_name("nvpmodel.real"))
    nvpmodel.write_text(f'#!/bin/sh\n[ "$1" != -m ] || echo 0 > {ONLINE}\nexec nvpmodel.real "$@"\n', encoding="utf-8")
    nvpmodel.chmod(0o755)


def install(system: PrivateSystem, wheel: Path) -> None:
    """Install as root does; what --no-deps leaves out is where the tests have it."""
    arguments = ("--wheel", f"/opt/test/{wheel.name}", "--no-deps")
    python = {"PYTHON": PYTHON, "PYTHONDONTWRITEBYTECODE": "1", "HOME": "/root"}
    done = system.run(f"{CHECKOUT}/scripts/install", *arguments, environment=python)
    assert "then: systemctl start edge" in done.stdout
    (site,) = (system.root / "opt/edge/lib").glob("python*/site-packages")
    (site / "needed.pth").write_text(f"{NEEDED}\n", encoding="utf-8")


def hand_over_a_password(system: PrivateSystem) -> None:
    """As docs/service.md has it: a file that only root reads, and a drop-in."""
    password = system.root / "etc/edge/mqtt-password"
    password.write_text("the password\n", encoding="utf-8")
    password.chmod(0o600)
    drop_in = system.root / "etc/systemd/system/edge.service.d/override.conf"
    drop_in.parent.mkdir()
    drop_in.write_text(f"[Service]\n{CREDENTIAL}\n", encoding="utf-8")
    config = system.root / CONFIG.lstrip("/")
    text = config.read_text(encoding="utf-8").replace('# username = "edge"', 'username = "edge"', 1)
    credential = text.replace('# password_file = "/etc/edge/mqtt', 'password_file = "credential:mqtt', 1)
    config.write_text(credential, encoding="utf-8")
    system.run("systemctl", "daemon-reload")


def published(system: PrivateSystem, topic: str, count: int) -> list[dict[str, object]]:
    """Wait for messages at the broker."""
    done = system.run("mosquitto_sub", "-t", f"edge/bench-01/{topic}", "-C", str(count), "-W", "60")
    return [json.loads(line) for line in done.stdout.splitlines()]


def writable_and_executable(system: PrivateSystem, unit: str) -> list[str]:
    """Return the mounts of a service in which a file that it writes could be executed."""
    text = system.run("cat", f"/proc/{system.shown(unit, 'MainPID')}/mountinfo").stdout
    newest = {line.split()[4]: line.split()[5].split(",") for line in text.splitlines()}  # the last one covers others
    kernel = ("/proc", "/sys", "/dev")
    return [
        path
        for path, options in newest.items()
        if {"ro", "noexec"}.isdisjoint(options) and (path == "/dev/shm" or not path.startswith(kernel))
    ]


def test_the_installed_service_serves_in_its_sandbox(system: PrivateSystem, wheel: Path) -> None:
    install(system, wheel)
    assert system.run("systemctl", "is-enabled", "edge", "edge-power.socket").stdout.split() == ["enabled", "enabled"]
    hand_over_a_password(system)
    system.run("systemctl", "start", "edge")
    results = published(system, "streams/belt/results", 3)
    assert [result["stream"] for result in results] == ["belt"] * 3
    (status,) = published(system, "status", 1)
    # The kernel may not be asked (ProtectClock): systemd-timedated was.
    assert status["clock_synchronised"] in (True, False)
    # /etc/edge is root's, and opens to the service for reading alone.
    assert writable_and_executable(system, "edge") == ["/etc/edge"]

    # Typed by its user, a command finds the service's state, and systemd hands it the password.
    assert "comes from systemd alone" in system.run("edge", "check", CONFIG, user="edge", check=False).stderr
    handed = ("--pipe", "--wait", "--quiet", "--uid=edge", "-p", CREDENTIAL)
    checked = system.run("systemd-run", *handed, "edge", "check", CONFIG, "--json")
    findings = {each["thing"]: each for each in json.loads(checked.stdout)}
    assert findings["state directory"]["told"] == "/var/lib/edge"
    assert "is online" in findings["broker"]["told"]

    changed = system.run("edge", "power", "set", "MAXQ", user="edge")
    assert "MAXQ (mode 1)" in changed.stdout
    assert (system.root / "var/lib/nvpmodel/status").read_text(encoding="utf-8") == "pmode:0001\n"
    assert (system.root / ONLINE.lstrip("/")).read_text(encoding="utf-8").strip() == "0"
    assert writable_and_executable(system, "edge-power") == []

    system.run("systemctl", "reload", "edge")
    system.run("systemctl", "kill", "--signal=KILL", "edge")
    eventually(lambda: system.shown("edge", "NRestarts") == "1", "the restart")
    eventually(lambda: system.shown("edge", "ActiveState") == "active", "the service after its restart")
    system.run("systemctl", "stop", "edge")
    assert (system.shown("edge", "Result"), system.shown("edge", "ExecMainStatus")) == ("success", "0")

    system.run(f"{CHECKOUT}/scripts/uninstall", "--purge")
    for path in ("opt/edge", "etc/edge", "var/lib/edge", "etc/systemd/system/edge.service", "usr/local/bin/edge"):
        assert not (system.root / path).exists(), path
    assert "edge:" not in (system.root / "etc/passwd").read_text(encoding="utf-8")
