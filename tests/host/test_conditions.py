"""Board conditions: causes of throttling, means of a period, sensors that appear later."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.host.sensors.conditions import ConditionReader, Conditions, averaged, throttled_by
from tests.support.emulated_boards import boards


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
    averages = averaged(newest, readings)
    assert averages.gpu_load == pytest.approx(0.4)
    assert (averages.gpu_mhz, averages.temperature_c) == (None, {"gpu": 50.0})


def test_a_sensor_that_appears_later_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge.host.sensors.conditions.SEARCH_PERIOD_NS", 0)
    monkeypatch.setenv("EDGE_ROOT", str(tmp_path))
    reader = ConditionReader()
    assert reader.read().temperature_c == {}
    boards.build("xavier-nx", tmp_path)
    averages = reader.read()
    assert averages.temperature_c["gpu"] == 40.5
    assert averages.dla_active == {"dla0": True, "dla1": False}
    reader.close()
