"""What counts as throttling, as a temperature, and as an event."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.sensors.conditions import ConditionReader, Conditions, averaged, throttled_by
from edge.host.sensors.over_current import OverCurrent
from edge.host.sensors.thermal import is_slowing, plausible_c, zone_name
from tests.support.emulated_boards import boards, tree


@pytest.mark.parametrize(
    ("kind", "slows"),
    [
        ("gpu-throttle-alert", True),
        ("soc012-throttle-alert", True),
        ("cpufreq-cpu0", True),
        ("thermal-cpufreq-0", True),
        ("devfreq-gpu-gpc-0", True),
        ("pwm-fan", False),
        ("hot-surface-alert", False),
        ("Processor", False),
        ("", False),
    ],
)
def test_only_what_takes_speed_away_is_throttling(kind: str, slows: bool) -> None:  # noqa: FBT001 -- a column
    assert is_slowing(kind) is slows


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("GPU-therm", "gpu"),
        ("gpu-thermal", "gpu"),
        ("soc012-thermal", "soc012"),
        ("thermal-fan-est", "thermal-fan-est"),
    ],
)
def test_a_zone_has_one_name_in_all_releases(kind: str, name: str) -> None:
    assert zone_name(kind) == name


@given(st.floats(allow_nan=True))
def test_a_temperature_is_one_that_a_board_can_have(told_c: float) -> None:
    kept = plausible_c(told_c)
    assert kept is None or -100 < kept < 200


def test_a_switched_off_zone_is_no_temperature() -> None:
    assert plausible_c(-256.0) is None


def test_where_nothing_tells_throttling_is_unknown() -> None:
    assert throttled_by(Conditions(), [Conditions(at_ns=1), Conditions(at_ns=2)]) is None
    assert throttled_by(Conditions(), []) is None
    assert throttled_by(Conditions(), [Conditions(slowed_by=())]) == ()


def test_an_event_between_two_readings_is_throttling_of_the_period_it_fell_in() -> None:
    first, second = Conditions(over_current={"oc1": 1}), Conditions(over_current={"oc1": 2})
    assert throttled_by(first, [first, second, second]) == ("under-voltage",)
    assert throttled_by(second, [second]) == ()


def test_loads_are_means_of_the_period_and_temperatures_the_newest() -> None:
    readings = [Conditions(gpu_load=0.2, temperature_c={"gpu": 40.0}), Conditions(), Conditions(gpu_load=0.6)]
    newest = Conditions(gpu_load=0.6, temperature_c={"gpu": 50.0})
    told = averaged(newest, readings)
    assert told.gpu_load == pytest.approx(0.4)
    assert (told.gpu_mhz, told.temperature_c) == (None, {"gpu": 50.0})


def test_events_are_counted_from_the_start_also_where_a_counter_is_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_ROOT", str(boards.build("thor", tmp_path)))
    path = tmp_path / "sys/devices/platform/soctherm-oc-event/hwmon/hwmon9/oc3_event_cnt"
    counters = OverCurrent()
    assert counters.read() == {"oc1": 0, "oc2": 0, "oc3": 0}
    for count, events in ((4, 2), (4, 2), (1, 3), ("?", 3), (2, 4)):
        tree.write(path, count)
        assert (counters.read() or {})["oc3"] == events
    counters.close()


def test_a_sensor_that_appears_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.host.sensors.conditions.SEARCH_PERIOD_NS", 0)
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    reader = ConditionReader()
    assert reader.read().temperature_c == {}
    boards.build("xavier-nx", tmp_path)
    told = reader.read()
    assert told.temperature_c["gpu"] == 40.5
    assert told.dla_active == {"dla0": True, "dla1": False}
    reader.close()
