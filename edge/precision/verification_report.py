"""A comparison of two engines as one HTML file: the figures, every frame's disagreement, and the worst frames drawn."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edge.core.errors import ConfigError
from edge.core.records import Classes, Findings
from edge.precision.agreement import TOP_K, matches

Picture = NDArray[np.uint8]
Color = tuple[int, int, int]  # blue, green, red

_MOST_PX = (640, 720)  # width, height of a drawn frame
_JPEG_QUALITY = 88
_BOTH: Color = (90, 190, 60)
_ALONE: Color = (40, 60, 235)
_BLACK: Color = (0, 0, 0)
_WHITE: Color = (255, 255, 255)
_CHART_PX = (960, 120)
_STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1320px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0 0 .25rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
.verdict { padding: .6rem .9rem; border-left: 5px solid; margin: 1rem 0; background: rgba(128,128,128,.12); }
.good { border-color: #2e9e4f; } .bad { border-color: #d6322b; }
table { border-collapse: collapse; } td, th { padding: .2rem 1.2rem .2rem 0; text-align: left; vertical-align: top; }
th { font-weight: 600; } td { font-variant-numeric: tabular-nums; }
tr + tr { border-top: 1px solid rgba(128,128,128,.3); }
figure { margin: 1.2rem 0; } figcaption { margin-bottom: .3rem; }
.pair { display: grid; grid-template-columns: 1fr 1fr; gap: 8px; } .pair img { width: 100%; display: block; }
.pair div { font-size: .85rem; } svg { width: 100%; height: auto; } svg rect { fill: #d6322b; }
svg line, svg text { stroke: none; fill: currentColor; font-size: 11px; } svg line { stroke: currentColor; }
.both { color: #3cbe5a; } .alone { color: #eb3c28; }
"""


@dataclass(frozen=True)
class Worst:
    """A frame in which two engines disagree."""

    name: str
    disagreement: float
    picture: Picture
    wanted: Findings
    got: Findings


@dataclass(frozen=True)
class VerificationPage:
    """What a report tells."""

    title: str
    verdict: str
    is_good: bool
    wanted_name: str  # of the engines: fp32, int8
    got_name: str
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]]  # title, rows; the first row of more than two cells is a head
    disagreements: Sequence[float]  # of each frame, in order
    worst: Sequence[Worst]
    labels: Sequence[str]


def write_report(path: Path, page: VerificationPage) -> None:
    """Write the file; raise ConfigError where that cannot be done."""
    try:
        path.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--report {path} cannot be written ({error.strerror}); wanted a path in a folder that is there"
        ) from None


def render(page: VerificationPage) -> str:
    """Return the page as HTML that needs no other file."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(page.title)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(page.title)}</h1>",
        f"<p class='verdict {'good' if page.is_good else 'bad'}'>{escape(page.verdict)}</p>",
        *(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in page.tables),
        f"<h2>Disagreement by frame</h2>{_chart(page.disagreements)}",
        f"<h2>The frames that agree least</h2>{_legend(page)}",
        *(_pair(page, each) for each in page.worst),
    ]
    return "\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    lines = []
    for place, cells in enumerate(rows):
        has_head = len(cells) > 2  # noqa: PLR2004 -- two cells are a name and its value
        kinds = ["th" if (has_head and not place) or not column else "td" for column in range(len(cells))]
        shown = (f"<{kind}>{escape(cell)}</{kind}>" for kind, cell in zip(kinds, cells, strict=True))
        lines.append(f"<tr>{''.join(shown)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _chart(values: Sequence[float]) -> str:
    """Draw a bar for each frame."""
    width, height = _CHART_PX
    highest = max(values, default=0.0)
    step = width / max(1, len(values))
    bars = [
        f"<rect x='{place * step:.1f}' width='{max(1.0, step * 0.8):.1f}' y='{height - size:.1f}' height='{size:.1f}'>"
        f"<title>frame {place + 1} of {len(values)}: {value:.2f}</title></rect>"
        for place, value in enumerate(values)
        if (size := value / highest * (height - 16) if highest else 0.0)
    ]
    return (
        f"<svg viewBox='0 0 {width} {height + 4}' role=img><text x=2 y=12>{highest:.2f}</text>"
        f"<line x1=0 x2={width} y1={height} y2={height} />{''.join(bars)}</svg>"
    )


def _legend(page: VerificationPage) -> str:
    if any(isinstance(each.wanted, Classes) for each in page.worst):
        return "<p>The best classes of each, with their scores.</p>"
    return (
        "<p><b class=both>Green, thin</b>: found by both. "
        f"<b class=alone>Red, thick</b>: found by {escape(page.wanted_name)} alone (on the left) "
        f"or by {escape(page.got_name)} alone (on the right).</p>"
    )


def _pair(page: VerificationPage, worst: Worst) -> str:
    left, right = draw_pair(worst, page.labels)
    sides = "".join(
        f"<div>{escape(name)}<img alt='{escape(worst.name, quote=True)}, {escape(name, quote=True)}' "
        f"src='{_data_uri(picture)}'></div>"
        for name, picture in ((page.wanted_name, left), (page.got_name, right))
    )
    caption = f"<b>{escape(worst.name)}</b>, disagreement {worst.disagreement:.2f}: {escape(_told(page, worst))}"
    return f"<figure><figcaption>{caption}</figcaption><div class=pair>{sides}</div></figure>"


def _told(page: VerificationPage, worst: Worst) -> str:
    if isinstance(worst.wanted, Classes):
        best = (_best(each, page.labels) for each in (worst.wanted, worst.got))
        return f"{page.wanted_name} {next(best)}, {page.got_name} {next(best)}"
    matched = len(matches(worst.wanted, worst.got))
    alone = (len(each.scores) - matched for each in (worst.wanted, worst.got))
    return f"{matched} found by both, {next(alone)} by {page.wanted_name} alone, {next(alone)} by {page.got_name} alone"


def _best(found: Findings, labels: Sequence[str]) -> str:
    return _name(found, 0, labels) if len(found.scores) else "nothing"


def _data_uri(picture: Picture) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def draw_pair(worst: Worst, labels: Sequence[str]) -> tuple[Picture, Picture]:
    """Return the frame twice, of one size, with what each engine found drawn in."""
    height, width = worst.picture.shape[:2]
    scale = min(_MOST_PX[0] / width, _MOST_PX[1] / height)
    size_px = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(worst.picture, size_px, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pairs = matches(worst.wanted, worst.got)
    drawn = []
    for side, found in enumerate((worst.wanted, worst.got)):
        names = [_name(found, place, labels) for place in range(len(found.scores))]
        drawn.append(_draw(np.array(resized, np.uint8), found, scale, {pair[side] for pair in pairs}, names))
    return drawn[0], drawn[1]


def _draw(picture: Picture, found: Findings, scale: float, matched: set[int], names: Sequence[str]) -> Picture:
    if isinstance(found, Classes):
        for place, name in enumerate(names[:TOP_K]):
            _write(picture, name, (4, 20 * (place + 1)), _WHITE)
        return picture
    # What is found alone comes last, on top.
    for place in sorted(range(len(names)), key=lambda each: each not in matched):
        corners = [int(each) for each in np.rint(found.boxes[place] * scale)]
        color, width = (_BOTH, 1) if place in matched else (_ALONE, 3)
        cv2.rectangle(picture, (corners[0], corners[1]), (corners[2], corners[3]), color, width)
        _write(picture, names[place], (corners[0], corners[1]), color)
    return picture


def _write(picture: Picture, text: str, at: tuple[int, int], ground: Color) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    x = max(0, min(at[0], picture.shape[1] - width))
    y = max(height + 2, at[1] - below)
    cv2.rectangle(picture, (x, y - height - 2), (x + width, y + below - 1), ground, cv2.FILLED)
    ink = _BLACK if sum(ground) > sum(_ALONE) else _WHITE
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, 1, cv2.LINE_AA)


def _name(found: Findings, place: int, labels: Sequence[str]) -> str:
    class_id = int(found.class_ids[place])
    label = labels[class_id] if class_id < len(labels) else str(class_id)
    return f"{label} {found.scores[place]:.2f}"
