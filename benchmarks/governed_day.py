"""Day on the simulated TX2: the cost of each setting in each period, and the governor's run through it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from simulated_tx2 import (
    BATCHES,
    BIN_MS,
    LATE_SHARE,
    MAX_P,
    MAX_Q,
    PLACES,
    SETTINGS,
    TARGET_MS,
    WAITS_MS,
    Behaviour,
    Setting,
    read_published,
)

from edge.core.tuned_profile import Machine, OperatingPoint, TunedProfile
from edge.power.governor import Decision, Governor, GovernorInput, Rules, StreamLoad

PERIOD_S = 5  # between decisions, as in telemetry
STALL_S = 0.5  # without service during a switch
DWELL_S = 60
# Relative standard deviations: of all rates of a mode together, of each figure of `edge tune` by itself, of
# the gain of the board's one power sensor, and of a period's power.
MODE_ERROR, POINT_ERROR, GAIN_ERROR, SENSOR_ERROR = 0.03, 0.01, 0.03, 0.02

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Behaviour of each setting in each period of a day; arrays are settings×periods."""

    asked: Array  # expected images; one dimension
    busy_s: Array
    busy_j: Array  # of the busy time, including idle watts
    late: Array  # frames
    dropped: Array  # frames


def costs(behaviour: Behaviour, rates: Array) -> Costs:
    """Assemble a day from the behaviour at each second's rate (images/s)."""
    periods = len(rates) // PERIOD_S

    def of_periods(per_second: Array) -> Array:
        seconds = np.stack([np.interp(rates, behaviour.rates, row) for row in per_second])
        return np.asarray(seconds.reshape(len(per_second), periods, PERIOD_S).sum(axis=2))

    return Costs(
        asked=rates.reshape(periods, PERIOD_S).sum(axis=1),
        busy_s=of_periods(behaviour.busy),
        busy_j=of_periods(behaviour.busy_j),
        late=of_periods(behaviour.late),
        dropped=of_periods(behaviour.dropped),
    )


@dataclass(frozen=True)
class Board:
    """Properties of the board that the published results lack."""

    idle_w: Mapping[str, float]  # by mode
    switch_j: float

    def switch_cost_j(self) -> float:
        """Return the energy of the stall and of the switch itself, at the higher idle watts."""
        return self.switch_j + STALL_S * max(self.idle_w.values())


@dataclass(frozen=True)
class Ran:
    """Outcome of a day."""

    energy_j: Array  # of each period
    late: Array  # frames
    settings: NDArray[np.int64]  # indices into SETTINGS
    switches: int
    reasons: tuple[str, ...]  # of all switches


class Day:
    """Random draws and costs of a day, shared by all boards and policies compared on it."""

    def __init__(self, network: str, behaviour: Behaviour, rates: Array, seed: int) -> None:
        self.network, self.behaviour, self.rates, self.seed = network, behaviour, rates, seed
        self.costs = costs(behaviour, rates)
        rng = np.random.default_rng((seed, 1))
        self.frames = rng.poisson(self.costs.asked).astype(np.float64)
        # The rank of the p99 among the frames of a period: an order statistic of as many draws.
        ranks = np.ceil((1 - LATE_SHARE) * np.maximum(self.frames, 1))
        self.rank = rng.beta(ranks, np.maximum(self.frames, 1) - ranks + 1)
        self.sensor_gain = float(rng.normal(1, GAIN_ERROR))
        self.sensor = self.sensor_gain * rng.normal(1, SENSOR_ERROR, len(self.frames))
        self.chance = rng.random(len(self.frames))

    def energy_j(self, board: Board, place: NDArray[np.int64] | int, periods: slice | int = slice(None)) -> Array:
        """Return the energy of periods in a setting."""
        idle_w = np.array([board.idle_w[each.mode] for each in SETTINGS])[place]
        busy_s, busy_j = self.costs.busy_s[place, periods], self.costs.busy_j[place, periods]
        return np.asarray(idle_w * (PERIOD_S - busy_s) + busy_j)


def make_profile(network: str, board: Board, gain: float, seed: int, *, are_gains_apart: bool = False) -> TunedProfile:
    """Return the profile that `edge tune` would have measured, with errors; the sensor's may be common to all modes."""
    rng = np.random.default_rng((seed, 2))
    apart = np.random.default_rng((seed, 4))
    points = []
    for mode in (MAX_Q, MAX_P):
        published = read_published(network, mode)
        rate_error = rng.normal(1, MODE_ERROR)
        if are_gains_apart:
            gain = float(apart.normal(1, GAIN_ERROR))
        points += [
            OperatingPoint(
                power_mode=mode,
                precision="fp16",
                max_batch=batch,
                max_wait_ms=0.0,
                lanes=1,
                device="gpu",
                images_per_s=rate_error * rng.normal(1, POINT_ERROR) * batch / published.latency_s[batch - 1],
                power_w=gain * rng.normal(1, POINT_ERROR) * published.power_w[batch - 1],
                idle_w=gain * rng.normal(1, POINT_ERROR) * board.idle_w[mode],
            )
            for batch in BATCHES
        ]
    machine = Machine(board="simulated Jetson TX2", l4t=None, engine=network)
    return TunedProfile(
        machine=machine, engine_label=network, made_at="", target_p99_ms=TARGET_MS, points=tuple(points)
    )


def govern(
    day: Day, board: Board, *, has_profile: bool = True, tells_late: bool = True, are_gains_apart: bool = False
) -> Ran:
    """Run the governor through the day; it sees each period only after its end."""
    measured = make_profile(day.network, board, day.sensor_gain, day.seed, are_gains_apart=are_gains_apart)
    profile = measured if has_profile else None
    settings = Rules(
        modes=(MAX_Q, MAX_P),
        max_batches=BATCHES,
        max_waits_ms=WAITS_MS,
        min_dwell_s=DWELL_S,
        switch_cost_j=board.switch_cost_j(),
    )
    governor = Governor(settings, profile)
    return _Run(day, board, governor, tells_late=tells_late).run()


class _Run:
    def __init__(self, day: Day, board: Board, governor: Governor, *, tells_late: bool) -> None:
        self._day, self._board, self._governor, self._tells_late = day, board, governor, tells_late
        self._energy_j = np.zeros(len(day.frames))
        self._late = np.zeros(len(day.frames))
        self._settings = np.zeros(len(day.frames), np.int64)
        self._reasons: list[str] = []

    def run(self) -> Ran:
        setting, switched = Setting(MAX_P, 1, 0.0), False
        for period in range(len(self._day.frames)):
            decision = self._governor.decide(self._run_period(period, setting, switched=switched))
            switched = decision.mode not in (None, setting.mode)
            if switched:
                self._reasons.append(decision.reason)
            setting = _next(setting, decision)
        return Ran(self._energy_j, self._late, self._settings, len(self._reasons), tuple(self._reasons))

    def _run_period(self, period: int, setting: Setting, *, switched: bool) -> GovernorInput:
        day, place = self._day, PLACES[setting]
        served = 1 - STALL_S / PERIOD_S if switched else 1.0
        asked = day.costs.asked[period]
        energy_j = served * float(day.energy_j(self._board, place, period))
        late = served * day.costs.late[place, period] + (1 - served) * asked
        dropped = served * day.costs.dropped[place, period] + (1 - served) * asked
        if switched:
            energy_j += self._board.switch_cost_j()
        self._energy_j[period], self._late[period], self._settings[period] = energy_j, late, place
        return self._snapshot(period, setting, energy_j, late, dropped)

    def _snapshot(self, period: int, setting: Setting, energy_j: float, late: float, dropped: float) -> GovernorInput:
        day = self._day
        frames, asked = day.frames[period], max(day.costs.asked[period], 1e-9)
        stream = StreamLoad(
            name="cameras",
            target_p99_ms=TARGET_MS,
            p99_ms=self._p99_ms(period, setting) if frames else None,
            offered_per_s=frames / PERIOD_S,
            results_per_s=frames * (1 - dropped / asked) / PERIOD_S,
            late=_drawn(frames, late / asked, day.chance[period]) if self._tells_late and frames else None,
        )
        power_w = energy_j / PERIOD_S * day.sensor[period]
        return GovernorInput((period + 1.0) * PERIOD_S, setting.mode, (stream,), power_w=float(power_w))

    def _p99_ms(self, period: int, setting: Setting) -> float:
        """Draw the p99 of the frames of a period, at its mean rate."""
        day = self._day
        rates = day.behaviour.rates
        place = min(int(np.searchsorted(rates, day.costs.asked[period] / PERIOD_S)), len(rates) - 1)
        return float((np.searchsorted(day.behaviour.latency[PLACES[setting], place], day.rank[period]) + 1) * BIN_MS)


def _drawn(frames: float, share: float, chance: float) -> float:
    """Draw the fraction of late frames, rounded at random to whole frames with a normal spread."""
    mean = frames * share
    spread = np.sqrt(mean * max(0.0, 1 - share))
    # The inverse of the logistic function: close enough to the normal one's, and fast.
    drawn = mean + spread * np.log(chance / (1 - chance)) / 1.702
    return float(min(frames, max(0.0, round(drawn))) / frames)


def _next(setting: Setting, decision: Decision) -> Setting:
    return Setting(
        decision.mode or setting.mode,
        setting.max_batch if decision.max_batch is None else decision.max_batch,
        setting.max_wait_ms if decision.max_wait_ms is None else decision.max_wait_ms,
    )
