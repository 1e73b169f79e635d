"""Console of standard output, and the one style of its tables."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence

from rich import box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

Cell = str | Text
Row = Sequence[Cell]

_PIPE_COLUMNS = 10_000  # a line in a pipe is as long as it has to be
_GAP = 2  # columns between two cells
_LONG_WORD = 24  # characters; a longer name or path may be broken after its separators
_PART = re.compile(r"[^/_.:,+-]*[/_.:,+-]*")
_TRAILING = re.compile(r" +$", re.MULTILINE)
_NUMERIC = re.compile(r"[-+]?\d[\d.,×]*( ?([%x×]|/ [-+]?\d[\d.]*))?|[-\N{EN DASH}?]|none|")


def output_console() -> Console:
    """Return the console of standard output; in a pipe no line is wrapped."""
    is_pipe = not sys.stdout.isatty() and "COLUMNS" not in os.environ
    return Console(width=_PIPE_COLUMNS if is_pipe else None, highlight=False, markup=False, emoji=False)


def print_table(console: Console, heads: Sequence[str], rows: Iterable[Row], *, title: str = "") -> None:
    """Print a table in the style of `light_table`; one that is wider than the console runs on: nothing is cut off."""
    cells, widths = _layout(console, heads, rows)
    if title:
        console.print(Text(title, "bold"), soft_wrap=True)
    wide = Console(
        file=console.file,
        width=max(console.width, sum(widths) + _GAP * len(widths)),
        force_terminal=console.is_terminal,
        color_system=console.color_system,  # type: ignore[arg-type]  # as it was found, one of the known names
        highlight=False,
    )
    with wide.capture() as captured:
        wide.print(_table(console, heads, cells, widths), crop=False)
    console.out(_TRAILING.sub("", captured.get()), end="", highlight=False)


def light_table(console: Console, heads: Sequence[str], rows: Iterable[Row], *, title: str, caption: str = "") -> Group:
    """Return a title and a table without frames, for a live display.

    Numbers are right-aligned, and text is wrapped between words only. A line is drawn below the heads on a terminal,
    and none in a pipe. Without heads there is no line of them.
    """
    table = _table(console, heads, *_layout(console, heads, rows))
    return Group(Text(title, "bold"), table, *([Text(caption, "dim")] if caption else []))


def _layout(console: Console, heads: Sequence[str], rows: Iterable[Row]) -> tuple[list[list[Text]], list[int]]:
    """Return the cells by row, and the width of each column."""
    cells = [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row in rows]
    texts = [[head, *(row[place].plain for row in cells)] for place, head in enumerate(heads)]
    widths = [max(map(cell_len, column)) for column in texts]
    least = [
        max((cell_len(piece) for text in column for piece in map(str.strip, _pieces(text))), default=0)
        for column in texts
    ]
    while sum(widths) + _GAP * len(widths) > console.width:
        wide = [place for place, width in enumerate(widths) if width > least[place]]
        if not wide:
            break  # no word is broken
        widths[max(wide, key=widths.__getitem__)] -= 1
    return [[_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)] for row in cells], widths


def _pieces(text: str) -> Iterator[str]:
    """Yield the parts between which a text may be broken, each with the space before it."""
    for word in re.findall(r"\s*\S+", text):
        yield from filter(None, _PART.findall(word) if len(word) > _LONG_WORD else [word])


def _wrapped(cell: Text, width: int) -> Text:
    """Break a cell into lines: between words, and in names and paths after their separators."""
    lines, line = [], ""
    for piece in _pieces(cell.plain):
        if line and cell_len((line + piece).rstrip()) > width:
            lines.append(line.rstrip())
            line = piece.lstrip()
        else:
            line += piece
    return Text("\n".join([*lines, line.rstrip()]), cell.style)


def _table(console: Console, heads: Sequence[str], cells: Sequence[Sequence[Text]], widths: Sequence[int]) -> Table:
    table = Table(
        box=box.SIMPLE_HEAD if console.is_terminal else None,
        show_header=any(heads),
        show_edge=False,
        padding=(0, _GAP - 1 if console.is_terminal else _GAP, 0, 0),  # the frame's divider is one column
        pad_edge=False,
    )
    for place, (head, width) in enumerate(zip(heads, widths, strict=True)):
        column = [row[place].plain for row in cells]
        is_numeric = any(column) and all(map(_NUMERIC.fullmatch, column))
        table.add_column(Text(head), justify="right" if is_numeric else "left", width=width, overflow="fold")
    for row in cells:
        table.add_row(*row)
    return table
