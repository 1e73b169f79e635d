"""Tables of rows, as Markdown and CSV."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Row = Mapping[str, Any]

PUBLISHED_COLUMNS = (
    "device",
    "power_mode",
    "precision",
    "network",
    "batch",
    "images_per_s",
    "power_w",
    "images_per_s_per_w",
    "gpu_power_w",
    "gpu_images_per_s_per_w",
    "latency_ms",
)
_FURTHER_COLUMNS = ("latency_p90_ms", "latency_p99_ms", "latency_max_ms", "energy_j_per_image", "scenario", "lanes")
_LAST_COLUMNS = ("spread", "valid", "why")
_OMITTED = ("samples",)  # raw: in the JSON only
_SHOWN = {
    "network": "network",
    "precision": "precision",
    "batch": "batch",
    "scenario": "scenario",
    "lanes": "lanes",
    "power_mode": "mode",
    "images_per_s": "images/s",
    "latency_ms": "p50 ms",
    "latency_p90_ms": "p90 ms",
    "latency_p99_ms": "p99 ms",
    "latency_max_ms": "max ms",
    "power_w": "W",
    "images_per_s_per_w": "images/s/W",
    "gpu_images_per_s_per_w": "images/s/W (GPU)",
    "energy_j_per_image": "J/image",
    "spread": "spread",
    "why": "not trustworthy",
}
_NEVER_HIDDEN = ("images_per_s", "latency_ms", "power_w", "images_per_s_per_w")


@dataclass(frozen=True)
class Sheet:
    """Table of heads and lines; a cell of None was not measured."""

    title: str
    heads: tuple[str, ...]
    lines: tuple[tuple[Any, ...], ...]


def rows_sheet(rows: Sequence[Row], title: str = "Measurements") -> Sheet:
    """Return the rows as a table; empty columns are omitted, except for rate, latency, power and efficiency."""
    keys = [key for key in _SHOWN if key in _NEVER_HIDDEN or any(row.get(key) is not None for row in rows)]
    lines = tuple(tuple(row.get(key) for key in keys) for row in rows)
    return Sheet(title, tuple(_SHOWN[key] for key in keys), lines)


def to_csv(rows: Sequence[Row]) -> str:
    """Return the published table's columns, then our own, with full precision; null is empty.

    A mapping, such as watts by rail, is JSON in its cell; raw samples are omitted.
    """
    known = (*PUBLISHED_COLUMNS, *_FURTHER_COLUMNS)
    others = dict.fromkeys(key for row in rows for key in row)
    between = [key for key in others if key not in (*known, *_LAST_COLUMNS, *_OMITTED)]
    columns = (*known, *between, *_LAST_COLUMNS)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_csv_cell(row.get(column)) for column in columns] for row in rows)
    return text.getvalue()


def to_markdown(sheet: Sheet) -> str:
    """Return a Markdown table under its title, with a dash for what was not measured."""
    numeric = [is_numeric(sheet, place) for place in range(len(sheet.heads))]
    lines = [
        f"**{sheet.title}**",
        "",
        _markdown_line(sheet.heads),
        _markdown_line(["---:" if each else "---" for each in numeric]),
        *(_markdown_line([cell_text(cell) for cell in line]) for line in sheet.lines),
    ]
    return "\n".join(lines) + "\n"


def cell_text(cell: Any) -> str:
    """Return the text of a cell: four significant digits, a dash for what was not measured."""
    if cell is None:
        return "\N{EN DASH}"
    if isinstance(cell, bool):
        return "yes" if cell else "no"
    if isinstance(cell, float):
        return number(cell)
    return str(cell)


def number(value: float) -> str:
    """Return a number with four significant digits, and all digits before the point."""
    rounded = float(f"{value:.4g}")
    return f"{value:.0f}" if abs(rounded) >= 1000 else f"{rounded:g}"  # noqa: PLR2004 -- four digits precede the point


def quotient_text(quotient: float | None) -> str | None:
    """Return a quotient as text; None if it is unknown."""
    return None if quotient is None else f"{quotient:.2f}×"


def is_numeric(sheet: Sheet, place: int) -> bool:
    """Return whether a column holds only numbers."""
    cells = [line[place] for line in sheet.lines if line[place] is not None]
    return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def _markdown_line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def _csv_cell(cell: Any) -> Any:
    if isinstance(cell, bool):
        return "true" if cell else "false"
    return json.dumps(cell) if isinstance(cell, Mapping | list | tuple) else cell
