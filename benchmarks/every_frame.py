"""Frame-by-frame replay of a governed day, to show what the grid of rates neglects."""

from __future__ import annotations

from bisect import bisect_right

import numpy as np
from governed_day import PERIOD_S, STALL_S, Board, Day, Ran
from simulated_tx2 import SETTINGS, TARGET_MS, read_published

_TARGET_S = TARGET_MS / 1e3


def replay(day: Day, board: Board, ran: Ran) -> tuple[float, float]:
    """Return the energy in J and the fraction of late frames of the day, with the settings that the governor chose."""
    rng = np.random.default_rng((day.seed, 3))
    tables = {
        setting.mode: (published.latency_s.tolist(), published.power_w.tolist())
        for setting in SETTINGS
        if (published := read_published(day.network, setting.mode))
    }
    counts = rng.poisson(day.rates)
    seconds = np.repeat(np.arange(len(counts), dtype=np.float64), counts)
    arrivals_s = np.sort(seconds + rng.random(len(seconds))).tolist()
    place, free_s, energy_j, late = 0, 0.0, 0.0, 0
    for period, chosen in enumerate(ran.settings):
        setting, start_s = SETTINGS[chosen], float(period * PERIOD_S)
        end_s = start_s + PERIOD_S
        latency_s, power_w = tables[setting.mode]
        idle_w, wait_s = board.idle_w[setting.mode], setting.max_wait_ms / 1e3
        energy_j += idle_w * PERIOD_S
        if period and SETTINGS[ran.settings[period - 1]].mode != setting.mode:
            free_s = max(free_s, start_s) + STALL_S
            energy_j += board.switch_cost_j() - STALL_S * idle_w
        while place < len(arrivals_s) and max(free_s, arrivals_s[place]) < end_s:
            oldest_s = arrivals_s[place]
            if free_s - oldest_s > _TARGET_S:
                late, place = late + 1, place + 1
                continue
            last = min(place + setting.max_batch, len(arrivals_s)) - 1
            leaves_s = max(free_s, min(oldest_s + wait_s, arrivals_s[last]))
            batch = bisect_right(arrivals_s, leaves_s, place, last + 1) - place
            free_s = leaves_s + latency_s[batch - 1]
            energy_j += latency_s[batch - 1] * (power_w[batch - 1] - idle_w)
            late += bisect_right(arrivals_s, free_s - _TARGET_S, place, place + batch) - place
            place += batch
    return energy_j, late / max(1, len(arrivals_s))
