"""Daemon under test, as a process of its own."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import psutil

END_S = 30.0  # from SIGTERM to the end


@contextlib.contextmanager
def run_daemon(
    config: Path, folder: Path, options: Sequence[str] = (), log: IO[bytes] | None = None
) -> Iterator[psutil.Popen]:
    """Run `edge run` with its state in `folder`; end it afterwards, by force if it takes too long."""
    command = [sys.executable, "-m", "edge", "run", str(config), "--state-dir", str(folder / "state"), *options]
    process = psutil.Popen(command, stderr=subprocess.DEVNULL if log is None else log)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(END_S)
        except psutil.TimeoutExpired:
            process.kill()
            process.wait()
