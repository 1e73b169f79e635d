"""Thermal zones and cooling devices: names, plausible temperatures, throttling."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.host.sensors.thermal import is_slowing, plausible_c, zone_name


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
def test_a_temperature_is_one_that_a_board_can_have(read_c: float) -> None:
    kept = plausible_c(read_c)
    assert kept is None or -100 < kept < 200


def test_a_switched_off_zone_is_no_temperature() -> None:
    assert plausible_c(-256.0) is None
