"""Comparison of measured rows with published ones of a board."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from edge.core.errors import ConfigError
from edge.perf.bench.tables import PUBLISHED_COLUMNS, Row, Sheet, cell_text, quotient_text

SOURCE = 'NVIDIA, "Deep Learning Platform" technical overview'
BOARDS = {"tx1": "Jetson TX1", "tx2": "Jetson TX2", "p4": "Tesla P4", "v100": "Tesla V100"}
POWER_POINTS = {
    "Jetson": "published W: application processor and DRAM, upstream of the regulators",
    "Tesla": "published W: the whole board",
}
_TEXTS = PUBLISHED_COLUMNS[:4]
RATIOS = PUBLISHED_COLUMNS[5:]


@dataclass(frozen=True)
class Pair:
    """Measured row and published row of the same network and batch, with measured ÷ published by column.

    A ratio is None if either figure is missing.
    """

    ours: Row
    published: Row
    ratios: dict[str, float | None]

    def to_json(self) -> dict[str, Any]:
        ours = {column: self.ours.get(column) for column in PUBLISHED_COLUMNS}
        return {"ours": ours, "published": self.published, "ratios": self.ratios}


@cache
def published_rows() -> tuple[Row, ...]:
    """Return all published rows in order, with None for an empty cell."""
    text = (files(__package__) / "published_results.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    return tuple({key: _value(key, cell) for key, cell in row.items()} for row in csv.DictReader(lines))


def published_device(board: str) -> str:
    """Return the published name of a board, given as `tx2` or in full, as `NVIDIA Jetson TX2 Developer Kit`.

    Raises ConfigError if nothing was published for it.
    """
    words = _plain(board).split()
    for short, device in BOARDS.items():
        if short in words and "nx" not in words:  # a TX2 NX is another module
            return device
    known = ", ".join(BOARDS)
    raise ConfigError(f"--compare published: nothing was published for board {board!r}; choose one: --board {known}")


def paired(rows: Sequence[Row], board: str, power_mode: str | None = None) -> list[Pair]:
    """Pair each measured row with each published row of the same network and batch on that board.

    `power_mode` is max-q or max-p, or the board's own name of such a mode. Without it, a row is paired with the
    published rows of its own mode if there are any, else with those of all modes. Raises ConfigError for an unknown
    board or mode.
    """
    device = published_device(board)
    theirs = [row for row in published_rows() if row["device"] == device]
    modes = list(dict.fromkeys(row["power_mode"] for row in theirs))
    requested = published_mode(power_mode, modes) if power_mode else None
    if power_mode and requested is None:
        named = ", ".join(modes)
        raise ConfigError(f"--power-mode {power_mode}: {device} was published in {named}; choose one of them")
    pairs = []
    for ours in rows:
        mode = requested or published_mode(ours.get("power_mode") or "", modes)
        pairs += [
            Pair(ours, row, _ratios(ours, row))
            for row in theirs
            if mode in (None, row["power_mode"])
            and (_joined(row["network"]), row["batch"]) == (_joined(ours["network"]), ours["batch"])
        ]
    return pairs


def published_mode(power_mode: str, modes: Sequence[str]) -> str | None:
    """Return the published mode that a name stands for, such as max-p for MAXP_CORE_ARM; None if there is none."""
    plain = _joined(power_mode)
    return next((mode for mode in modes if plain.startswith(_joined(mode))), None)


def published_sheet(pairs: Sequence[Pair]) -> Sheet:
    """Return the pairs as a table: measured, published, and measured ÷ published of each compared figure."""
    figures = {"images_per_s": "images/s", "latency_ms": "p50 ms", "images_per_s_per_w": "images/s/W"}
    heads = ("network", "batch", "ours", "theirs", *(f"{name}, ours / theirs" for name in figures.values()))
    lines = []
    for pair in pairs:
        theirs = f"{pair.published['power_mode']} {pair.published['precision']}"
        compared = (_compared(pair, figure) for figure in figures)
        lines.append((pair.ours["network"], pair.ours["batch"], _variant(pair.ours), theirs, *compared))
    device = pairs[0].published["device"] if pairs else "no published row"
    point = f"; {POWER_POINTS[device.split()[0]]}" if pairs else ""
    return Sheet(f"Compared with {device} ({SOURCE}{point})", heads, tuple(lines))


def _compared(pair: Pair, figure: str) -> str:
    quotient = f"{cell_text(pair.ours.get(figure))} / {cell_text(pair.published[figure])}"
    return quotient if (ratio := quotient_text(pair.ratios[figure])) is None else f"{quotient} = {ratio}"


def _variant(row: Row) -> str:
    return " ".join(part for part in (row.get("power_mode"), row["precision"]) if part)


def _ratios(ours: Row, theirs: Row) -> dict[str, float | None]:
    return {column: _ratio(ours.get(column), theirs[column]) for column in RATIOS}


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _plain(name: str) -> str:
    return " ".join(name.lower().replace("-", " ").replace("_", " ").split())


def _joined(name: str) -> str:
    return _plain(name).replace(" ", "")


def _value(key: str, cell: str) -> Any:
    if key in _TEXTS:
        return cell
    if key == "batch":
        return int(cell)
    return float(cell) if cell else None
