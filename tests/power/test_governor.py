"""The governor on synthetic boards: decisions, limits, and what it never does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge.core.tuned_profile import Machine, OperatingPoint, TunedProfile
from edge.power.governor import Decision, Governor, GovernorInput, Rules, StreamLoad
from edge.power.governor.forecast import Forecast, by_mode

PERIOD_S = 5.0
TARGET_MS = 50.0
MODES = ("LOW", "MID", "HIGH")
BATCH_1_MS = {"LOW": 20.0, "MID": 10.0, "HIGH": 5.0}
BUSY_W = {"LOW": 5.0, "MID": 9.0, "HIGH": 20.0}
# What each holds within 50 ms, of frames at random: 12, 56 and 158 images/s.
SETTINGS = Rules(modes=MODES, max_batches=(1,), max_waits_ms=(0.0,), switch_cost_j=5.0)


def make_profile(modes: Sequence[str] = MODES, *, idle_w: float | None = 2.0) -> TunedProfile:
    points = tuple(
        OperatingPoint(
            power_mode=mode,
            precision="fp16",
            max_batch=1,
            max_wait_ms=0.0,
            lanes=1,
            device="gpu",
            images_per_s=1e3 / BATCH_1_MS[mode],
            power_w=BUSY_W[mode],
            idle_w=idle_w,
        )
        for mode in modes
    )
    return TunedProfile(machine=Machine(board="b", l4t=None, engine="e"), engine_label="e", made_at="", points=points)


@dataclass
class Board:
    """Answers with what the forecast says, so that the governor knows it well, or by a slower truth."""

    governor: Governor
    mode: str = "HIGH"
    time_s: float = 0.0
    slower: float = 1.0  # × the profile's engine time
    can_set: bool = True

    def run(self, rate: float, seconds: float, **seen: object) -> list[Decision]:
        """Ask `rate` images/s for a while; return the decisions."""
        return [self.step(rate, **seen) for _ in range(round(seconds / PERIOD_S))]

    def step(self, rate: float, **seen: object) -> Decision:
        self.time_s += PERIOD_S
        snapshot = GovernorInput(self.time_s, self.mode, (self.stream(rate),), **seen)  # type: ignore[arg-type]
        decision = self.governor.decide(snapshot)
        if decision.mode is not None and self.can_set:
            self.mode = decision.mode
        return decision

    def stream(self, rate: float) -> StreamLoad:
        engine = by_mode(make_profile())[self.mode]
        slowed = replace(engine, engine_ms=tuple(each * self.slower for each in engine.engine_ms))
        p99_ms = Forecast(slowed, 1, 0.0).p99_ms(rate)
        if p99_ms <= TARGET_MS:
            return StreamLoad("door", TARGET_MS, p99_ms, rate, rate, late=0.0)
        return StreamLoad("door", TARGET_MS, min(p99_ms, 100.0), rate, 0.9 * rate, late=0.1)


def switches(decisions: Sequence[Decision]) -> list[Decision]:
    return [each for each in decisions if each.is_switch]


def test_a_quiet_board_goes_to_the_mode_of_least_power() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    (switch,) = switches(board.run(5.0, 600))
    assert board.mode == "LOW"
    assert not switch.is_urgent
    assert "HIGH → LOW" in switch.reason
    assert "W instead of" in switch.reason


def test_late_frames_raise_the_mode_at_once_to_the_cheapest_that_holds() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    first, second = board.run(40.0, 10)
    raised = first if first.is_switch else second
    assert raised.is_switch
    assert raised.is_urgent
    assert board.mode == "MID"
    board.run(120.0, 30)
    assert board.mode == "HIGH"


def test_the_target_is_held_over_a_day_of_changes() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    late = sum(
        board.stream(rate).late or 0.0
        for rate in [5.0, 30.0, 100.0, 50.0, 5.0, 140.0] * 4
        for _ in board.run(rate, 900)
    )
    assert late / (24 * 900 / PERIOD_S) < 0.01


def test_a_load_at_the_boundary_makes_no_flapping() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    held = Forecast(by_mode(make_profile())["MID"], 1, 0.0).sustained_rate(TARGET_MS)
    board.run(0.9 * held, 600)
    decisions = [board.step(held * (1.04 if step % 2 else 0.96)) for step in range(720)]
    assert len(switches(decisions)) <= SETTINGS.max_switches_per_h


def test_a_load_that_jumps_up_and_down_stays_within_the_hour_s_switches() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    decisions = [each for _ in range(30) for each in (*board.run(40.0, 30), *board.run(5.0, 90))]
    saving = [each for each in switches(decisions) if not each.is_urgent]
    assert len(switches(decisions)) <= SETTINGS.max_switches_per_h
    assert saving


def test_a_switch_that_costs_more_than_it_saves_does_not_come() -> None:
    dear = Board(Governor(replace(SETTINGS, switch_cost_j=1e6), make_profile()))
    assert not switches(dear.run(5.0, 3600))
    cheap = Board(Governor(SETTINGS, make_profile()))
    assert switches(cheap.run(5.0, 3600))


def test_a_switch_to_save_waits_for_the_dwell() -> None:
    board = Board(Governor(replace(SETTINGS, min_dwell_s=300.0), make_profile()))
    board.run(5.0, 1200)
    board.run(40.0, 10)
    raised_s = board.time_s
    while board.mode != "LOW" and board.time_s < 7200:
        board.step(5.0)
    assert 300.0 - 2 * PERIOD_S <= board.time_s - raised_s < 900.0


def test_what_a_person_asks_for_wins_over_limits_and_dwell_and_ends_with_the_wish() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    decision = board.step(5.0, override="HIGH", battery=0.05)
    assert decision.mode == "HIGH"
    assert decision.is_switch
    assert "manually" in decision.reason
    assert not switches(board.run(5.0, 300, override="HIGH"))
    board.run(5.0, 300)
    assert board.mode == "LOW"


def test_a_mode_outside_the_list_may_be_asked_for_by_hand_and_is_left_after() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    governor = board.governor
    assert governor.decide(GovernorInput(5.0, "HIGH", (), override="MAXN")).mode == "MAXN"
    decision = governor.decide(GovernorInput(10.0, "MAXN", ()))
    assert decision.mode in MODES
    assert decision.is_urgent


def test_a_hot_board_goes_down_step_by_step_and_up_again_when_it_is_cool() -> None:
    governed = Governor(replace(SETTINGS, max_temperature_c=80.0), make_profile())
    board = Board(governed)
    board.run(120.0, 300, temperature_c=60.0)
    assert board.mode == "HIGH"
    decision = board.step(120.0, temperature_c=81.0)
    assert decision.is_urgent
    assert "81 °C" in decision.reason
    assert board.mode == "MID"
    board.run(120.0, 60, temperature_c=81.0)
    assert board.mode == "LOW"
    board.run(120.0, 600, temperature_c=78.0)
    assert board.mode == "LOW"
    board.run(120.0, 600, temperature_c=60.0)
    assert board.mode == "HIGH"


def test_a_temperature_that_is_lost_while_the_board_is_hot_does_not_cool_it() -> None:
    board = Board(Governor(replace(SETTINGS, max_temperature_c=80.0), make_profile()))
    board.run(120.0, 300, temperature_c=81.0)
    assert board.mode == "LOW"
    for lost in (None, math.nan):
        board.run(120.0, 600, temperature_c=lost)
        assert board.mode == "LOW"


def test_a_throttled_board_goes_down() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(120.0, 300)
    decision = board.step(120.0, is_throttled=True)
    assert board.mode == "MID"
    assert "throttling" in decision.reason


def test_a_low_battery_keeps_the_lowest_mode_until_it_has_charged_a_little() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(120.0, 300, battery=0.5)
    assert board.mode == "HIGH"
    assert "19%" in board.step(120.0, battery=0.19).reason
    assert board.mode == "LOW"
    board.run(120.0, 300, battery=0.22)
    assert board.mode == "LOW"
    board.run(120.0, 300, battery=0.3)
    assert board.mode == "HIGH"


def test_a_target_that_no_mode_holds_is_told_once_and_the_strongest_mode_serves() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    decisions = board.run(400.0, 3600)
    notices = [each.notice for each in decisions if each.notice is not None]
    assert board.mode == "HIGH"
    assert len(notices) == 1
    assert "400 images/s cannot be sustained" in notices[0]
    board.run(5.0, 3600)
    assert [each.notice for each in board.run(400.0, 600) if each.notice] != []


def test_a_mode_that_cannot_be_set_is_told_and_left_out_for_a_while() -> None:
    board = Board(Governor(SETTINGS, make_profile()), can_set=False)
    decisions = board.run(5.0, 600)
    notices = [each.notice for each in decisions if each.notice is not None]
    assert notices
    assert "LOW could not be set" in notices[0]
    assert len(switches(decisions)) <= 4
    assert board.mode == "HIGH"


def test_somebody_else_s_change_is_not_undone_within_the_dwell() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    board.mode = "HIGH"
    assert not switches(board.run(5.0, SETTINGS.min_dwell_s - PERIOD_S))
    board.run(5.0, 300)
    assert board.mode == "LOW"


def test_one_allowed_mode_is_never_left() -> None:
    board = Board(Governor(replace(SETTINGS, modes=("MID",)), make_profile(("MID",))), mode="MID")
    assert not switches([*board.run(5.0, 600), *board.run(400.0, 600)])
    assert board.mode == "MID"


def test_no_allowed_mode_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="wanted one or more"):
        Governor(replace(SETTINGS, modes=()))


def test_a_mode_that_cannot_be_read_is_left_alone() -> None:
    decision = Governor(SETTINGS, make_profile()).decide(GovernorInput(5.0, None, ()))
    assert decision.mode is None
    assert not decision.is_switch


def test_without_a_profile_it_steps_down_by_neighbours_and_comes_back() -> None:
    board = Board(Governor(SETTINGS))
    seen = [each.mode for each in board.run(5.0, 900)]
    assert board.mode == "LOW"
    assert [mode for mode, after in itertools.pairwise(seen) if mode != after] == ["HIGH", "MID"]
    board.run(120.0, 60)
    assert board.mode == "HIGH"


def test_without_a_profile_a_mode_that_failed_is_not_tried_again_at_that_rate() -> None:
    board = Board(Governor(SETTINGS))
    decisions = board.run(40.0, 3600)
    assert board.mode == "MID"
    assert len(switches(decisions)) <= 4


def test_without_idle_power_it_still_saves() -> None:
    board = Board(Governor(SETTINGS, make_profile(idle_w=None)))
    board.run(5.0, 600)
    assert board.mode == "LOW"


def test_it_learns_that_a_mode_holds_less_than_the_profile_says() -> None:
    board = Board(Governor(SETTINGS, make_profile()), slower=1.4)
    board.run(45.0, 7200)
    late = [board.stream(45.0).late for _ in board.run(45.0, 3600)]
    assert sum(1 for each in late if each) / len(late) < 0.05


@pytest.mark.parametrize("value", [None, math.nan, math.inf])
def test_what_was_not_measured_does_not_disturb(value: float | None) -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    stream = StreamLoad("door", TARGET_MS, value, value, value, late=value)
    for _ in range(10):
        board.time_s += PERIOD_S
        decision = board.governor.decide(
            GovernorInput(board.time_s, board.mode, (stream,), power_w=value, temperature_c=value, battery=value)
        )
        assert decision.mode in MODES
    assert math.isfinite(
        board.governor.decide(GovernorInput(board.time_s + 5, board.mode, (stream,))).max_wait_ms or 0.0
    )


def test_p99_above_the_target_is_enough_where_no_share_of_late_frames_is_told() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    for _ in range(6):
        board.time_s += PERIOD_S
        seen = StreamLoad("door", TARGET_MS, 80.0, 100.0, 100.0)
        board.mode = board.governor.decide(GovernorInput(board.time_s, board.mode, (seen,))).mode or board.mode
    assert board.mode == "HIGH"


def test_one_stream_that_is_late_counts_among_many_that_are_not() -> None:
    board = Board(Governor(SETTINGS, make_profile()))
    board.run(5.0, 600)
    for _ in range(8):
        board.time_s += PERIOD_S
        many = tuple(StreamLoad(f"{each}", TARGET_MS, 30.0, 1.0, 1.0, late=0.0) for each in range(5))
        late = StreamLoad("late", TARGET_MS, 200.0, 2.0, 1.0, late=0.5)
        board.mode = board.governor.decide(GovernorInput(board.time_s, board.mode, (*many, late))).mode or board.mode
    assert board.mode != "LOW"


def test_batches_wait_where_that_saves_and_the_target_leaves_room() -> None:
    batched = tuple(
        OperatingPoint(
            power_mode="LOW", precision="fp16", max_batch=batch, max_wait_ms=0.0, lanes=1, device="gpu",
            images_per_s=rate, power_w=5.0, idle_w=2.0,
        )
        for batch, rate in ((1, 100.0), (4, 250.0))
    )  # fmt: skip
    profile = make_profile().model_copy(update={"points": batched})
    settings_ = Rules(modes=("LOW",), max_batches=(1, 4), max_waits_ms=(0.0, 20.0))
    loose, tight = (
        Governor(settings_, profile).decide(
            GovernorInput(5.0, "LOW", (StreamLoad("door", target_ms, 10.0, 50.0, 50.0, late=0.0),))
        )
        for target_ms in (80.0, 30.0)
    )
    assert (loose.max_batch, loose.max_wait_ms) == (4, 20.0)
    assert tight.max_wait_ms == 0.0


MEASURED = st.one_of(st.none(), st.floats(0, 500), st.just(math.nan))
STREAMS = st.builds(
    StreamLoad, st.just("door"), st.sampled_from([None, 20.0, 50.0]), MEASURED, MEASURED, MEASURED, MEASURED
)
STEPS = st.lists(
    st.tuples(
        st.floats(0.1, 200),
        st.lists(STREAMS, max_size=2),
        MEASURED,
        st.one_of(st.none(), st.floats(0, 120)),
        st.one_of(st.none(), st.booleans()),
        st.one_of(st.none(), st.floats(0, 1)),
        st.one_of(st.none(), st.sampled_from(["OTHER", "LOW", "HIGH"])),  # set by somebody else
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans(), st.sampled_from([MODES, ("LOW",), ("LOW", "HIGH")]))
def test_whatever_it_sees(steps: list[tuple[object, ...]], has_profile: bool, modes: tuple[str, ...]) -> None:  # noqa: FBT001
    """Only allowed modes; within the dwell only urgent switches; equal histories give equal decisions."""
    settings_ = replace(SETTINGS, modes=modes, max_temperature_c=90.0)
    one, other = (Governor(settings_, make_profile() if has_profile else None) for _ in range(2))
    time_s, mode, switched_s = 0.0, "HIGH", -math.inf
    for step_s, streams, power_w, temperature_c, is_throttled, battery, foreign in steps:
        time_s += step_s  # type: ignore[operator]
        mode = str(foreign or mode)
        snapshot = GovernorInput(time_s, mode, tuple(streams), power_w, temperature_c, is_throttled, battery)  # type: ignore[arg-type]
        decision = one.decide(snapshot)
        assert decision == other.decide(snapshot) == one.decide(snapshot)
        assert decision.mode in (*modes, mode)
        if decision.is_switch:
            assert decision.mode in modes
            assert decision.is_urgent or time_s - switched_s >= settings_.min_dwell_s
            switched_s = time_s
        mode = decision.mode or mode


@settings(max_examples=40, deadline=None)
@given(st.floats(1, 300), st.floats(1, 300), st.sampled_from(MODES), st.sampled_from([1, 2]))
def test_a_forecast_grows_with_the_rate(one: float, other: float, mode: str, lanes: int) -> None:
    forecast = Forecast(replace(by_mode(make_profile())[mode], lanes=lanes), 1, 0.0)
    low, high = sorted((one, other))
    assert forecast.p99_ms(low) <= forecast.p99_ms(high) * (1 + 1e-6)
    assert forecast.power_w(low) <= forecast.power_w(high) + 1e-9
    assert (
        0
        <= forecast.sustained_rate(TARGET_MS)
        <= forecast.sustained_rate(2 * TARGET_MS)
        <= forecast.sustained_rate(None)
    )


def test_points_of_batches_that_were_not_measured_are_not_guessed_beyond_the_largest() -> None:
    board = Governor(replace(SETTINGS, max_batches=(1, 8), max_waits_ms=(0.0, 20.0)), make_profile())
    decision = board.decide(GovernorInput(5.0, "HIGH", (StreamLoad("door", TARGET_MS, 10.0, 5.0, 5.0),)))
    assert decision.max_batch == 1
