"""Verification report: verdict and figures as text, and one HTML file with the worst frames drawn."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import cv2
import numpy as np

from edge.core.errors import ConfigError
from edge.core.records import Classes, Findings, Image, label_of
from edge.inference.admission import PrecisionEntry
from edge.precision.agreement import TOP_K, matches
from edge.precision.verification import DisagreeingFrame, VerificationResult

Color = tuple[int, int, int]  # blue, green, red

_HASH_DIGITS = 12
_TITLES = {
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "mean_iou": "mean IoU of matches",
    "score_shift": "mean score shift",
    "top1": "top-1 agreement",
    "top5": "top-5 agreement",
    "map50": "mAP50",
    "map50_95": "mAP50-95",
}
_MOST_PX = (640, 720)  # width, height of a drawn frame
_JPEG_QUALITY = 88
_MATCHED: Color = (90, 190, 60)
_UNMATCHED: Color = (40, 60, 235)
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
class VerificationPage:
    """Content of a report."""

    title: str
    verdict: str
    is_good: bool
    reference_name: str  # of the engines: fp32, int8
    candidate_name: str
    tables: Sequence[tuple[str, Sequence[Sequence[str]]]]  # title, rows; the first row of more than two cells is a head
    disagreements: Sequence[float]  # of each frame, in order
    worst: Sequence[DisagreeingFrame]
    labels: Sequence[str]


def page_of(result: VerificationResult) -> VerificationPage:
    """Return the report of a verification."""
    entry = result.entry
    truth = _truth_rows(result)
    return VerificationPage(
        title=f"{result.model}: {entry.precision} compared with {entry.against}",
        verdict=_verdict(result),
        is_good=result.reason is None,
        reference_name=entry.against,
        candidate_name=entry.precision,
        tables=[
            ("Agreement", _figures(entry)),
            *([("Accuracy by the labels", truth)] if truth else []),
            ("Measurement", _facts(result)),
        ],
        disagreements=result.tally.disagreements,
        worst=result.tally.worst,
        labels=result.labels,
    )


def _verdict(result: VerificationResult) -> str:
    entry = result.entry
    if result.reason:
        return f"not admitted: {result.reason}"
    measured = f"{entry.metric} {entry.agreement:.3f} on {entry.frames} frames, wanted {result.min_agreement:g}"
    if entry.against != "fp32":
        return f"good enough: {measured}; but only a comparison with fp32 admits a variant to serve"
    return f"admitted to serve here: {measured}"


def _figures(entry: PrecisionEntry) -> list[tuple[str, str]]:
    """Return the title and value of each figure of agreement that was measured."""
    rows = [
        (_TITLES[name], f"{value:{'+' if name == 'score_shift' else ''}.4f}")
        for name in _TITLES
        if (value := entry.measured.get(name)) is not None
    ]
    counts = {name: entry.measured.get(name) or 0 for name in ("wanted", "got", "matched")}
    if entry.metric == "f1":
        each = f"{counts['wanted']:.0f} by {entry.against}, {counts['got']:.0f} by {entry.precision}"
        rows.append(("boxes found", f"{each}, {counts['matched']:.0f} by both"))
    return rows


def _truth_rows(result: VerificationResult) -> list[tuple[str, ...]]:
    """Return the table of accuracy by the labels, below its head; empty without labels."""
    entry, differences = result.entry, result.truth_difference()
    if entry.truth is None or not differences:
        return []
    variant, against = entry.truth[entry.precision], entry.truth[entry.against]
    titles = _TITLES | {"top1": "top-1", "top5": "top-5"}
    rows = [
        (titles[name], f"{against[name]:.4f}", f"{variant[name]:.4f}", f"{differences[name]:+.4f}") for name in variant
    ]
    return [("", entry.against, entry.precision, "difference"), *rows]


def _facts(result: VerificationResult) -> list[tuple[str, str]]:
    entry = result.entry
    return [
        ("file", entry.file),
        ("frames", f"{entry.frames}, SHA-256 {entry.data_sha256[:_HASH_DIGITS]}…"),
        ("one inference, median", _speed(entry)),
        ("measured with", f"{entry.runtime}, on {entry.machine}"),
        ("measured at", entry.at),
        ("recorded in", str(result.kept) if result.kept else "not recorded: too few frames to prove anything"),
    ]


def _speed(entry: PrecisionEntry) -> str:
    ratio = entry.against_ms / entry.ms
    relation = f"{ratio:.2f} times as fast" if ratio >= 1 else f"{1 / ratio:.2f} times as slow"
    return f"{entry.precision} {entry.ms:.2f} ms, {entry.against} {entry.against_ms:.2f} ms; {relation}"


def write_report(path: Path, page: VerificationPage) -> None:
    """Write the file; raise ConfigError where that cannot be done."""
    try:
        path.write_text(render(page), encoding="utf-8")
    except OSError as error:
        raise ConfigError(
            f"--report {path} cannot be written ({error.strerror}); wanted a path in an existing folder"
        ) from None


def render(page: VerificationPage) -> str:
    """Return the page as self-contained HTML."""
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(page.title)}</title>",
        f"<meta name=viewport content='width=device-width'><style>{_STYLE}</style>",
        f"<h1>{escape(page.title)}</h1>",
        f"<p class='verdict {'good' if page.is_good else 'bad'}'>{escape(page.verdict)}</p>",
        *(f"<h2>{escape(title)}</h2>{_table(rows)}" for title, rows in page.tables),
        f"<h2>Disagreement by frame</h2>{_chart(page.disagreements)}",
        f"<h2>Frames with the least agreement</h2>{_legend(page)}",
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
    if any(isinstance(each.reference, Classes) for each in page.worst):
        return "<p>Top classes of each precision, with their scores.</p>"
    return (
        "<p><b class=both>Green, thin</b>: found by both. "
        f"<b class=alone>Red, thick</b>: found only by {escape(page.reference_name)} (left) "
        f"or only by {escape(page.candidate_name)} (right).</p>"
    )


def _pair(page: VerificationPage, worst: DisagreeingFrame) -> str:
    left, right = draw_pair(worst, page.labels)
    sides = "".join(
        f"<div>{escape(name)}<img alt='{escape(worst.name, quote=True)}, {escape(name, quote=True)}' "
        f"src='{_data_uri(picture)}'></div>"
        for name, picture in ((page.reference_name, left), (page.candidate_name, right))
    )
    caption = f"<b>{escape(worst.name)}</b>, disagreement {worst.disagreement:.2f}: {escape(_summary(page, worst))}"
    return f"<figure><figcaption>{caption}</figcaption><div class=pair>{sides}</div></figure>"


def _summary(page: VerificationPage, worst: DisagreeingFrame) -> str:
    if isinstance(worst.reference, Classes):
        best = (_best(each, page.labels) for each in (worst.reference, worst.candidate))
        return f"{page.reference_name} {next(best)}, {page.candidate_name} {next(best)}"
    matched = len(matches(worst.reference, worst.candidate))
    only = (len(each.scores) - matched for each in (worst.reference, worst.candidate))
    names = (page.reference_name, page.candidate_name)
    return ", ".join([f"{matched} found by both", *(f"{next(only)} only by {name}" for name in names)])


def _best(found: Findings, labels: Sequence[str]) -> str:
    return _name(found, 0, labels) if len(found.scores) else "nothing"


def _data_uri(picture: Image) -> str:
    _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    return f"data:image/jpeg;base64,{base64.b64encode(data.tobytes()).decode()}"


def draw_pair(worst: DisagreeingFrame, labels: Sequence[str]) -> tuple[Image, Image]:
    """Return the frame twice, in one size, with the findings of each engine drawn in."""
    height, width = worst.picture.shape[:2]
    scale = min(_MOST_PX[0] / width, _MOST_PX[1] / height)
    size_px = (max(1, round(width * scale)), max(1, round(height * scale)))
    resized = cv2.resize(worst.picture, size_px, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    pairs = matches(worst.reference, worst.candidate)
    drawn = []
    for side, found in enumerate((worst.reference, worst.candidate)):
        names = [_name(found, place, labels) for place in range(len(found.scores))]
        drawn.append(_draw(np.array(resized, np.uint8), found, scale, {pair[side] for pair in pairs}, names))
    return drawn[0], drawn[1]


def _draw(picture: Image, found: Findings, scale: float, matched: set[int], names: Sequence[str]) -> Image:
    if isinstance(found, Classes):
        for place, name in enumerate(names[:TOP_K]):
            _write(picture, name, (4, 20 * (place + 1)), _WHITE)
        return picture
    # Unmatched boxes are drawn last, on top.
    for place in sorted(range(len(names)), key=lambda each: each not in matched):
        corners = [int(each) for each in np.rint(found.boxes[place] * scale)]
        color, width = (_MATCHED, 1) if place in matched else (_UNMATCHED, 3)
        cv2.rectangle(picture, (corners[0], corners[1]), (corners[2], corners[3]), color, width)
        _write(picture, names[place], (corners[0], corners[1]), color)
    return picture


def _write(picture: Image, text: str, at: tuple[int, int], ground: Color) -> None:
    (width, height), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    x = max(0, min(at[0], picture.shape[1] - width))
    y = max(height + 2, at[1] - below)
    cv2.rectangle(picture, (x, y - height - 2), (x + width, y + below - 1), ground, cv2.FILLED)
    ink = _BLACK if sum(ground) > sum(_UNMATCHED) else _WHITE
    cv2.putText(picture, text, (x, y), cv2.FONT_HERSHEY_SIMPLEX, 0.45, ink, 1, cv2.LINE_AA)


def _name(found: Findings, place: int, labels: Sequence[str]) -> str:
    return f"{label_of(int(found.class_ids[place]), labels)} {found.scores[place]:.2f}"
