"""A real systemd as the first process of namespaces of its own: nothing that it does reaches this machine."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.support.project import ROOT, program
from tests.support.waiting import eventually

SCRIPT = ROOT / "tests/support/private_root.sh"
CHECKOUT = "/opt/test/checkout"  # where the new root has what the tests bring
NEEDED = "/opt/test/needed"
PYTHON = f"/opt/test/python/bin/python{sys.version_info[0]}.{sys.version_info[1]}"
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin"


class PrivateSystem:
    """The system behind a first process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.root = Path(f"/proc/{pid}/root")

    def run(
        self, *command: str | Path, user: str = "root", check: bool = True, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run a command there; as another user with nothing of the environment, as sudo does."""
        home = {} if user == "root" else {"HOME": self.home_of(user)}
        variables = [f"{name}={value}" for name, value in ({"PATH": PATH} | home | dict(environment or {})).items()]
        switch = [] if user == "root" else ["runuser", "-u", user, "--"]
        inside = ["nsenter", "-t", str(self.pid), "-m", "-u", "-i", "-n", "-p", "-C", "-r", "-w"]
        done = subprocess.run(
            [*inside, *switch, "env", "-i", *variables, *map(str, command)],
            capture_output=True, text=True, check=False, timeout=180,
        )  # fmt: skip
        if check and done.returncode:
            log = self.run("journalctl", "--no-pager", "--output=cat", "--lines=50", check=False).stdout
            pytest.fail(f"{command}: {done.stdout}{done.stderr}\n{log}")
        return done

    def home_of(self, user: str) -> str:
        lines = (self.root / "etc/passwd").read_text(encoding="utf-8").splitlines()
        return next(line.split(":")[5] for line in lines if line.startswith(f"{user}:"))

    def shown(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()


@contextlib.contextmanager
def private_system(folder: Path) -> Iterator[PrivateSystem]:
    """Start a systemd; skip the test where this machine, or what the test may do there, does not allow it."""
    if os.geteuid() != 0:
        pytest.skip("only root can make namespaces of all kinds")
    for name in ("unshare", "nsenter", "setpriv"):
        program(name, "util-linux")
    if not Path("/usr/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed: apt-get install systemd")
    with _control_group() as group, (folder / "log").open("wb") as log:
        kinds = ["--mount", "--pid", "--ipc", "--uts", "--net", "--cgroup", "--fork", "--kill-child"]
        work = folder / "work"
        work.mkdir()
        brought = [work, ROOT, sys.base_prefix, Path(np.__file__).parents[1]]
        ends_with_us = ("setpriv", "--pdeathsig", "KILL")
        enter = ("bash", "-c", 'echo $$ > "$0"/cgroup.procs && exec "$@"', group)
        start = [*enter, *ends_with_us, "unshare", *kinds, SCRIPT, *brought]
        process = subprocess.Popen([*map(str, start)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            yield _started(process, folder / "log")
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def _control_group() -> Iterator[Path]:
    """Give a control group of its own, which the system sees as the root of all."""
    mounts = [line.split() for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    group = next((Path(mount[1]) / f"edge-tests-{os.getpid()}" for mount in mounts if mount[2] == "cgroup2"), None)
    if group is None:
        pytest.skip("no cgroup2 file system is mounted")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no control group can be made: {error}")

    def is_gone() -> bool:  # its processes take a moment to end
        for inner, _, _ in os.walk(group, topdown=False):
            with contextlib.suppress(OSError):
                Path(inner).rmdir()
        return not group.exists()

    try:
        yield group
    finally:
        eventually(is_gone, "the end of the control group")


def _started(process: subprocess.Popen[bytes], log: Path) -> PrivateSystem:
    """Wait for the system; skip the test where it does not come up."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")

    def is_up() -> bool:
        if process.poll() is not None:
            pytest.skip(f"no private systemd can be started here: {log.read_text(errors='replace')[-300:].strip()}")
        pid = children.read_text(encoding="ascii").split()[:1]
        if not pid or Path(f"/proc/{pid[0]}/comm").read_text(encoding="utf-8").strip() != "systemd":
            return False
        found = PrivateSystem(int(pid[0])).run("systemctl", "is-system-running", check=False).stdout.strip()
        return found in ("running", "degraded")

    eventually(is_up, "the private systemd")
    return PrivateSystem(int(children.read_text(encoding="ascii").split()[0]))
