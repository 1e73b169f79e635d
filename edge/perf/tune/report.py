"""What `edge tune` found: as a table for people, and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from edge.core.tuned_profile import OperatingPoint, Profile, front
from edge.perf.tune.candidate_pruner import Reason
from edge.perf.tune.setting import MeasuredSetting, Setting


@dataclass(frozen=True)
class TuneResult:
    """A search that is at its end."""

    model: str
    profile: Profile
    path: Path  # of the profile
    measured: Mapping[Setting, MeasuredSetting]
    left_out: Mapping[Setting, Reason]
    notes: Sequence[str]

    @property
    def front(self) -> tuple[OperatingPoint, ...]:
        return front(self.profile.points)

    @property
    def title(self) -> str:
        target = self.profile.target_p99_ms
        within = f", p99 target {target:g} ms" if target is not None else ""
        return f"{self.model} on {self.profile.machine.board}{within}"

    def marks(self, point: OperatingPoint) -> list[str]:
        """Return what a point is the best in."""
        named = (("Max-Q", self.profile.max_q), ("Max-P", self.profile.max_p))
        return [name for name, best in named if best == point]

    def mark(self, point: OperatingPoint) -> str:
        """Return the same in a word."""
        return "/".join(self.marks(point)).replace("/Max-", "/")


def to_json(found: TuneResult) -> dict[str, Any]:
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
        "left_out": [asdict(each) | {"reason": reason.text} for each, reason in found.left_out.items()],
        "notes": list(found.notes),
    }


def show(found: TuneResult, console: Console) -> None:
    """Print the Pareto front, what is marked on it, and what was left out and why."""
    best = found.front
    shown = [each for each in found.measured.values() if each.point in best or each.point.is_throttled]
    shown.sort(key=lambda each: -(each.point.images_per_s or 0))
    table = Table(box=box.SIMPLE_HEAD, title=found.title, title_justify="left", pad_edge=False)
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
        told = "" if reason.text == kind else f" ({example}: {reason.text})"
        console.print(f"{_settings(count)} not measured: {kind}{told}", markup=False)
    for note in found.notes:
        console.print(note, markup=False)
    console.print(f"written down for max-q, max-p and the governor: {found.path}", markup=False, soft_wrap=True)


def _settings(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _columns(shown: Sequence[MeasuredSetting]) -> list[tuple[str, Any]]:
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


def _cells(each: MeasuredSetting) -> dict[str, str]:
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
