"""Selection of a power mode: measured, by name, by budget, and the refusals."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from edge.core.errors import ConfigError
from edge.power.edge_power import Conf, Mode
from edge.power.mode_selection import budget_w, resolve
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
        ("MAXN", math.inf),
        ("MAXN_SUPER", math.inf),
        ("MAXQ", None),
        ("MAXNOT", None),
        ("WARM2WORK", None),
    ],
)
def test_a_budget_is_read_from_the_name(name: str, watts: float | None) -> None:
    assert budget_w(Mode(0, name, 1)) == watts
