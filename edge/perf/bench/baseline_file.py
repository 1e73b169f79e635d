"""File of an earlier run, and the check that it was measured on this machine."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from edge.core.errors import ConfigError
from edge.core.redaction import one_line
from edge.perf.bench.regression import key_of
from edge.perf.bench.row import Block

Run = Mapping[str, Any]  # {"machine": {...}, "rows": [...]}

# A difference in one of these means another machine.
IDENTITY = ("board.name", "board.sku", "board.soc", "board.cpu", "board.gpu", "cores")
_MOMENTARY = ("at", "load_average", "clocks.gpu_mhz", "clocks.emc_mhz")
_MAKE_ONE = "record one on this machine: edge bench … --json > FILE"


class _Row(BaseModel):
    network: str
    precision: str
    batch: int
    scenario: str
    lanes: int | str | None
    power_mode: str | None = None
    samples: list[Block] | None = None


class _BaselineRun(BaseModel):
    machine: dict[str, Any]
    rows: list[_Row]


def read_run(path: Path) -> Run:
    """Read the output of `edge bench --json`; raise ConfigError for any other file."""
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"--baseline {path} cannot be read ({error.strerror}); {_MAKE_ONE}") from None
    except ValueError:
        raise ConfigError(f"--baseline {path}: found no JSON, wanted that of edge bench; {_MAKE_ONE}") from None
    try:
        _BaselineRun.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the document"
        raise ConfigError(f"--baseline {path}: {where}: {one_line(first['msg'])}; {_MAKE_ONE}") from None
    run: Run = found
    twice = [key for key, count in Counter(key_of(row) for row in run["rows"]).items() if count > 1]
    if twice:
        raise ConfigError(f"--baseline {path}: found {twice[0]} more than once, wanted each row once; {_MAKE_ONE}")
    return run


def check_same_machine(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return a sentence for each version, hash or other entry that differs between two records of one machine.

    Momentary values such as the time are ignored. Raises ConfigError for two different machines, whose figures say
    nothing about the software.
    """
    old, new = dict(_flat(before)), dict(_flat(now))
    differing = [name for name in {**old, **new} if old.get(name) != new.get(name) and name not in _MOMENTARY]
    others = [name for name in differing if name in IDENTITY and name in old and name in new]
    if others:
        changes = ", ".join(f"{name} was {_text(old[name])}, is {_text(new[name])}" for name in others)
        raise ConfigError(f"--baseline was measured on another machine ({changes}); {_MAKE_ONE}")
    return [f"{name} was {_text(old.get(name))}, is {_text(new.get(name))}" for name in differing]


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: Any) -> str:
    return "unknown" if value is None else str(value)
