"""`edge run`: what it sets for the process that the daemon lives in."""

from __future__ import annotations

import json
import subprocess
import sys

CAMERAS, FREED_MB = 8, 13
# In a process of its own, as what the C library keeps depends on all that was allocated before.
FREEING = f"""
import sys
import threading
from argparse import Namespace
from pathlib import Path

from edge.cli import run_daemon
from edge.core.process import trim_heap
from edge.daemon import daemon


def resident_mb():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) / 1024


def camera(all_have_freed):
    for size in ({FREED_MB} << 20, 1 << 20):  # the first free raises glibc's own limits
        for _ in range(2):
            blocks = [b"\\1" * size for _ in range(({FREED_MB} << 20) // size)]
            del blocks
    all_have_freed.wait()


def run(*_, **__):
    before_mb = resident_mb()
    all_have_freed = threading.Barrier({CAMERAS})
    cameras = [threading.Thread(target=camera, args=[all_have_freed]) for _ in range({CAMERAS})]
    for each in cameras:
        each.start()
    for each in cameras:
        each.join()
    trim_heap()
    return 0, {{"kept_mb": resident_mb() - before_mb}}


daemon.run = run
sys.exit(run_daemon.run(Namespace(config=None, state_dir=None, force=False, json=True)))
"""


def test_cameras_that_have_ended_leave_no_freed_memory_in_the_heaps_of_their_threads() -> None:
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, timeout=60, check=True)
    kept_mb = json.loads(done.stdout)["kept_mb"]
    assert kept_mb < FREED_MB, f"{kept_mb:.0f} MB of {CAMERAS} times {FREED_MB} MB that were freed are kept"
