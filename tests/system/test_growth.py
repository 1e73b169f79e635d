"""Growth as streams come and go: freed memory goes back to the system, and the benchmark judges and draws."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.support.project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import growth

CAMERAS, FREED_MB = 8, 13
# In a process of its own, as what the C library keeps depends on all that was allocated before.
FREEING = f"""
import sys
from pathlib import Path

from tests.support.project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import growth
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


def test_cameras_that_have_ended_leave_none_of_their_memory_in_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", FREEING], capture_output=True, text=True, timeout=60, check=True)
    kept_mb = json.loads(done.stdout)["kept_mb"]
    assert kept_mb < FREED_MB, f"{kept_mb:.0f} MB of {CAMERAS} times {FREED_MB} MB that were freed are kept"


def test_the_benchmark_tells_a_growing_run_from_a_flat_one_and_draws_it(tmp_path: Path) -> None:
    for mb_an_hour in (0, 60):
        rows = [
            {"time_s": 60.0 * number, "rss_mb": 180 + mb_an_hour * number / 60, "threads": 12, "descriptors": 8}
            for number in range(61)
        ]
        verdicts = growth.judged(rows)
        assert [name for name, verdict in verdicts.items() if not verdict.is_flat] == ["rss_mb"] * bool(mb_an_hour)
    growth.draw(rows, verdicts, tmp_path / "growth.svg")
    assert (tmp_path / "growth.svg").read_text(encoding="utf-8").startswith("<?xml")
