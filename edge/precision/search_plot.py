"""SVG plot of a model's agreement against the fraction of its work in INT8."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from edge.precision.layer_search import CurvePoint, LayerSelection
from edge.precision.qdq import Placement

_WIDTH_PX, _HEIGHT_PX, _LEFT_PX, _TOP_PX = 640, 360, 60, 40
_COLORS = ("#0b6fb8", "#c8500a")
_TICKS = 5


def plot(title: str, selections: Mapping[Placement, LayerSelection], tolerance: float) -> str:
    """Draw a point for each measured selection of layers, and a ring around the chosen one; return the SVG."""
    lowest = min((point.agreement for each in selections.values() for point in each.curve), default=0.0)
    axes = _Axes(min(lowest, tolerance) - 0.02)
    size = f'width="{_WIDTH_PX + 100}" height="{_HEIGHT_PX + 100}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT_PX}" y="24" font-size="15">{escape(title)}: agreement with FP32 on held-back frames</text>',
        *axes.draw(tolerance),
    ]
    for row, ((name, selection), color) in enumerate(zip(selections.items(), _COLORS, strict=False)):
        parts += _series(axes, selection, color)
        parts.append(
            f'<text x="{_LEFT_PX + 10}" y="{_TOP_PX + _HEIGHT_PX - 30 + 16 * row}" fill="{color}">{escape(name)}</text>'
        )
    return "\n".join([*parts, "</svg>\n"])


class _Axes:
    """Axes: the fraction of work from 0 to 1, and the agreement from `lowest` to 1."""

    def __init__(self, lowest: float) -> None:
        self._lowest = max(0.0, lowest)

    def at(self, fraction: float, agreement: float) -> tuple[float, float]:
        height = (1 - agreement) / (1 - self._lowest)
        return _LEFT_PX + fraction * _WIDTH_PX, _TOP_PX + height * _HEIGHT_PX

    def draw(self, tolerance: float) -> list[str]:
        middle = f'x="{_LEFT_PX + _WIDTH_PX / 2}" y="{_TOP_PX + _HEIGHT_PX + 40}" text-anchor="middle"'
        parts = [
            f'<rect x="{_LEFT_PX}" y="{_TOP_PX}" width="{_WIDTH_PX}" height="{_HEIGHT_PX}" fill="none" stroke="#888"/>',
            f"<text {middle}>fraction of multiplications in INT8</text>",
        ]
        for tick in range(_TICKS + 1):
            part = tick / _TICKS
            agreement = self._lowest + part * (1 - self._lowest)
            x, y = self.at(part, agreement)
            parts.append(f'<text x="{x}" y="{_TOP_PX + _HEIGHT_PX + 18}" text-anchor="middle">{part:.0%}</text>')
            parts.append(f'<text x="{_LEFT_PX - 8}" y="{y + 4}" text-anchor="end">{agreement:.2f}</text>')
        (left, y), (right, _) = self.at(0, tolerance), self.at(1, tolerance)
        parts.append(f'<line x1="{left}" y1="{y}" x2="{right}" y2="{y}" stroke="#888" stroke-dasharray="4"/>')
        return parts


def _series(axes: _Axes, selection: LayerSelection, color: str) -> list[str]:
    score = selection.score
    chosen = CurvePoint(len(selection.layers), selection.fraction, score.agreement, score.similarity)
    points = [_circle(axes, point, color, 3, color) for point in selection.curve]
    return [*points, _circle(axes, chosen, color, 7, "none")]


def _circle(axes: _Axes, point: CurvePoint, color: str, radius: int, fill: str) -> str:
    x, y = axes.at(point.fraction, point.agreement)
    title = f"{point.layers} layers, {point.fraction:.0%} of the work in INT8, agreement {point.agreement:.3f}"
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{fill}" stroke="{color}"><title>{title}</title></circle>'
    )
