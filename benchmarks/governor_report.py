"""Table of `benchmarks/governor.md`, and the plot of a day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from governed_day import PERIOD_S, Board, Day, Ran
from numpy.typing import NDArray
from simulated_tx2 import MAX_P, MAX_Q, SETTINGS, TARGET_MS

START, END = "<!-- written by benchmarks/governor.py: from here -->", "<!-- to here -->"
_COLUMNS: Mapping[str, str] = {
    "network": "{}",
    "mean_load": "{:.2f}",
    "idle_w": "{0[0]:g} / {0[1]:g}",
    "switch_j": "{:g}",
    "max_p_w": "{:.2f}",
    "governor_w": "{:.2f}",
    "clairvoyant_w": "{:.2f}",
    "saved_to_max_p": "{:.1%}",
    "saved_to_max_p_same_batching": "{:.1%}",
    "saved_to_max_q": "{:.1%}",
    "reached": "{:.1%}",
    "above": "{:.2%}",
    "late": "{:.2%}",
    "late_max_p": "{:.2%}",
    "late_max_q": "{:.2%}",
    "switches_per_h": "{:.1f}",
}
_HEADS = (
    *("network", "mean load", "idle W, Q / P", "J a switch", "Max-P W", "governor W", "clairvoyant W"),
    *(
        "saved to Max-P",
        "saved to Max-P, same batching",
        "saved to Max-Q",
        "**saving reached**",
        "**above clairvoyant**",
    ),
    *("**late**", "late, Max-P", "late, Max-Q", "**switches/h**"),
)


def write_table(path: Path, document: Mapping[str, Any]) -> None:
    """Write the results between the two marks of the file."""
    text = path.read_text(encoding="utf-8")
    before, after = text.split(START, 1)[0], text.split(END, 1)[1]
    lines = [*_summary(document), "", *_table(document["points"]), "", *_others(document["other"])]
    path.write_text(f"{before}{START}\n\n" + "\n".join(lines) + f"\n\n{END}{after}", encoding="utf-8")


def _summary(document: Mapping[str, Any]) -> list[str]:
    points, (first, last) = document["points"], document["seeds"]
    units = ", ".join(f"{network} {rate:.1f}" for network, rate in document["unit_images_per_s"].items())
    missed = [point for point in points if point["missed"]]
    return [
        f"Seeds {first} to {last}; a load of 1 is, in images/s: {units}.",
        f"Means over the seeds; **{len(points) - len(missed)} of {len(points)}** points meet all four targets.",
        "",
        "| figure | target | mean | worst point | worst day |",
        "| --- | --- | --- | --- | --- |",
        _line(
            points, "reached", "saving against Max-P at batch 1, of the clairvoyant's", "≥ 90 %", "{:.1%}", worst=min
        ),
        _line(points, "above", "energy above the clairvoyant's", "≤ 5 %", "{:.2%}"),
        _line(points, "late", "frames over the target", "≤ 1 %", "{:.2%}"),
        _line(points, "switches_per_h", "switches per hour", "≤ 12", "{:.1f}"),
        _line(points, "saved_to_max_p", "energy saved against Max-P at batch 1", "", "{:.1%}", worst=min, day=False),
        _line(points, "saved_to_max_p_same_batching", "… with the same batching", "", "{:.1%}", worst=min, day=False),
        _line(
            points,
            "saved_to_max_q",
            "… against Max-Q at batch 1, whose peaks are late",
            "",
            "{:.1%}",
            worst=min,
            day=False,
        ),
    ]


def _line(
    points: Sequence[Mapping[str, Any]],
    key: str,
    name: str,
    target: str,
    form: str,
    *,
    worst: Any = max,
    day: bool = True,
) -> str:
    values = [point[key] for point in points]
    of_day = form.format(worst(point[f"worst_{key}"] for point in points)) if day else ""
    return f"| {name} | {target} | {form.format(float(np.mean(values)))} | {form.format(worst(values))} | {of_day} |"


def _table(points: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"| {' | '.join(_HEADS)} | missed |", "| " + "--- | " * (len(_HEADS) + 1)]
    for point in points:
        cells = [form.format(point[key]) for key, form in _COLUMNS.items()]
        lines.append(f"| {' | '.join(cells)} | {', '.join(point['missed'])} |")
    return lines


_CHECKED: Mapping[str, str] = {
    "network": "{}",
    "governor": "{}",
    "w": "{:.3f}",
    "reached": "{:.1%}",
    "late": "{:.2%}",
    "switches_per_h": "{:.1f}",
    "frames_w": "{:.3f}",
    "frames_late": "{:.2%}",
}


def _others(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    heads = ("network", "what the governor knows", "W", "saving reached", "late", "switches/h")
    lines = [
        "The first four days of the hardest point (mean load 0.5, idle 1.5 / 1.5 W, 20 J a switch), means:",
        "",
        f"| {' | '.join(heads)} | frame by frame: W | frame by frame: late |",
        "| " + "--- | " * (len(heads) + 2),
    ]
    return [*lines, *(f"| {' | '.join(form.format(row[key]) for key, form in _CHECKED.items())} |" for row in rows)]


def draw(path: Path, day: Day, board: Board, ran: Ran, planned: NDArray[np.int64]) -> None:
    """Draw one day: the demand, the governor's and the clairvoyant's modes, power, and late frames."""
    import matplotlib as mpl  # noqa: PLC0415 -- optional: only the picture needs it

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 -- after the choice above

    hours = np.arange(len(day.frames)) * PERIOD_S / 3600
    figure, axes = plt.subplots(4, 1, figsize=(12, 9), sharex=True, height_ratios=(3, 1, 3, 1.5))
    axes[0].plot(hours, day.frames / PERIOD_S, color="#c8d0d8", linewidth=0.5, label="asked, 5 s")
    axes[0].plot(hours, _smooth(day.frames / PERIOD_S), color="#1f4e79", linewidth=1, label="asked, 1 min")
    for mode, color in ((MAX_Q, "#2e8b57"), (MAX_P, "#c0504d")):
        held = max(day.behaviour.highest_rate(each) for each in SETTINGS if each.mode == mode)
        axes[0].axhline(held, color=color, linewidth=0.8, linestyle="--", label=f"{mode} holds {TARGET_MS:g} ms")
    axes[0].set_ylabel("images/s")
    for height, settings in ((1, ran.settings), (0, planned)):
        is_max_p = np.array([each.mode == MAX_P for each in SETTINGS])[settings]
        axes[1].fill_between(hours, height, height + 0.8 * is_max_p, step="post", color="#c0504d", linewidth=0)
    axes[1].set_yticks([0.4, 1.4], ["clairvoyant\nin Max-P", "governor\nin Max-P"])
    axes[2].plot(hours, _smooth(ran.energy_j / PERIOD_S), color="#1f4e79", linewidth=1, label="governor")
    for place, name, color in (
        (_first(MAX_P), "Max-P, batch 1", "#c0504d"),
        (_first(MAX_Q), "Max-Q, batch 1", "#2e8b57"),
    ):
        axes[2].plot(hours, _smooth(day.energy_j(board, place) / PERIOD_S), color=color, linewidth=0.8, label=name)
    axes[2].set_ylabel("W, 1 min")
    axes[3].plot(
        hours, 100 * _smooth(ran.late) / np.maximum(_smooth(day.costs.asked), 1e-9), color="#1f4e79", linewidth=0.8
    )
    axes[3].axhline(1, color="#888888", linewidth=0.8, linestyle="--")
    axes[3].set_ylabel("late, % of 1 min")
    axes[3].set_xlabel("hour of the day")
    axes[3].set_xlim(0, 24)
    for axis in (axes[0], axes[2]):
        axis.legend(loc="upper left", fontsize=8, ncols=2)
    figure.suptitle(
        f"{day.network} on a simulated TX2: {ran.energy_j.sum() / 86400:.2f} W, {ran.switches} switches, "
        f"{ran.late.sum() / day.costs.asked.sum():.2%} of the frames over {TARGET_MS:g} ms"
    )
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def _first(mode: str) -> int:
    return next(place for place, each in enumerate(SETTINGS) if each.mode == mode)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    window = np.ones(60 // PERIOD_S)
    return np.convolve(values, window, mode="same") / np.convolve(np.ones(len(values)), window, mode="same")
