"""Starts the machine, and runs commands on it as one user or another."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
JETSON_STATS = "jetson-stats==7.2.0"  # the release that the facts about jtop are of
INSTALL_S = 240.0
REPLY_S = 120.0
MEMBER, OUTSIDER = 64200, 64201
JTOP_GROUP = 64123


@dataclass(frozen=True)
class Ran:
    code: int
    out: str
    error: str


class Machine:
    """A namespace in which jtop's service runs; ends, with all its processes, with the `with`."""

    def __init__(self, python: Path) -> None:
        self.python = python  # has jetson-stats, and finds this project
        inside = [sys.executable, Path(__file__).with_name("inside.py"), python]
        seen = dict.fromkeys([ROOT, Path(sys.prefix), Path(sys.base_prefix), python.parents[1]])
        # Process and mounts are its own: what it starts ends with it, and the machine below sees none of its files.
        own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
        command = [str(part) for part in [*own, *inside, *seen]]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def __enter__(self) -> Machine:
        if self._line().strip() != "ready":
            self.close()
            pytest.fail(f"the machine did not come up: {self._process.stderr.read() if self._process.stderr else ''}")
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, command: Sequence[str | Path], user: int = MEMBER) -> Ran:
        """Run a command as the group's member, an outsider, or root (0)."""
        assert self._process.stdin is not None
        groups = [JTOP_GROUP] if user == MEMBER else []
        request = {"command": [str(part) for part in command], "user": user, "groups": groups}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return Ran(**json.loads(self._line()))

    def close(self) -> None:
        """End the machine, and every process on it."""
        if self._process.stdin is not None:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)
        self._lines.put("")

    def _line(self) -> str:
        return self._lines.get(timeout=REPLY_S)


def jtop_python() -> Path:
    """Return a Python that has jetson-stats, apart from the project's own; skip where that cannot be had."""
    folder = ROOT / ".venv" / "jtop"
    python = folder / "bin/python"
    if not (folder / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True, timeout=INSTALL_S)
        install = [str(python), "-m", "pip", "install", "--quiet", "--no-input", JETSON_STATS]
        done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_S, check=False)
        if done.returncode:
            pytest.skip(f"{JETSON_STATS} cannot be installed: {(done.stderr.strip().splitlines() or [''])[-1]}")
        packages = next(folder.glob("lib/python3*/site-packages"))
        (packages / "project.pth").write_text(f"{ROOT}\n", encoding="utf-8")
        (folder / "installed").touch()
    return python


def why_not() -> str | None:
    """Return why this machine cannot hold another one; None where it can."""
    if os.geteuid() != 0:
        return "needs root, for a namespace of mounts"
    if sys.platform != "linux" or os.uname().machine == "aarch64":
        return "jtop would look at this board itself"
    if shutil.which("unshare") is None:
        return "unshare is not installed: apt-get install util-linux"
    trial = "mount -t tmpfs t /mnt && mkdir /mnt/u /mnt/w /mnt/r && mount -t overlay o -o lowerdir=/,upperdir=/mnt/u,"
    own = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private", "sh", "-c"]
    done = subprocess.run([*own, trial + "workdir=/mnt/w /mnt/r"], capture_output=True, text=True, check=False)
    return f"no namespace of mounts here: {done.stderr.strip()[:200]}" if done.returncode else None


@contextlib.contextmanager
def jtop_machine() -> Iterator[Machine]:
    """Yield a machine with jtop's service at work; skip where that cannot be."""
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with Machine(jtop_python()) as machine:
        yield machine


def reply(ran: Ran) -> Any:
    """Return what a command printed as JSON."""
    assert ran.code == 0, ran.error
    return json.loads(ran.out)
