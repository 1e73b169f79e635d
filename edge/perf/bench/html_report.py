"""Self-contained HTML report: plots, tables, the machine and the raw figures."""

from __future__ import annotations

import html
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edge.core.errors import ConfigError
from edge.core.installation import install_advice
from edge.perf.bench.plot import svg
from edge.perf.bench.regression import key_of
from edge.perf.bench.tables import Row, Sheet, cell_text, is_numeric, rows_sheet
from edge.perf.plotting import can_draw, write_output

_NO_PLOT = f"The plots need matplotlib, which is not installed here; {install_advice()}"
_STYLE = """
:root { color-scheme: light }
body { font: 16px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1240px; padding: 12px; color: #1b1f24 }
h1 { font-size: 1.5em; margin: .4em 0 } h2 { font-size: 1.15em; margin: 1.4em 0 .4em }
.wide { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .9em }
th, td { padding: .25em .6em; border-bottom: 1px solid #d8dee4; text-align: left; vertical-align: top }
th, td { white-space: nowrap }
th { background: #f3f5f7 } th.number, td.number { text-align: right }
th:first-child, td:first-child { position: sticky; left: 0; background: #fff }
td.long { white-space: normal; min-width: 14em }
svg { max-width: 520px; width: 100%; height: auto; display: block }
pre { white-space: pre-wrap; overflow-wrap: anywhere; font-size: .8em }
"""
# The empty icon keeps a browser from requesting one.
_DOCUMENT = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<link rel="icon" href="data:,">
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
_NUMBER = ' class="number"'
_LONG = 40  # longer cells wrap


def check_page(path: Path) -> None:
    """Raise ConfigError, before anything is measured, if the page could not be written."""
    if not path.parent.is_dir():
        raise ConfigError(f"--html {path}: folder {path.parent} does not exist; create it first")


def write_page(
    run: Mapping[str, Any], path: Path, title: str, *, sheets: Sequence[Sheet] = (), target_p99_ms: float | None = None
) -> None:
    """Write the page; raise EdgeError on failure."""
    text = page(run, title, sheets=sheets, target_p99_ms=target_p99_ms)
    write_output(path, text.encode(), "--html")


def page(
    run: Mapping[str, Any], title: str, *, sheets: Sequence[Sheet] = (), target_p99_ms: float | None = None
) -> str:
    """Return a run as an HTML document; `sheets` are further tables, such as the comparison with an earlier run."""
    machine = Sheet("Machine", ("property", "value"), tuple(_flat(run["machine"])))
    plots = svg(run["rows"], "", target_p99_ms) if can_draw() else f"<p>{html.escape(_NO_PLOT)}</p>"
    parts = [
        f"<h1>{html.escape(title)}</h1>",
        plots,
        _table(_folded(rows_sheet([{**row, "why": None} for row in run["rows"]]))),
        _doubts(run["rows"]),
        *(_table(sheet) for sheet in (*sheets, machine)),
        f"<h2>Raw figures</h2>\n<details><summary>The run as JSON</summary><pre>{_raw(run)}</pre></details>",
    ]
    return _DOCUMENT.format(title=html.escape(title), style=_STYLE, body="\n".join(parts))


def _table(sheet: Sheet) -> str:
    numeric = [is_numeric(sheet, place) for place in range(len(sheet.heads))]
    heads = "".join(
        f"<th{_NUMBER if right else ''}>{html.escape(head)}</th>"
        for head, right in zip(sheet.heads, numeric, strict=True)
    )
    lines = "\n".join(f"<tr>{''.join(_cell(cell) for cell in line)}</tr>" for line in sheet.lines)
    title = html.escape(sheet.title)
    return f'<h2>{title}</h2>\n<div class="wide"><table>\n<tr>{heads}</tr>\n{lines}\n</table></div>'


def _folded(sheet: Sheet) -> Sheet:
    """Move the settings that are the same in all lines from the columns to the title."""
    settings = ("precision", "scenario", "lanes", "mode")
    same = [
        place
        for place, head in enumerate(sheet.heads)
        if head in settings and len({line[place] for line in sheet.lines}) == 1
    ]
    common = [f"{sheet.heads[place]} {cell_text(sheet.lines[0][place])}" for place in same]
    kept = [place for place in range(len(sheet.heads)) if place not in same]
    return Sheet(
        ", ".join([sheet.title, *common]),
        tuple(sheet.heads[place] for place in kept),
        tuple(tuple(line[place] for place in kept) for line in sheet.lines),
    )


def _doubts(rows: Sequence[Row]) -> str:
    """Return the doubtful rows with their reasons, as a list."""
    doubts = [(str(key_of(row)), row["why"]) for row in rows if row.get("why")]
    if not doubts:
        return ""
    lines = "".join(f"<li>{html.escape(name)}: {html.escape(why)}</li>" for name, why in doubts)
    return f"<h2>Not trustworthy</h2>\n<ul>{lines}</ul>"


def _cell(cell: Any) -> str:
    text = cell_text(cell)
    is_number = isinstance(cell, int | float) and not isinstance(cell, bool)
    kind = _NUMBER if is_number else ' class="long"' if len(text) > _LONG else ""
    return f"<td{kind}>{html.escape(text)}</td>"


def _flat(record: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", json.dumps(value) if isinstance(value, list | tuple) else value


def _raw(run: Mapping[str, Any]) -> str:
    return html.escape(json.dumps(run, ensure_ascii=False))
