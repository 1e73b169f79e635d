"""Record of the machine a benchmark ran on: board, clocks, power mode, versions, hashes."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib import metadata
from typing import Any

import psutil

from edge import __version__
from edge.core.clock import utc_text, wall_ns
from edge.core.process import usable_cores
from edge.host.board import read_board
from edge.host.paths import glob, read_text
from edge.host.sensors.conditions import ConditionReader
from edge.power.modes import read_modes

# Packages that take part in inference.
PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt",
    "tensorrt-rtx-cu13-bindings",
    "numpy",
    "opencv-python-headless",
)
_MHZ = 1e-3  # cpufreq uses kHz


def machine(hashes: Mapping[str, str]) -> dict[str, Any]:
    """Return the state of the machine, None for what is unknown; `hashes` are the SHA-256 of the models by name."""
    return {
        "at": utc_text(wall_ns()),
        "board": read_board().to_json(),
        "power_mode": _power_mode(),
        "clocks": _clocks(),
        "cores": usable_cores(),
        "memory_mb": round(psutil.virtual_memory().total / 1e6),
        "load_average": round(os.getloadavg()[0], 2),  # of the last minute
        "versions": _versions(),
        "sha256": dict(hashes),
    }


def _power_mode() -> dict[str, Any] | None:
    """Return the mode with its caps, since the caps of a name differ between releases."""
    modes = read_modes()
    if modes is None:
        return None
    return {"file": modes.file, "mode": modes.current.to_json() if modes.current else None}


def _clocks() -> dict[str, Any]:
    reader = ConditionReader()
    try:
        now = reader.read()
    finally:
        reader.close()
    return {"cpu": _cpu_clocks(), "gpu_mhz": now.gpu_mhz, "emc_mhz": now.emc_mhz}


def _cpu_clocks() -> dict[str, Any]:
    """Return the governor and clock range of each core; empty without cpufreq."""
    clocks = {}
    for folder in glob("/sys/devices/system/cpu/cpu[0-9]*/cpufreq"):
        clocks[folder.split("/")[-2]] = {
            "governor": read_text(f"{folder}/scaling_governor"),
            "min_mhz": _mhz(read_text(f"{folder}/scaling_min_freq")),
            "max_mhz": _mhz(read_text(f"{folder}/scaling_max_freq")),
        }
    return clocks


def _mhz(text: str | None) -> float | None:
    return int(text) * _MHZ if text and text.isdigit() else None


def _versions() -> dict[str, str | None]:
    found = {"edge": __version__, "python": platform.python_version(), "kernel": platform.release()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return dict(found)
