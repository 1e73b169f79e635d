"""Signals at whatever moment of the daemon's life: it takes each, and never hangs."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.configuration import Configure, belt, write_config
from tests.support.long_form import IS_LONG
from tests.support.process import Child, StartEdge, clean_environment
from tests.support.waiting import PATIENCE_S, eventually, free_port

SIGNALS = 2000 if IS_LONG else 20
SEED = 11
LONGEST_S = 0.5  # between two signals
TOGETHER_S = 0.0003  # so soon may a second one come that the handler is still at the first

# Takes each lock that the daemon's parts have before the signals come.
WITH_LOCKS_HELD = """
import os, signal, sys
from pathlib import Path
from edge.core.config import load_config
from edge.daemon.daemon import Daemon
from edge.core.process import signal_handler

def locks(thing, seen):
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if hasattr(thing, "acquire"):
        yield thing
    elif type(thing).__module__.split(".")[0] in ("edge", "threading"):
        for part in vars(thing).values() if hasattr(thing, "__dict__") else ():
            yield from locks(part, seen)

path, state_dir = map(Path, sys.argv[1:])
daemon = Daemon(path, load_config(path), state_dir)
with signal_handler(daemon.on_signal, (signal.SIGHUP, signal.SIGINT, signal.SIGTERM)):
    held = [lock for lock in locks(daemon, set()) if lock.acquire(blocking=False)]
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)
    for lock in held:
        lock.release()
    print(len(held))
    sys.exit(daemon.run())
"""

# The command `edge`, with a signal that comes while it imports a module.
SIGNALLED_AT_AN_IMPORT = """
import os, runpy, sys
number, module = int(sys.argv.pop(1)), sys.argv.pop(1)

class Signaller:
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name == module:
            sys.meta_path.remove(cls)
            os.kill(os.getpid(), number)

sys.meta_path.insert(0, Signaller)
runpy.run_module("edge", run_name="__main__")
"""

# The command `edge`, with a thread in a library that returns once the interpreter has torn down its modules.
ABANDONED_IN_A_LIBRARY = """
import os, sys, threading, time
import cv2
import edge.cli.main

class Releasing:
    def __del__(self, os=os, time=time, pipe=sys.argv[1]):
        os.close(os.open(pipe, os.O_WRONLY))
        time.sleep(0.5)

def run_command():
    threading.Thread(target=cv2.imread, args=(sys.argv[1],), daemon=True).start()
    print("done")
    return 3

releasing = Releasing()
edge.cli.main.main = run_command
from edge.__main__ import main
sys.exit(main())
"""

# The command `edge`, with signals that come while the interpreter ends.
SIGNALLED_AT_THE_END = """
import atexit, os, signal, sys
from edge.cli.main import main

def signal_all():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        os.kill(os.getpid(), number)

atexit.register(signal_all)
sys.exit(main())
"""


def test_a_signal_that_comes_while_the_main_thread_holds_locks_is_taken(tmp_path: Path) -> None:
    config = write_config(tmp_path / "edge.toml", f"mqtt://127.0.0.1:{free_port()}", {})
    command: list[str | Path] = [sys.executable, "-c", WITH_LOCKS_HELD, config, tmp_path]
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, env=clean_environment()
    )
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) > 0


def signalled_daemon(number: signal.Signals, module: str, folder: Path) -> Child:
    """Return `edge run`, started, which gets a signal while it imports a module."""
    config = write_config(folder / "edge.toml", f"mqtt://127.0.0.1:{free_port()}", {})
    command = [sys.executable, "-c", SIGNALLED_AT_AN_IMPORT, str(int(number)), module, "run", str(config), "--json"]
    daemon = Child([*command, "--state-dir", folder / "state"], folder, "edge", clean_environment())
    daemon.start()
    return daemon


@pytest.mark.parametrize(
    ("number", "module"),
    [(signal.SIGTERM, "edge.cli.main"), (signal.SIGTERM, "numpy"), (signal.SIGINT, "edge.daemon.daemon")],
)
def test_a_daemon_that_is_stopped_while_it_imports_does_not_start(
    number: signal.Signals, module: str, tmp_path: Path
) -> None:
    daemon = signalled_daemon(number, module, tmp_path)
    assert daemon.wait() == 0, daemon.log
    assert (json.loads(daemon.output), daemon.log) == ({}, "")


def test_a_reload_that_is_asked_for_while_it_imports_follows(tmp_path: Path) -> None:
    daemon = signalled_daemon(signal.SIGHUP, "edge.cli.main", tmp_path)
    daemon.await_log("configuration reloaded")
    assert daemon.end() == 0, daemon.log


def test_signals_after_the_daemon_has_stopped_leave_its_output_and_exit_code(tmp_path: Path) -> None:
    config = write_config(tmp_path / "edge.toml", f"mqtt://127.0.0.1:{free_port()}", {})
    command: list[str | Path] = [sys.executable, "-c", SIGNALLED_AT_THE_END, "run", config, "--json"]
    daemon = Child([*command, "--state-dir", tmp_path / "state"], tmp_path, "edge", clean_environment())
    daemon.start()
    daemon.await_log("streams run as boot")
    while daemon.process.poll() is None:  # and from here on, many more
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            daemon.send(number)
        time.sleep(TOGETHER_S)
    assert daemon.wait() == 0, daemon.log
    assert json.loads(daemon.output)["messages_lost"] == 0


def test_an_abandoned_thread_leaves_output_and_exit_code(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    command = [sys.executable, "-c", ABANDONED_IN_A_LIBRARY, str(tmp_path / "pipe")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert (ended.returncode, ended.stdout) == (3, "done\n"), ended.stderr


@pytest.fixture
def load() -> Iterator[None]:
    """Keep the processors busy, so that the daemon is interrupted wherever it is."""
    computing = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
    yield
    for process in computing:
        process.kill()
        process.wait()


def hears(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Return whether a process keeps a signal for later, or has a handler of its own for it."""
    masks = re.findall(r"Sig(?:Blk|Cgt):\s*(\w+)", Path(f"/proc/{process.pid}/status").read_text(encoding="ascii"))
    return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def await_reload(daemon: Child, before: int) -> None:
    """Wait until more reloads are told than there were before."""
    eventually(lambda: daemon.log.count("configuration reloaded") > before, "a reload")


@pytest.mark.broker
@pytest.mark.usefixtures("broker", "load")
def test_signals_at_random_moments_are_all_taken(configure: Configure, start_edge: StartEdge) -> None:
    """From its first moments on; a reload may be followed at once by another signal."""
    dice = random.Random(SEED)
    daemon = start_edge(configure({"streams.belt": belt(fps=10, size="160x120")}))
    for _ in range(SIGNALS // 2):
        eventually(lambda: hears(daemon.process, signal.SIGHUP), "the daemon hears signals")
        time.sleep(dice.uniform(0, LONGEST_S))
        reloads = daemon.log.count("configuration reloaded")
        daemon.send(signal.SIGHUP)
        time.sleep(dice.uniform(0, dice.choice((TOGETHER_S, LONGEST_S))))
        last = dice.choice((signal.SIGHUP, signal.SIGHUP, signal.SIGINT, signal.SIGTERM))
        daemon.send(last)
        if last != signal.SIGHUP:
            assert daemon.wait() == 0, daemon.log
            daemon.start()
        else:
            await_reload(daemon, reloads)
