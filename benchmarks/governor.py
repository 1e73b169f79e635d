"""Energy of the governor against the optimum: `.venv/bin/python benchmarks/governor.py [--seeds N] [--plot PNG]`.

A simulated TX2 serves a day of camera load under the governor, in fixed modes, and with the day known in advance. The
model and the results are in `benchmarks/governor.md`, whose table this command writes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from camera_day import DAY_S, camera_day
from clairvoyant import best_path
from every_frame import replay
from governed_day import DWELL_S, PERIOD_S, STALL_S, Array, Board, Day, govern
from governor_report import draw, write_table
from numpy.typing import NDArray
from simulated_tx2 import LATE_SHARE, MAX_P, MAX_Q, PLACES, SETTINGS, Behaviour, Setting, simulate

FOLDER = Path(__file__).parent
NETWORKS = ("GoogLeNet", "ResNet-50")
LOADS = (0.15, 0.3, 0.5)
IDLE_W = ((1.5, 1.5), (1.5, 3.5), (2.0, 3.0), (3.5, 3.5))  # in Max-Q, in Max-P
SWITCH_J = (1.0, 20.0)
FIRST_SEED = 100  # the governor's constants were chosen on days of lower seeds
FRAMES = 60_000
# Of the highest load that the board sustains within the target; beyond it every policy fails alike.
HIGHEST = 0.97
# For each frame beyond the 1 % of a period: far more than any mode can save.
LATE_COST_J = 20.0
TARGETS = {"reached": 0.90, "above": 0.05, "late": LATE_SHARE, "switches_per_h": 12.0}
_IS_MAX_Q = np.array([each.mode == MAX_Q for each in SETTINGS])
_MODES = (np.flatnonzero(_IS_MAX_Q), np.flatnonzero(~_IS_MAX_Q))


@dataclass(frozen=True)
class Plan:
    """Plan of a day known in advance."""

    energy_j: Array  # of each period
    late: Array  # frames
    settings: NDArray[np.int64]
    switches: int


def plan(day: Day, boards: Sequence[Board]) -> tuple[list[Plan], list[float]]:
    """Return the clairvoyant plan on each board, and the energy of Max-P with the same batching."""
    energies_j = [np.stack([day.energy_j(board, place) for place in range(len(SETTINGS))]) for board in boards]
    excess = np.maximum(0.0, day.costs.late - LATE_SHARE * day.costs.asked)
    chosen = []  # boards × modes × periods: the best setting of the mode
    costs = np.empty((day.costs.late.shape[1], len(_MODES), len(boards)))
    for lane, energy_j in enumerate(energies_j):
        cost = energy_j + LATE_COST_J * excess
        chosen.append([places[np.argmin(cost[places], axis=0)] for places in _MODES])
        for mode, places in enumerate(chosen[lane]):
            costs[:, mode, lane] = np.take_along_axis(cost, places[None], axis=0)[0]
    served = 1 - STALL_S / PERIOD_S
    switch_j = np.array([board.switch_cost_j() for board in boards])
    path = best_path(costs, served * costs + switch_j, DWELL_S // PERIOD_S)
    plans, same_batching_j = [], []
    for lane, (board, energy_j) in enumerate(zip(boards, energies_j, strict=True)):
        settings = np.where(path[:, lane] == 0, *chosen[lane])
        plans.append(_planned(day, board, energy_j, path[:, lane], settings))
        same_batching_j.append(float(np.take_along_axis(energy_j, chosen[lane][1][None], axis=0).sum()))
    return plans, same_batching_j


def _planned(day: Day, board: Board, energy_j: Array, path: NDArray[np.int64], settings: NDArray[np.int64]) -> Plan:
    switched = np.concatenate([[False], path[1:] != path[:-1]])
    served = np.where(switched, 1 - STALL_S / PERIOD_S, 1.0)
    spent_j = served * np.take_along_axis(energy_j, settings[None], axis=0)[0] + switched * board.switch_cost_j()
    late = served * np.take_along_axis(day.costs.late, settings[None], axis=0)[0] + (1 - served) * day.costs.asked
    return Plan(spent_j, late, settings, int(switched.sum()))


def make_day(network: str, behaviour: Behaviour, mean_load: float, seed: int) -> Day:
    """Return a day in units of the load that Max-P sustains within the target at batch 1."""
    unit = behaviour.highest_rate(Setting(MAX_P, 1, 0.0))
    highest = HIGHEST * max(behaviour.highest_rate(each) for each in SETTINGS)
    return Day(network, behaviour, unit * camera_day(mean_load, highest / unit, seed), seed)


def compare(job: tuple[str, Behaviour, float, int]) -> list[dict[str, Any]]:
    """Run one day on every board; return one row per board."""
    network, behaviour, mean_load, seed = job
    day = make_day(network, behaviour, mean_load, seed)
    boards = [Board({MAX_Q: q, MAX_P: p}, switch_j) for (q, p), switch_j in itertools.product(IDLE_W, SWITCH_J)]
    plans, same_batching_j = plan(day, boards)
    return [_row(day, mean_load, *each) for each in zip(boards, plans, same_batching_j, strict=True)]


def _row(day: Day, mean_load: float, board: Board, planned: Plan, same_batching_j: float) -> dict[str, Any]:
    ran = govern(day, board)
    frames = float(day.costs.asked.sum())
    place_p, place_q = PLACES[Setting(MAX_P, 1, 0.0)], PLACES[Setting(MAX_Q, 1, 0.0)]
    max_p_j, max_q_j = (float(day.energy_j(board, place).sum()) for place in (place_p, place_q))
    energy_j, best_j = float(ran.energy_j.sum()), float(planned.energy_j.sum())
    return {
        "network": day.network,
        "mean_load": mean_load,
        "idle_w": [board.idle_w[MAX_Q], board.idle_w[MAX_P]],
        "switch_j": board.switch_j,
        "seed": day.seed,
        "images_per_s": frames / DAY_S,
        "governor_w": energy_j / DAY_S,
        "clairvoyant_w": best_j / DAY_S,
        "max_p_w": max_p_j / DAY_S,
        "max_q_w": max_q_j / DAY_S,
        "max_p_same_batching_w": same_batching_j / DAY_S,
        "reached": (max_p_j - energy_j) / (max_p_j - best_j),
        "above": energy_j / best_j - 1,
        "saved_to_max_p": 1 - energy_j / max_p_j,
        "saved_to_max_p_same_batching": 1 - energy_j / same_batching_j,
        "saved_to_max_q": 1 - energy_j / max_q_j,
        "late": float(ran.late.sum()) / frames,
        "late_clairvoyant": float(planned.late.sum()) / frames,
        "late_max_p": float(day.costs.late[place_p].sum()) / frames,
        "late_max_q": float(day.costs.late[place_q].sum()) / frames,
        "switches_per_h": ran.switches / 24,
        "switches_per_h_clairvoyant": planned.switches / 24,
    }


KEYS = ("network", "mean_load", "idle_w", "switch_j")


def summarise(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the mean of each point of the sweep over its seeds, with the worst seed for each target."""
    points: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        points.setdefault(json.dumps([row[key] for key in KEYS]), []).append(row)
    summaries = []
    for of_point in points.values():
        means = {
            key: statistics.fmean(row[key] for row in of_point) for key in of_point[0] if key not in (*KEYS, "seed")
        }
        worst = {f"worst_{key}": (min if key == "reached" else max)(row[key] for row in of_point) for key in TARGETS}
        summaries.append({key: of_point[0][key] for key in KEYS} | means | worst | {"missed": _missed(means)})
    return summaries


def _missed(figures: Mapping[str, float]) -> list[str]:
    return [
        key for key, target in TARGETS.items() if (figures[key] < target if key == "reached" else figures[key] > target)
    ]


CHECKS: Sequence[tuple[str, dict[str, bool]]] = (
    ("as above", {}),
    ("p99 and counts alone, no fraction of late frames", {"tells_late": False}),
    ("a profile whose power is off by 3 % in each mode by itself", {"are_gains_apart": True}),
    ("no profile", {"has_profile": False}),
)
CHECKED_DAYS = 4


def check(job: tuple[str, Behaviour]) -> list[dict[str, Any]]:
    """Run days of the hardest point with less knowledge, and replay them frame by frame."""
    network, behaviour = job
    board = Board({MAX_Q: IDLE_W[0][0], MAX_P: IDLE_W[0][1]}, SWITCH_J[-1])
    days = [make_day(network, behaviour, LOADS[-1], FIRST_SEED + each) for each in range(CHECKED_DAYS)]
    rows = []
    for name, options in CHECKS:
        of_days = [_checked(day, board, options) for day in days]
        means = {key: statistics.fmean(row[key] for row in of_days) for key in of_days[0]}
        rows.append({"network": network, "governor": name} | means)
    return rows


def _checked(day: Day, board: Board, options: Mapping[str, bool]) -> dict[str, float]:
    ran, (planned,) = govern(day, board, **options), plan(day, [board])[0]
    energy_j, max_p_j = ran.energy_j.sum(), day.energy_j(board, PLACES[Setting(MAX_P, 1, 0.0)]).sum()
    frames_j, frames_late = replay(day, board, ran)
    return {
        "w": float(energy_j) / DAY_S,
        "reached": float((max_p_j - energy_j) / (max_p_j - planned.energy_j.sum())),
        "late": float(ran.late.sum() / day.costs.asked.sum()),
        "switches_per_h": ran.switches / 24,
        "frames_w": frames_j / DAY_S,
        "frames_late": frames_late,
    }


def picture(path: Path, behaviour: Behaviour) -> None:
    """Draw a day of GoogLeNet."""
    day, board = make_day("GoogLeNet", behaviour, 0.4, FIRST_SEED), Board({MAX_Q: 2.0, MAX_P: 3.0}, 5.0)
    plans, _ = plan(day, [board])
    draw(path, day, board, govern(day, board), plans[0].settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="days of each point")
    parser.add_argument("--json", type=Path, default=FOLDER / "results" / "governor.json")
    parser.add_argument("--markdown", type=Path, default=FOLDER / "governor.md")
    parser.add_argument("--plot", type=Path, help="PNG of one day; needs matplotlib")
    arguments = parser.parse_args()
    behaviours = {network: simulate(network, FRAMES, seed=1) for network in NETWORKS}
    seeds = range(FIRST_SEED, FIRST_SEED + arguments.seeds)
    jobs = [(network, behaviours[network], load, seed) for network in NETWORKS for load in LOADS for seed in seeds]
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        rows = list(itertools.chain.from_iterable(pool.map(compare, jobs)))
        checks = list(itertools.chain.from_iterable(pool.map(check, behaviours.items())))
    document = {
        "seeds": [seeds.start, seeds.stop - 1],
        "unit_images_per_s": {
            network: behaviour.highest_rate(Setting(MAX_P, 1, 0.0)) for network, behaviour in behaviours.items()
        },
        "points": summarise(rows),
        "other": checks,
    }
    arguments.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    write_table(arguments.markdown, document)
    if arguments.plot:
        picture(arguments.plot, behaviours["GoogLeNet"])


if __name__ == "__main__":
    main()
