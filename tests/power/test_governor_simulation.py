"""A few days of the benchmark: the simulation agrees with known results, and the governor stays within its bounds."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from tests.support.project import ROOT

sys.path.insert(0, str(ROOT / "benchmarks"))

import governor as benchmark
from camera_day import camera_day
from clairvoyant import best_path
from every_frame import replay
from governed_day import Board, Day, govern
from simulated_tx2 import MAX_P, MAX_Q, PLACES, SETTINGS, Behaviour, Setting, read_published, simulate

# One process simulates the board.
pytestmark = pytest.mark.xdist_group("governor simulation")


@pytest.fixture(scope="module")
def behaviour() -> Behaviour:
    return simulate("ResNet-50", frames=4000, seed=5)


@pytest.fixture(scope="module")
def day(behaviour: Behaviour) -> Day:
    return benchmark.make_day("ResNet-50", behaviour, 0.3, seed=7)


def test_the_table_is_the_published_one() -> None:
    published = read_published("GoogLeNet", MAX_Q)
    assert published.images_per_s[[0, 1, 3, 7]].tolist() == [141, 156, 170, 180]
    assert published.power_w[[0, 7]].tolist() == [5.7, 6.4]
    assert published.latency_s[0] == pytest.approx(0.0071)


def test_one_frame_at_a_time_waits_as_a_queue_with_a_fixed_service_does(behaviour: Behaviour) -> None:
    """Busy as rate × service; the mean of M/D/1 cannot be seen in shares, so the median and the power are compared."""
    place = PLACES[Setting(MAX_Q, 1, 0.0)]
    service_s = float(read_published("ResNet-50", MAX_Q).latency_s[0])
    at = int(np.searchsorted(behaviour.rates, 20.0))
    busy = behaviour.rates[at] * service_s
    assert behaviour.busy[place, at] == pytest.approx(busy, rel=0.05)
    assert behaviour.busy_j[place, at] == pytest.approx(busy * 5.4, rel=0.05)
    # P(no wait) = 1 - busy.
    at_once = behaviour.latency[place, at, int(service_s * 1e3 / 0.5)]
    assert at_once == pytest.approx(1 - busy, abs=0.05)


def test_a_day_is_quiet_at_night_has_two_peaks_and_the_asked_mean() -> None:
    load = camera_day(0.3, 1.1, seed=3)
    hours = load.reshape(24, 3600).mean(axis=1)
    assert load.mean() == pytest.approx(0.3, rel=1e-3)
    assert load.max() <= 1.1
    assert hours[2] < 0.25 * hours[12] < 0.25 * hours[8]
    assert hours[17] > hours[14]
    assert (camera_day(0.3, 1.1, seed=3) == load).all()
    assert (camera_day(0.3, 1.1, seed=4) != load).any()


def _paths(steps: int, dwell: int) -> Iterator[tuple[int, ...]]:
    for path in itertools.product((0, 1), repeat=steps):
        changes = [step for step in range(1, steps) if path[step] != path[step - 1]]
        if all(after - before >= dwell for before, after in itertools.pairwise(changes)):
            yield path


@pytest.mark.parametrize("dwell", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
def test_the_clairvoyant_finds_the_least_of_all_paths_that_keep_the_dwell(dwell: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 1, (9, 2, 1))
    switched = cost + rng.uniform(0, 0.5)

    def total(path: tuple[int, ...]) -> float:
        changed = [step > 0 and path[step] != path[step - 1] for step in range(9)]
        return sum(float((switched if new else cost)[step, path[step], 0]) for step, new in enumerate(changed))

    found = tuple(int(each) for each in best_path(cost, switched, dwell)[:, 0])
    assert found in set(_paths(9, dwell))
    assert total(found) == pytest.approx(min(map(total, _paths(9, dwell))))


def test_the_governor_keeps_its_bounds_on_a_day(day: Day) -> None:
    board = Board({MAX_Q: 1.5, MAX_P: 2.5}, 5.0)
    (planned,), _ = benchmark.plan(day, [board])
    ran = govern(day, board)
    frames = day.costs.asked.sum()
    max_p_j = day.energy_j(board, PLACES[Setting(MAX_P, 1, 0.0)]).sum()
    reached = (max_p_j - ran.energy_j.sum()) / (max_p_j - planned.energy_j.sum())
    assert reached >= 0.9
    assert ran.energy_j.sum() <= 1.05 * planned.energy_j.sum()
    assert ran.late.sum() <= 0.01 * frames
    assert ran.switches <= 24 * 12


def test_a_day_frame_by_frame_takes_as_much_and_is_late_as_often(day: Day) -> None:
    board = Board({MAX_Q: 1.5, MAX_P: 2.5}, 5.0)
    ran = govern(day, board)
    energy_j, late = replay(day, board, ran)
    assert energy_j == pytest.approx(ran.energy_j.sum(), rel=0.01)
    assert late == pytest.approx(ran.late.sum() / day.costs.asked.sum(), abs=0.003)


def test_without_a_profile_it_is_slower_to_find_the_mode_and_still_saves(day: Day) -> None:
    board = Board({MAX_Q: 1.5, MAX_P: 2.5}, 5.0)
    ran = govern(day, board, has_profile=False)
    assert ran.energy_j.sum() < day.energy_j(board, PLACES[Setting(MAX_P, 1, 0.0)]).sum()
    assert ran.late.sum() <= 0.02 * day.costs.asked.sum()
    assert {SETTINGS[place].mode for place in ran.settings} == {MAX_Q, MAX_P}
