"""Configuration of the daemon under test: one model, its streams, and a broker on this machine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Table = Mapping[str, Any]


def write_config(
    path: Path, port: int, model: Table, streams: Mapping[str, Table], others: Mapping[str, Table] | None = None
) -> Path:
    """Write a configuration whose streams all use `model`, and return its path.

    The keys of `others`, by table, come on top of the device's name and the broker's address.
    """
    tables: dict[str, dict[str, Any]] = {"device": {"name": "bench"}, "mqtt": {"url": f"mqtt://127.0.0.1:{port}"}}
    for name, table in (others or {}).items():
        tables.setdefault(name, {}).update(table)
    tables["models.model"] = dict(model)
    tables |= {f"streams.{name}": {"model": "model", **table} for name, table in streams.items()}
    path.write_text("\n".join(_lines(tables)), encoding="utf-8")
    return path


def synthetic(seed: int, fps: float, size: str) -> str:
    """Return the address of a synthetic camera."""
    return f"synthetic://conveyor?fps={fps:g}&size={size}&seed={seed}"


def _lines(tables: Mapping[str, Table]) -> list[str]:
    # A JSON value other than an object or null is also a TOML value.
    return [
        line
        for name, table in tables.items()
        for line in (f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items()), "")
    ]
