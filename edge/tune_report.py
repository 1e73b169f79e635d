"""What `edge tune` found: as a table for people, as JSON, and as a plot."""

from __future__ import annotations

import importlib.util
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edge.candidate import Candidate, Measured, Reason
from edge.errors import ConfigError, EdgeError
from edge.profiles import OperatingPoint, Profile, front

PLOT_SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Found:
    """A search that is at its end."""

    model: str
    profile: Profile
    path: Path  # of the profile
    measured: Mapping[Candidate, Measured]
    left_out: Mapping[Candidate, Reason]
    notes: Sequence[str]

    @property
    def front(self) -> tuple[OperatingPoint, ...]:
        return front(self.profile.points)

    def marks(self, point: OperatingPoint) -> list[str]:
        """Return what a point is the best in."""
        named = (("Max-Q", self.profile.max_q), ("Max-P", self.profile.max_p))
        return [name for name, best in named if best == point]

    def mark(self, point: OperatingPoint) -> str:
        """Return the same in a word."""
        return "/".join(self.marks(point)).replace("/Max-", "/")


def to_json(found: Found) -> dict[str, Any]:
    """Return everything; what cannot be measured here is null."""
    profile, best = found.profile, found.front
    return {
        "v": 1,
        "model": found.model,
        "profile": str(found.path),
        **profile.model_dump(mode="json", include={"machine", "engine_label", "made_at", "target_p99_ms"}),
        "max_q": profile.max_q.model_dump(mode="json") if profile.max_q else None,
        "max_p": profile.max_p.model_dump(mode="json") if profile.max_p else None,
        "points": [
            each.model_dump(mode="json") | {"on_front": each.point in best, "marks": found.marks(each.point)}
            for each in found.measured.values()
        ],
        "left_out": [asdict(each) | {"reason": reason.told} for each, reason in found.left_out.items()],
        "notes": list(found.notes),
    }


def show(found: Found, console: Console) -> None:
    """Print the Pareto front, what is marked on it, and what was left out and why."""
    best = found.front
    shown = [each for each in found.measured.values() if each.point in best or each.point.is_throttled]
    shown.sort(key=lambda each: -(each.point.images_per_s or 0))
    table = Table(box=box.SIMPLE_HEAD, title=_title(found), title_justify="left", pad_edge=False)
    columns = _columns(shown)
    for head, justify in columns:
        table.add_column(head, justify=justify, no_wrap=head != "mode", overflow="fold")
    table.add_column("", style="bold green", no_wrap=True)
    for each in shown:
        cells = _cells(each)
        mark = "throttled" if each.point.is_throttled else found.mark(each.point)
        table.add_row(*(cells[head] for head, _ in columns), mark)
    console.print(table)
    dominated = len(found.measured) - len(shown)
    if dominated:
        console.print(f"{_settings(dominated)} measured as well: another is as good in everything and better in one")
    kinds = Counter(reason.kind for reason in found.left_out.values())
    for kind, count in kinds.most_common():
        example, reason = next(pair for pair in found.left_out.items() if pair[1].kind == kind)
        told = "" if reason.told == kind else f" ({example}: {reason.told})"
        console.print(f"{_settings(count)} not measured: {kind}{told}", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    console.print(f"written down for max-q, max-p and the governor: {found.path}", markup=False, soft_wrap=True)


def _settings(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _title(found: Found) -> str:
    target = found.profile.target_p99_ms
    within = f", p99 target {target:g} ms" if target is not None else ""
    return f"{found.model} on {found.profile.machine.board}{within}"


def _columns(shown: Sequence[Measured]) -> list[tuple[str, Any]]:
    """Return the columns; what is the same for all boards without it takes no room."""
    has_modes = any(each.point.power_mode for each in shown)
    drops = any(each.dropped_share for each in shown)
    many_devices = len({each.point.device for each in shown}) > 1
    return [
        *([("mode", "left")] if has_modes else []),
        *([("device", "left")] if many_devices else []),
        ("form", "left"),
        ("batch", "right"),
        ("lanes", "right"),
        ("images/s", "right"),
        ("p99 ms", "right"),
        ("W", "right"),
        ("J/image", "right"),
        *([("dropped", "right")] if drops else []),
    ]


def _cells(each: Measured) -> dict[str, str]:
    point = each.point
    return {
        "mode": point.power_mode or "",
        "device": point.device,
        "form": point.precision,
        "batch": str(point.max_batch),
        "lanes": str(point.lanes),
        "images/s": _number(point.images_per_s, ".1f"),
        "p99 ms": _number(point.latency_p99_ms, ".1f"),
        "W": _number(point.power_w, ".2f"),
        "J/image": _number(point.energy_j_per_image, ".4f"),
        "dropped": f"{each.dropped_share:.0%}" if each.dropped_share else "",
    }


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def check_plot(path: Path) -> None:
    """Raise ConfigError, before anything is measured, where the plot could not be written."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"--plot {path}: found suffix {path.suffix!r}, wanted one of {', '.join(PLOT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: folder {path.parent} does not exist; make it first")
    if importlib.util.find_spec("matplotlib") is None:
        raise ConfigError(f"--plot {path} needs matplotlib; install it: pip install 'edge-runtime[plot]'")


def plot(found: Found, path: Path) -> None:
    """Draw all points, those that another one beats in everything paler, and name the two that are marked."""
    from matplotlib.figure import Figure  # noqa: PLC0415 -- an optional package

    points = [each for each in found.profile.points if each.images_per_s is not None]
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    _draw(left, points, found, "energy_j_per_image", "energy an image, J")
    _draw(right, points, found, "latency_p99_ms", "p99 from capture to result, ms")
    target = found.profile.target_p99_ms
    if target is not None:
        right.axhline(target, color="black", linestyle=":", linewidth=1, label=f"target {target:g} ms")
    for handle in right.legend(fontsize=8).legend_handles:
        handle.set_alpha(1)
    figure.suptitle(_title(found), fontsize=11)
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise EdgeError(f"--plot {path} cannot be written ({error.strerror}); see the folder's rights") from None


def _draw(axes: Any, points: Sequence[OperatingPoint], found: Found, key: str, label: str) -> None:
    axes.set_xlabel("images a second")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
    axes.margins(0.12)
    drawn = [each for each in points if getattr(each, key) is not None]
    if not drawn:
        axes.text(0.5, 0.5, "not measured on this machine", ha="center", va="center", transform=axes.transAxes)
        return
    best = found.front
    for form in dict.fromkeys((each.power_mode, each.device, each.precision) for each in drawn):
        those = [each for each in drawn if (each.power_mode, each.device, each.precision) == form]
        axes.scatter(
            [each.images_per_s for each in those],
            [getattr(each, key) for each in those],
            s=28,
            alpha=[1.0 if each in best else 0.25 for each in those],
            label=" ".join(part for part in form if part),
        )
    edge = _edge([(each.images_per_s or 0.0, getattr(each, key)) for each in drawn if not each.is_throttled])
    axes.plot(*zip(*edge, strict=True), color="grey", linewidth=1, zorder=0)
    for point in drawn:
        if mark := found.mark(point):
            at = (point.images_per_s, getattr(point, key))
            axes.annotate(mark, at, xytext=(0, 8), textcoords="offset points", ha="center", fontweight="bold")


def _edge(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points than which no other has more of the first and less of the second number."""
    edge: list[tuple[float, float]] = []
    for rate, cost in sorted(points, key=lambda each: (-each[0], each[1])):
        if not edge or cost < edge[-1][1]:
            edge.append((rate, cost))
    return edge or [(math.nan, math.nan)]
