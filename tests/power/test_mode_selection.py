"""Selection of a power mode: measured, by name, by budget, and the refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edge.core.errors import ConfigError
from edge.power.edge_power import Conf, Mode
from edge.power.mode_selection import ascending, budget_w, resolve
from edge.power.modes import NoSuchModeError, PowerModeError, PowerModes
from tests.support.emulated_boards.emulated_power import Emulated, read


def made(*rows: Mode, current: int = 0) -> PowerModes:
    conf = Conf("made.conf", rows, None)
    return PowerModes(conf, conf.mode(current))


def test_a_measured_mode_comes_before_all_others(emulate: Callable[[str], Emulated]) -> None:
    emulate("tx2")
    choice = resolve("max-q", read(), {"max-q": "MAXP_CORE_ALL", "max-p": "MAXN"})
    assert (choice.mode.name, choice.reason) == ("MAXP_CORE_ALL", "measured here: least energy per image")
    choice = resolve("MAX-P", read(), {"max-p": "0"})
    assert (choice.mode.name, choice.reason) == ("MAXN", "measured here: most images per second")


def test_a_measured_mode_that_is_gone_is_told(emulate: Callable[[str], Emulated]) -> None:
    emulate("tx2")
    choice = resolve("max-q", read(), {"max-q": "MODE_30W"})
    assert choice.mode.name == "MAXQ"
    assert choice.reason == (
        "the measured mode MODE_30W is not a single mode of nvpmodel_t186.conf; the board has a mode of that name"
    )


def test_what_lies_beyond_a_reboot_is_told(emulate: Callable[[str], Emulated]) -> None:
    emulate("agx-orin")
    assert resolve("max-q", read()).reason == "the lowest budget within reach (30 W); MODE_15W would need a reboot"
    reason = resolve("max-p", read()).reason
    assert reason == "the highest budget within reach (30 W); MAXN and MODE_50W would need a reboot"


def test_among_equal_budgets_the_gpu_counts_first_then_cores_times_clock() -> None:
    slow_gpu = Mode(0, "10W_A", 8, 2000, 500)
    few_cores = Mode(1, "10W_B", 2, 1500, 800)
    more_cores = Mode(2, "10W_C", 4, 1200, 800)
    assert resolve("max-q", made(slow_gpu, few_cores, more_cores)).mode == more_cores
    assert resolve("max-p", made(more_cores, few_cores, slow_gpu)).mode == more_cores
    uncapped = Mode(3, "10W_D", 1, 100, None)
    assert resolve("max-p", made(more_cores, few_cores, slow_gpu, uncapped)).mode == uncapped


def test_modes_without_a_budget_are_not_guessed_at() -> None:
    with pytest.raises(PowerModeError, match=r"max-q is not clear: .* wanted one of QUIET \(mode 0\), LOUD \(mode 1\)"):
        resolve("max-q", made(Mode(0, "QUIET", 1), Mode(1, "LOUD", 1)))


def test_a_file_with_one_mode_alone_is_both_max_q_and_max_p() -> None:
    for name in ("QUIET", "MODE_28_1_W", "MAXQ"):
        alone = made(Mode(4, name, 4, 1500, 800), current=4)
        assert [resolve(goal, alone).mode.name for goal in ("max-q", "max-p")] == [name, name]
    assert resolve("max-q", made(Mode(0, "QUIET", 4))).reason == "the only mode of made.conf"


def test_the_only_mode_within_reach_is_both_whatever_lies_beyond_a_reboot() -> None:
    beyond = Mode(1, "LOUD", 8, masks=(("TPC_PG_MASK", 1),))
    modes = made(Mode(0, "QUIET", 4), beyond)
    choices = [resolve(goal, modes) for goal in ("max-q", "max-p")]
    assert [(choice.mode.name, choice.reason) for choice in choices] == [("QUIET", "the only mode within reach")] * 2


FIVE_WATTS, TEN_WATTS = Mode(1, "5W", 2, 918, 640, 1600), Mode(0, "10W", 4, 1479, 921.6, 1600)


@pytest.mark.parametrize("name", ["CUSTOM", "MY_12W"])
def test_a_mode_whose_caps_are_all_below_the_lowest_budgets_is_max_q(name: str) -> None:
    custom = Mode(2, name, 2, 614, 307, 800)
    choice = resolve("max-q", made(TEN_WATTS, FIVE_WATTS, custom))
    assert choice.mode == custom
    assert choice.reason == "its caps are all at or below those of 5W, the lowest budget within reach (5 W)"
    assert resolve("max-p", made(TEN_WATTS, FIVE_WATTS, custom)).mode == TEN_WATTS


def test_a_mode_whose_caps_are_all_above_the_highest_budgets_is_max_p() -> None:
    custom = Mode(2, "CUSTOM", 4, 1479, None, 1600)
    choice = resolve("max-p", made(TEN_WATTS, FIVE_WATTS, custom))
    assert choice.mode == custom
    assert choice.reason == "its caps are all at or above those of 10W, the highest budget within reach (10 W)"


def test_a_mode_with_one_cap_above_is_not_below() -> None:
    fast_memory = Mode(2, "CUSTOM", 2, 614, 307, None)
    assert resolve("max-q", made(TEN_WATTS, FIVE_WATTS, fast_memory)).mode == FIVE_WATTS


def test_without_any_budget_the_caps_decide_where_all_agree() -> None:
    quiet, loud, mixed = Mode(0, "QUIET", 2, 600, 300), Mode(1, "LOUD", 4, 1200, 900), Mode(2, "MIXED", 3, 1500, 400)
    choices = [resolve(goal, made(loud, quiet)) for goal in ("max-q", "max-p")]
    assert [choice.mode for choice in choices] == [quiet, loud]
    assert choices[0].reason == "its caps are all at or below those of every other mode within reach"
    with pytest.raises(PowerModeError, match="max-p is not clear: "):
        resolve("max-p", made(loud, mixed))


def test_modes_ascend_by_budget_but_never_against_their_caps() -> None:
    custom = Mode(2, "CUSTOM", 2, 614, 307, 800)
    mislabelled = Mode(3, "28_1W", 2, 800, 500, 1600)
    assert ascending([TEN_WATTS, FIVE_WATTS, mislabelled]) == [mislabelled, FIVE_WATTS, TEN_WATTS]
    assert ascending([TEN_WATTS, custom, FIVE_WATTS]) == [custom, FIVE_WATTS, TEN_WATTS]


def test_a_name_that_two_modes_have_needs_the_id() -> None:
    modes = made(Mode(0, "A B", 1), Mode(3, "twin", 1), Mode(5, "twin", 2))
    with pytest.raises(NoSuchModeError, match=r"'twin' is ambiguous: twin \(mode 3\), twin \(mode 5\); give the id"):
        resolve("twin", modes)
    assert resolve("5", modes).mode.cores == 2
    assert resolve("a b", modes).mode.id == 0


def test_an_unknown_mode_is_told_with_those_there_are() -> None:
    with pytest.raises(
        ConfigError, match=r"'fast' is not in made.conf; wanted max-q, max-p, keep or one of A \(mode 0\)"
    ):
        resolve("fast", made(Mode(0, "A", 1)))


@pytest.mark.parametrize(
    ("name", "watts"),
    [
        ("MODE_15W", 15),
        ("15W_2CORE", 15),
        ("7W_AI", 7),
        ("120W", 120),
        ("7.5W", 7.5),
        ("MODE_28_1_W", 28.1),
        ("MODE_28_1W", 28.1),
        ("mode_28.1_w", 28.1),
        ("7,5W", 7.5),
        ("12.25W", 12.25),
        ("MODE_15_W", 15),
        ("MODE 15 W", 15),
        ("30WATTS", 30),
        ("V2_15W", 15),
        ("MODE_MAXN", math.inf),
        ("MODE_28_1_WIDE", None),
        ("MAXN", math.inf),
        ("MAXN_SUPER", math.inf),
        ("MAXQ", None),
        ("MAXNOT", None),
        ("WARM2WORK", None),
    ],
)
def test_a_budget_is_read_from_the_name(name: str, watts: float | None) -> None:
    assert budget_w(Mode(0, name, 1)) == watts
