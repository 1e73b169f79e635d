"""Configuration files for tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.support.project import CONVEYOR

DEVICE = "bench-01"


Json = dict[str, Any]


Tables = Mapping[str, Mapping[str, Any]]


def belt(*, fps: float = 30, size: str = "320x240", frames: int = 0, seed: int = 1, **keys: Any) -> Json:
    """Return the table of a synthetic stream on the built-in model."""
    source = f"synthetic://conveyor?fps={fps:g}&size={size}&seed={seed}&frames={frames}"
    return {"source": source, "model": "conveyor"} | keys


class Configure(Protocol):
    """Writes a configuration as `write_config` does, for the test's broker."""

    def __call__(self, tables: Tables, *, name: str = "edge.toml") -> Path: ...


def write_toml(path: Path, tables: Tables) -> Path:
    # A JSON value that is no object and no null is a TOML value.
    lines = [
        line
        for table, keys in tables.items()
        for line in (f"[{table}]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), "")
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def write_config(path: Path, broker_url: str, tables: Tables) -> Path:
    """Write a configuration; `tables` come on top of a device, its broker and the built-in model."""
    standard: dict[str, Json] = {
        "device": {"name": DEVICE},
        "mqtt": {"url": broker_url},
        "telemetry": {"period_s": 0.5},
        "models.conveyor": {"path": str(CONVEYOR)},
    }
    return write_toml(path, standard | {table: standard.get(table, {}) | dict(keys) for table, keys in tables.items()})
