"""Speed-up of each precision over FP32 at the same batch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from edge.perf.bench.tables import Row, Sheet, quotient_text

REFERENCE = "fp32"
_ORDER = (REFERENCE, "fp16", "int8")


class RowIdentity(NamedTuple):
    """Identity of a row apart from its precision."""

    network: str
    batch: int
    scenario: str
    lanes: Any
    power_mode: str | None


def speedups(rows: Sequence[Row]) -> dict[RowIdentity, dict[str, float | None]]:
    """Return images/s of each measured precision ÷ images/s in FP32; None if either was not measured."""
    rates: dict[RowIdentity, dict[str, float | None]] = {}
    for row in rows:
        identity = RowIdentity(row["network"], row["batch"], row["scenario"], row["lanes"], row.get("power_mode"))
        rates.setdefault(identity, {})[row["precision"]] = row["images_per_s"]
    return {identity: _relative(found) for identity, found in rates.items()}


def speedup_sheet(rows: Sequence[Row]) -> Sheet:
    """Return the speed-ups as a table, with a column for each measured precision."""
    found = speedups(rows)
    measured = {precision for each in found.values() for precision in each}
    columns = [each for each in _ORDER if each in measured] + sorted(measured - set(_ORDER))
    shown = [name for name in RowIdentity._fields if name in ("network", "batch") or _varies(found, name)]
    lines = tuple(
        (*(getattr(identity, name) for name in shown), *(quotient_text(by_precision.get(each)) for each in columns))
        for identity, by_precision in found.items()
    )
    return Sheet("images/s relative to fp32 at the same batch", (*shown, *columns), lines)


def _relative(rates: Mapping[str, float | None]) -> dict[str, float | None]:
    reference = rates.get(REFERENCE)
    return {name: rate / reference if rate is not None and reference else None for name, rate in rates.items()}


def _varies(found: Mapping[RowIdentity, Any], name: str) -> bool:
    return len({getattr(identity, name) for identity in found}) > 1
