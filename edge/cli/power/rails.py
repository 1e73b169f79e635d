"""Live power of the board's rails, as a table or as JSON lines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from edge.core.clock import now_ns
from edge.core.console import light_table, output_console
from edge.core.errors import EdgeError
from edge.host.board import board_name
from edge.host.sensors.energy import Energy
from edge.host.sensors.rail_table import Rail
from edge.host.sensors.sensors import SensorReading, Sensors
from edge.power.modes import read_modes


def watch(interval_s: float, seconds: float, *, as_json: bool) -> None:
    """Print the mean power of each interval until `seconds` are over (0: until Ctrl-C).

    Raises EdgeError where no sensor is found.
    """
    sensors = Sensors()
    try:
        sensors.start()
        if not sensors.rails:
            raise EdgeError(
                f"no power sensor was found on {board_name()}; wanted an INA3221, INA238, NVML or RAPL that this user "
                "can read: check the permissions below /sys"
            )
        readings = _readings(sensors, interval_s, seconds)
        if as_json:
            _print_lines(readings)
        else:
            _draw(readings, sensors.rails)
    finally:
        sensors.stop()


def _readings(sensors: Sensors, interval_s: float, seconds: float) -> Iterator[tuple[float, SensorReading]]:
    """Yield the seconds since the start, and the measurement since the previous reading."""
    modes = read_modes()
    never = threading.Event()
    start_ns, number = now_ns(), 0
    last = max(1, round(seconds / interval_s)) if seconds else None
    while number != last:
        number += 1
        never.wait(max(0.0, start_ns / 1e9 + number * interval_s - now_ns() / 1e9))
        stored = modes.stored() if modes else None
        yield (now_ns() - start_ns) / 1e9, sensors.read(power_mode=stored.name if stored else None)


def _print_lines(readings: Iterator[tuple[float, SensorReading]]) -> None:
    for t_s, reading in readings:
        measured = reading.to_json()
        keys = ("rails_w", "power_w", "power_w_alt", "power_rail", "power_mode", "gap_s", "throttled")
        line: dict[str, Any] = {"t_s": round(t_s, 3)} | {key: measured[key] for key in keys}
        print(json.dumps(line, allow_nan=False), flush=True)


def _draw(readings: Iterator[tuple[float, SensorReading]], rails: tuple[Rail, ...]) -> None:
    sums = {rail.name: Energy() for rail in rails}
    console = output_console()
    with Live(console=console, auto_refresh=False) as live:
        for t_s, reading in readings:
            for name, energy in reading.period.rails.items():
                sums[name] += energy
            live.update(_table(console, t_s, reading, rails, sums), refresh=True)


def _table(
    console: Console, t_s: float, reading: SensorReading, rails: tuple[Rail, ...], sums: Mapping[str, Energy]
) -> Group:
    mode = f", {reading.power_mode}" if reading.power_mode else ""
    total = reading.total.name if reading.total else "none"
    measured = reading.to_json()
    rows = []
    for rail in rails:
        energy = sums[rail.name]
        watts = measured["rails_w"].get(rail.name)
        numbers = (_number(watts, 2), _number(energy.energy_j, 1), f"{energy.gap_s:.1f}")
        rows.append((rail.name, *numbers, rail.description))
    caption = f"total: {total}, {_number(measured['power_w'], 2)} W"
    title = f"{reading.name}{mode}, {t_s:.0f} s"
    return light_table(console, ("rail", "W", "J", "gap s", "description"), rows, title=title, caption=caption)


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
