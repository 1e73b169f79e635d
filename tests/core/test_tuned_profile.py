"""What was measured is kept whole, counts only where it was measured, and marks its best points."""

from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.errors import EdgeError
from edge.core.tuned_profile import (
    Machine,
    OperatingPoint,
    TunedProfile,
    max_p,
    max_q,
    measured_modes,
    pareto_front,
    profile_path,
    read_profile,
    write_profile,
)

HERE = Machine(board="NVIDIA Jetson TX2", l4t="32.7.6", engine="3f9c")


def point(mode: str | None = "MAXQ", **figures: float | bool | None) -> OperatingPoint:
    fixed = {"power_mode": mode, "precision": "fp16", "max_batch": 1, "max_wait_ms": 0.0, "lanes": 2, "device": "gpu"}
    return OperatingPoint.model_validate(fixed | figures)


SLOW = point("MAXQ", images_per_s=141.0, latency_p99_ms=7.1, power_w=5.7, energy_j_per_image=0.040)
FAST = point("MAXP_CORE_ARM", images_per_s=179.0, latency_p99_ms=5.6, power_w=8.2, energy_j_per_image=0.046)
BOTH = (SLOW, FAST)


def profile(machine: Machine = HERE) -> TunedProfile:
    marked = {"max_q": max_q(BOTH, 50.0), "max_p": max_p(BOTH, 50.0)}
    made = {"made_at": "2026-11-21T06:20:01Z", "engine_label": "trt/fp16/3f9c"}
    return TunedProfile(machine=machine, target_p99_ms=50.0, points=BOTH, **made, **marked)  # type: ignore[arg-type]


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    path = write_profile(profile(), tmp_path, "detector")
    assert path == tmp_path / "profiles" / "detector.json"
    assert read_profile(tmp_path, "detector", HERE).profile == profile()
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_profile_that_is_not_there_is_told_with_what_makes_one(tmp_path: Path) -> None:
    found = read_profile(tmp_path, "detector", HERE)
    assert found.profile is None
    assert "edge tune" in str(found.reason)


BROKEN = ("", "{", "[]", '{"v": 2}', '{"v": 1, "points": "many"}', "\x00" * 50, '{"v": 1, "points": [{"lanes": NaN}]}')


@pytest.mark.parametrize("text", BROKEN)
def test_a_broken_file_counts_as_none(tmp_path: Path, text: str) -> None:
    path = profile_path(tmp_path, "detector")
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    found = read_profile(tmp_path, "detector", HERE)
    assert found.profile is None
    assert str(path) in str(found.reason)
    assert "\n" not in str(found.reason)


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (Machine(board="NVIDIA Jetson AGX Orin", l4t="32.7.6", engine="3f9c"), "AGX Orin"),
        (Machine(board="NVIDIA Jetson TX2", l4t="32.6.1", engine="3f9c"), "32.6.1"),
        (Machine(board="NVIDIA Jetson TX2", l4t="32.7.6", engine="aaaa"), "aaaa"),
    ],
)
def test_a_profile_of_another_machine_or_engine_counts_as_none(tmp_path: Path, other: Machine, told: str) -> None:
    write_profile(profile(other), tmp_path, "detector")
    found = read_profile(tmp_path, "detector", HERE)
    assert found.profile is None
    assert told in str(found.reason)


def test_a_newer_file_with_more_keys_is_read(tmp_path: Path) -> None:
    path = write_profile(profile(), tmp_path, "detector")
    document = json.loads(path.read_text(encoding="utf-8")) | {"added": 1}
    path.write_text(json.dumps(document), encoding="utf-8")
    assert read_profile(tmp_path, "detector", HERE).profile == profile()


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "profiles").write_text("a file where the folder should be", encoding="utf-8")
    with pytest.raises(EdgeError, match="cannot be written"):
        write_profile(profile(), tmp_path, "detector")


def test_a_name_cannot_leave_the_folder(tmp_path: Path) -> None:
    for name in ("../../etc/passwd", "/etc/passwd", "..", "a/b"):
        assert profile_path(tmp_path, name).parent == tmp_path / "profiles"


def test_max_q_and_max_p_stand_for_the_modes_of_the_marked_points() -> None:
    assert measured_modes(profile()) == {"max-q": "MAXQ", "max-p": "MAXP_CORE_ARM"}
    assert measured_modes(None) == {}
    assert measured_modes(TunedProfile(machine=HERE, engine_label="", made_at="", max_q=point(None))) == {}


def test_a_point_beyond_the_target_or_throttled_is_not_marked() -> None:
    late = SLOW.model_copy(update={"latency_p99_ms": 60.0})
    throttled = FAST.model_copy(update={"is_throttled": True})
    assert max_q((late, FAST), 50.0) == FAST
    assert max_p((SLOW, throttled), 50.0) == SLOW
    assert max_q((late, throttled), 50.0) is None
    assert max_q((late, FAST), None) == late


def test_an_unmeasured_point_is_never_the_best() -> None:
    unknown = point("MAXN")
    assert max_q((unknown, SLOW), None) == SLOW
    assert max_p((unknown, SLOW), None) == SLOW
    assert max_q((unknown,), None) is None
    assert max_p((unknown, SLOW), 50.0) == SLOW


def test_the_front_leaves_out_what_another_point_beats() -> None:
    beaten = point("MAXN", images_per_s=170.0, latency_p99_ms=6.0, power_w=9.0, energy_j_per_image=0.053)
    assert pareto_front((*BOTH, beaten)) == BOTH


FIGURES = st.one_of(st.none(), st.sampled_from([1.0, 2.0, 3.0]))
POINTS = st.lists(
    st.builds(
        lambda rate, p99, power, energy, throttled: point(
            images_per_s=rate, latency_p99_ms=p99, power_w=power, energy_j_per_image=energy, is_throttled=throttled
        ),
        FIGURES, FIGURES, FIGURES, FIGURES, st.sampled_from([None, False, True]),
    ),
    max_size=8,
)  # fmt: skip


@given(POINTS)
def test_the_front_is_never_empty_where_a_point_was_steady_and_holds_max_p(points: list[OperatingPoint]) -> None:
    steady = [each for each in points if not each.is_throttled]
    kept = pareto_front(points)
    assert bool(kept) == bool(steady)
    best = max_p(points, None)
    assert best is None or any(each.images_per_s == best.images_per_s for each in kept)


@given(POINTS)
def test_a_profile_survives_the_file(points: list[OperatingPoint]) -> None:
    made = TunedProfile(machine=HERE, engine_label="x", made_at="y", points=tuple(points))
    assert TunedProfile.model_validate_json(made.model_dump_json()) == made
