"""Live power of the board's rails, as a table or as JSON lines."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edge.core.clock import now_ns
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
    with Live(console=Console(), auto_refresh=False) as live:
        for t_s, reading in readings:
            for name, energy in reading.period.rails.items():
                sums[name] += energy
            live.update(_table(t_s, reading, rails, sums), refresh=True)


def _table(t_s: float, reading: SensorReading, rails: tuple[Rail, ...], sums: Mapping[str, Energy]) -> Table:
    mode = f", {reading.power_mode}" if reading.power_mode else ""
    total = reading.total.name if reading.total else "none"
    measured = reading.to_json()
    table = Table(
        title=f"{reading.name}{mode}, {t_s:.0f} s", caption=f"total: {total}, {_number(measured['power_w'], 2)} W"
    )
    for column in ("rail", "W", "J", "gap s", "description"):
        table.add_column(column, justify="left" if column in ("rail", "description") else "right")
    for rail in rails:
        energy = sums[rail.name]
        watts = measured["rails_w"].get(rail.name)
        table.add_row(
            rail.name, _number(watts, 2), _number(energy.energy_j, 1), f"{energy.gap_s:.1f}", Text(rail.description)
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
