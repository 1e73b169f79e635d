"""Plots of `edge bench` with matplotlib: readable on a phone, one panel above the other."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from edge.core.quantity import counted
from edge.perf.bench.tables import Row, number
from edge.perf.plotting import save

_WIDTH_IN = 3.9  # at 390 pixels wide, 8 points are 11 pixels
_LATENCY_IN, _EFFICIENCY_IN, _EMPTY_IN = 3.8, 2.6, 1.0
_DPI = 200
_STYLES: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "legend.fontsize": 7.5,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.2,
    "svg.hashsalt": "edge",  # so that the same rows give the same file
}
_LINES = ("-", "--", ":", "-.")
_MOST_LINES = 8  # in one panel; with more, each network has panels of its own
_MOST_LABELLED = 4  # lines with the batch at each of their points

Lines = Sequence[tuple[str, dict[str, Any], Sequence[Row]]]  # name, matplotlib's style, rows by batch


def plot(rows: Sequence[Row], path: Path, title: str, target_p99_ms: float | None = None) -> None:
    """Draw latency against throughput, and images/s/W by batch, into a PNG or SVG file.

    Raises EdgeError if it cannot be written; `edge.perf.plotting.check_plot` finds out before the run.
    """
    import matplotlib as mpl  # noqa: PLC0415 -- an optional package

    with mpl.rc_context(_STYLES):
        save(_figure(rows, title, target_p99_ms), path, _DPI)


def svg(rows: Sequence[Row], title: str, target_p99_ms: float | None = None) -> str:
    """Return the plots as an SVG element for an HTML page."""
    import matplotlib as mpl  # noqa: PLC0415 -- an optional package

    drawn = io.StringIO()
    with mpl.rc_context(_STYLES):
        # Without metadata, which is useless in a page and names other sites.
        metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        _figure(rows, title, target_p99_ms).savefig(drawn, format="svg", metadata=metadata)
    text = drawn.getvalue()
    return text[text.index("<svg") :]


def _figure(rows: Sequence[Row], title: str, target_p99_ms: float | None) -> Any:
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional package

    drawn = [row for row in rows if row.get("images_per_s") and row.get("latency_ms")]
    parts = _parts(drawn)
    has_watts = any(row.get("images_per_s_per_w") is not None for row in drawn)
    heights = [_LATENCY_IN, _EFFICIENCY_IN if has_watts else _EMPTY_IN] * len(parts)
    figure = Figure(figsize=(_WIDTH_IN, sum(heights)), layout="constrained")
    all_axes = figure.subplots(len(heights), 1, gridspec_kw={"height_ratios": heights})
    for place, (name, lines) in enumerate(parts):
        _latency(all_axes[2 * place], lines, target_p99_ms)
        _efficiency(all_axes[2 * place + 1], lines)
        if name:
            all_axes[2 * place].set_title(name, loc="left", fontweight="bold")
    figure.suptitle(title, fontsize=9, wrap=True)
    return figure


def _parts(rows: Sequence[Row]) -> list[tuple[str, Lines]]:
    """Return the lines of each pair of panels: all networks in one if they are few, else one network each."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    variants = list(dict.fromkeys(_variant(row) for row in rows))
    if len(networks) <= 1 or (len(networks) * len(variants) <= _MOST_LINES and len(variants) <= len(_LINES)):
        return [("", _lines(rows, networks, variants))]
    return [(name, _lines([row for row in rows if row["network"] == name], [name], variants)) for name in networks]


def _lines(rows: Sequence[Row], networks: Sequence[str], variants: Sequence[tuple[Any, ...]]) -> Lines:
    """Return a line for each network and variant; the colour shows the network, or the variant of a single network."""
    lines = []
    for network_place, network in enumerate(networks):
        for variant_place, (variant, dashes) in enumerate(zip(variants, cycle(_LINES))):
            those = [row for row in rows if row["network"] == network and _variant(row) == variant]
            if not those:
                continue
            colour = variant_place if len(networks) == 1 else network_place
            shown = _varying(variant, variants) or (
                "" if len(networks) > 1 else " ".join(str(part) for part in variant if part)
            )
            name = " ".join(part for part in ((network if len(networks) > 1 else ""), shown) if part)
            style = {"color": f"C{colour % 10}", "linestyle": dashes}
            lines.append((name, style, sorted(those, key=lambda row: int(row["batch"]))))
    return lines


def _variant(row: Row) -> tuple[Any, ...]:
    lanes = row.get("lanes")
    return (row["precision"], row.get("power_mode"), row.get("scenario"), counted(lanes, "lane") if lanes else None)


def _varying(variant: tuple[Any, ...], variants: Sequence[tuple[Any, ...]]) -> str:
    """Return the parts of a variant that differ between the variants, as text."""
    differ = [len({each[place] for each in variants}) > 1 for place in range(len(variant))]
    return " ".join(str(part) for part, differs in zip(variant, differ, strict=True) if differs and part)


def _latency(axes: Any, lines: Lines, target_p99_ms: float | None) -> None:
    has_p99 = bool(lines) and all(row.get("latency_p99_ms") is not None for _, _, rows in lines for row in rows)
    key, label = ("latency_p99_ms", "p99") if has_p99 else ("latency_ms", "median")
    axes.set_xlabel("images/s")
    axes.set_ylabel(f"latency, ms ({label})")
    if not lines:
        _annotate(axes, "no rows were measured")
        return
    for name, style, rows in lines:
        _draw(axes, [row["images_per_s"] for row in rows], [row[key] for row in rows], rows, style, name)
        _name_batches(axes, rows, key, many=len(lines) > _MOST_LABELLED)
    if target_p99_ms is not None:
        axes.axhline(target_p99_ms, color="black", linestyle=(0, (1, 1)), label=f"p99 target {target_p99_ms:g} ms")
    _set_logarithmic(axes, axes.xaxis, axes.set_xscale)
    _set_logarithmic(axes, axes.yaxis, axes.set_yscale)
    _legend(axes, "numbers at points: batch" + _hollow(lines))


def _efficiency(axes: Any, lines: Lines) -> None:
    axes.set_xlabel("batch")
    axes.set_ylabel("images/s/W")
    measured = [
        (name, style, kept)
        for name, style, rows in lines
        if (kept := [row for row in rows if row.get("images_per_s_per_w") is not None])
    ]
    if not measured:
        _annotate(axes, "unknown: no power was measured")
        return
    for name, style, rows in measured:
        _draw(axes, [row["batch"] for row in rows], [row["images_per_s_per_w"] for row in rows], rows, style, name)
    _set_logarithmic(axes, axes.xaxis, axes.set_xscale)
    axes.set_ylim(bottom=0)
    batches = sorted({row["batch"] for _, _, rows in measured for row in rows})
    axes.set_xticks(batches, [str(batch) for batch in batches])
    axes.minorticks_off()


def _draw(axes: Any, x: Sequence[float], y: Sequence[float], rows: Sequence[Row], style: Any, name: str) -> None:
    axes.plot(x, y, **style, label=name)
    for across, up, row in zip(x, y, rows, strict=True):
        face = "white" if row.get("valid") is False else style["color"]
        axes.plot([across], [up], marker="o", color=style["color"], markerfacecolor=face, linestyle="")


def _name_batches(axes: Any, rows: Sequence[Row], key: str, *, many: bool) -> None:
    for row in (rows[0], rows[-1]) if many else rows:
        at = (row["images_per_s"], row[key])
        axes.annotate(str(row["batch"]), at, xytext=(4, -9), textcoords="offset points", fontsize=7)


def _hollow(lines: Lines) -> str:
    return "; hollow: not trustworthy" if any(row.get("valid") is False for _, _, rows in lines for row in rows) else ""


def _set_logarithmic(axes: Any, axis: Any, set_scale: Callable[[str], None]) -> None:
    """Make an axis logarithmic, with plain numbers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter  # noqa: PLC0415 -- an optional package

    axes.grid(alpha=0.3, which="both")
    axes.margins(0.12)
    set_scale("log")
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any, note: str) -> None:
    """Put the legend between the two panels, where it hides no points."""
    columns = 2 if len(axes.get_legend_handles_labels()[1]) > 1 else 1
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4.2}  # below the axis labels
    axes.legend(**place, ncols=columns, title=note, title_fontsize=7)


def _annotate(axes: Any, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
