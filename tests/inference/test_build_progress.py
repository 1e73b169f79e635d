"""Progress of a build."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.inference.backends.tensorrt.build_progress import BUILT, READ, Phases, Reporter

NAMES = st.sampled_from(["a", "b", "c"])
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("start"), NAMES, st.none() | NAMES, st.integers(0, 5)),
        st.tuples(st.just("step"), NAMES, st.integers(0, 6)),
        st.tuples(st.just("finish"), NAMES),
    )
)


def steps(reporter: Reporter, numbers: Iterable[int]) -> None:
    for number in numbers:
        reporter.update(partial(Phases.step, name="building", step=number), "building")


def test_a_phase_within_a_phase_fills_its_step() -> None:
    phases = Phases()
    phases.start("outer", None, 4)
    phases.step("outer", 0)
    phases.start("inner", "outer", 2)
    phases.step("inner", 0)
    assert phases.fraction == pytest.approx((1 + 1 / 2) / 4)
    phases.finish("inner")
    phases.step("outer", 1)
    assert phases.fraction == pytest.approx(2 / 4)
    phases.finish("outer")
    assert phases.fraction == 1


@given(EVENTS)
def test_whatever_is_told_the_fraction_stays_within_bounds_and_never_goes_back(events: list[tuple[Any, ...]]) -> None:
    phases = Phases()
    before = 0.0
    for what, *arguments in events:
        getattr(phases, what)(*arguments)
        assert before <= phases.fraction <= 1
        before = phases.fraction


def test_a_second_try_goes_on_from_where_the_first_had_come() -> None:
    lines: list[Mapping[str, Any]] = []
    reporter = Reporter(lines.append)
    for done in (3, 10):
        reporter.report("reading", READ / 2)
        reporter.update(lambda phases: phases.start("building", None, 10), "building")
        steps(reporter, range(done))
    fractions = [line["fraction"] for line in lines]
    assert fractions == sorted(fractions)
    assert fractions[-1] == pytest.approx(BUILT)


def test_thousands_of_steps_become_few_lines() -> None:
    lines: list[Mapping[str, Any]] = []
    reporter = Reporter(lines.append)
    reporter.update(lambda phases: phases.start("building", None, 100_000), "building")
    steps(reporter, range(0, 100_000, 10))
    assert 50 < len(lines) < 1000


def test_a_build_that_nobody_waits_for_any_more_is_cancelled() -> None:
    def write(line: Mapping[str, Any]) -> None:
        raise BrokenPipeError

    reporter = Reporter(write)
    reporter.report("reading", 0.0)
    assert reporter.cancelled


def test_what_tensorrt_tells_after_a_cancel_is_not_progress() -> None:
    lines: list[Mapping[str, Any]] = []
    reporter = Reporter(lines.append)
    reporter.update(lambda phases: phases.start("building", None, 2), "building")
    reporter.cancelled = True
    reporter.update(lambda phases: phases.finish("building"), "building")
    assert [line["fraction"] for line in lines] == [READ]
