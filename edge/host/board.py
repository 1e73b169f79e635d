"""What machine this is."""

from __future__ import annotations

import os
import platform
from pathlib import Path


def root() -> Path:
    """Return the folder that stands for `/` in all that is read of the machine (an emulated board, a container)."""
    return Path(os.environ.get("EDGE_ROOT", "/"))


def board_name() -> str:
    """Return the device tree's model name; elsewhere the processor's."""
    try:
        return (root() / "proc/device-tree/model").read_text(encoding="utf-8").rstrip("\0\n")
    except OSError:
        return f"{platform.machine()} ({_processor()})"


def _processor() -> str:
    try:
        lines = (root() / "proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return "processor unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else "processor unknown"
