"""Report of `edge tune`: a table for people, and JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from edge.core.console import print_table
from edge.core.tuned_profile import OperatingPoint, TunedProfile, pareto_front
from edge.perf.tune.candidate_pruner import Reason
from edge.perf.tune.setting import MeasuredSetting, Setting


@dataclass(frozen=True)
class TuneResult:
    """Result of a finished search."""

    model: str
    profile: TunedProfile
    path: Path  # of the profile
    measured: Mapping[Setting, MeasuredSetting]
    skipped: Mapping[Setting, Reason]
    notes: Sequence[str]

    @property
    def front(self) -> tuple[OperatingPoint, ...]:
        return pareto_front(self.profile.points)

    @property
    def title(self) -> str:
        target = self.profile.target_p99_ms
        within = f", p99 target {target:g} ms" if target is not None else ""
        return f"{self.model} on {self.profile.machine.board}{within}"

    def marks(self, point: OperatingPoint) -> list[str]:
        """Return the marks of a point: Max-Q, Max-P, both or neither."""
        named = (("Max-Q", self.profile.max_q), ("Max-P", self.profile.max_p))
        return [name for name, best in named if best == point]

    def mark(self, point: OperatingPoint) -> str:
        """Return the marks as one word."""
        return "/".join(self.marks(point)).replace("/Max-", "/")


def to_json(result: TuneResult) -> dict[str, Any]:
    """Return the result as JSON; what cannot be measured here is null."""
    profile, best = result.profile, result.front
    return {
        "v": 1,
        "model": result.model,
        "profile": str(result.path),
        **profile.model_dump(mode="json", include={"machine", "engine_label", "made_at", "target_p99_ms"}),
        "max_q": profile.max_q.model_dump(mode="json") if profile.max_q else None,
        "max_p": profile.max_p.model_dump(mode="json") if profile.max_p else None,
        "points": [
            each.model_dump(mode="json") | {"on_front": each.point in best, "marks": result.marks(each.point)}
            for each in result.measured.values()
        ],
        "left_out": [asdict(each) | {"reason": reason.text} for each, reason in result.skipped.items()],
        "notes": list(result.notes),
    }


def show(result: TuneResult, console: Console) -> None:
    """Print the Pareto front with its marks, and the skipped settings with their reasons."""
    best = result.front
    shown = [each for each in result.measured.values() if each.point in best or each.point.is_throttled]
    shown.sort(key=lambda each: -(each.point.images_per_s or 0))
    heads = _heads(shown)
    rows: list[list[str | Text]] = []
    for each in shown:
        cells = _cells(each)
        mark = "throttled" if each.point.is_throttled else result.mark(each.point)
        rows.append([Text(mark, "bold green"), *(cells[head] for head in heads)])
    print_table(console, ("", *heads), rows, title=result.title)
    beaten = len(result.measured) - len(shown)
    if beaten:
        console.print(f"{_settings(beaten)} not shown: another is at least as good in every respect")
    kinds = Counter(reason.kind for reason in result.skipped.values())
    for kind, count in kinds.most_common():
        example, reason = next(pair for pair in result.skipped.items() if pair[1].kind == kind)
        details = "" if reason.text == kind else f" ({example}: {reason.text})"
        console.print(f"{_settings(count)} not measured: {kind}{details}")
    for note in result.notes:
        console.print(note)
    console.print(f"profile for max-q, max-p and the governor written to {result.path}", soft_wrap=True)


def _settings(count: int) -> str:
    return "1 setting" if count == 1 else f"{count} settings"


def _heads(shown: Sequence[MeasuredSetting]) -> list[str]:
    """Return the heads of the columns; those that would hold one value are omitted."""
    has_modes = any(each.point.power_mode for each in shown)
    drops = any(each.dropped_share for each in shown)
    many_devices = len({each.point.device for each in shown}) > 1
    return [
        *(["mode"] if has_modes else []),
        *(["device"] if many_devices else []),
        *("precision", "batch", "lanes", "images/s", "p99 ms", "W", "J/image"),
        *(["dropped"] if drops else []),
    ]


def _cells(each: MeasuredSetting) -> dict[str, str]:
    point = each.point
    return {
        "mode": point.power_mode or "",
        "device": point.device,
        "precision": point.precision,
        "batch": str(point.max_batch),
        "lanes": str(point.lanes),
        "images/s": _number(point.images_per_s, ".1f"),
        "p99 ms": _number(point.latency_p99_ms, ".1f"),
        "W": _number(point.power_w, ".2f"),
        "J/image": _number(point.energy_j_per_image, ".4f"),
        "dropped": f"{each.dropped_share:.0%}" if each.dropped_share else "",
    }


def _number(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)
