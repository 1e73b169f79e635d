"""`edge power watch`: the board's rails, live, as a table or as JSON lines."""

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
from edge.core.errors import ConfigError, EdgeError
from edge.host.board import board_name
from edge.host.sensors.energy import Energy
from edge.host.sensors.rail_table import Rail
from edge.host.sensors.sensors import SensorReading, Sensors
from edge.power.modes import read_modes

_SHORTEST_S, _LONGEST_S = 0.1, 3600.0


def run(*, interval_s: float, seconds: float, as_json: bool) -> int:
    """Show each interval's mean power until `seconds` are over (0: until Ctrl-C); raise EdgeError without a sensor."""
    if not _SHORTEST_S <= interval_s <= _LONGEST_S:
        raise ConfigError(f"--interval: found {interval_s:g}, wanted {_SHORTEST_S:g} to {_LONGEST_S:g} seconds")
    if seconds < 0:
        raise ConfigError(f"--seconds: found {seconds:g}, wanted 0 (until Ctrl-C) or more")
    sensors = Sensors()
    try:
        sensors.start()
        if not sensors.rails:
            raise EdgeError(
                f"no power sensor was found on {board_name()}; wanted INA3221, INA238, NVML or RAPL that "
                "this user can read: see its permissions below /sys"
            )
        readings = _readings(sensors, interval_s, seconds)
        (_print if as_json else _show)(readings, sensors.rails)
    except KeyboardInterrupt:
        pass
    finally:
        sensors.stop()
    return 0


def _readings(sensors: Sensors, interval_s: float, seconds: float) -> Iterator[tuple[float, SensorReading]]:
    """Yield the seconds since the start, and what was measured since the reading before."""
    modes = read_modes()
    never = threading.Event()
    start_ns, number = now_ns(), 0
    last = max(1, round(seconds / interval_s)) if seconds else None
    while number != last:
        number += 1
        never.wait(max(0.0, start_ns / 1e9 + number * interval_s - now_ns() / 1e9))
        stored = modes.stored() if modes else None
        yield (now_ns() - start_ns) / 1e9, sensors.read(power_mode=stored.name if stored else None)


def _print(readings: Iterator[tuple[float, SensorReading]], _rails: tuple[Rail, ...]) -> None:
    for t_s, reading in readings:
        told = reading.to_json()
        keys = ("rails_w", "power_w", "power_w_alt", "power_rail", "power_mode", "gap_s", "throttled")
        line: dict[str, Any] = {"t_s": round(t_s, 3)} | {key: told[key] for key in keys}
        print(json.dumps(line, allow_nan=False), flush=True)  # noqa: T201 -- the command's output


def _show(readings: Iterator[tuple[float, SensorReading]], rails: tuple[Rail, ...]) -> None:
    sums = {rail.name: Energy() for rail in rails}
    with Live(console=Console(), auto_refresh=False) as live:
        for t_s, reading in readings:
            for name, energy in reading.period.rails.items():
                sums[name] += energy
            live.update(_table(t_s, reading, rails, sums), refresh=True)


def _table(t_s: float, reading: SensorReading, rails: tuple[Rail, ...], sums: Mapping[str, Energy]) -> Table:
    mode = f", {reading.power_mode}" if reading.power_mode else ""
    total = reading.total.name if reading.total else "none"
    told = reading.to_json()
    table = Table(
        title=f"{reading.name}{mode}, {t_s:.0f} s", caption=f"total: {total}, {_number(told['power_w'], 2)} W"
    )
    for column in ("rail", "W", "J", "gap s", "what it is"):
        table.add_column(column, justify="left" if column in ("rail", "what it is") else "right")
    for rail in rails:
        energy = sums[rail.name]
        watts = told["rails_w"].get(rail.name)
        table.add_row(
            rail.name, _number(watts, 2), _number(energy.energy_j, 1), f"{energy.gap_s:.1f}", Text(rail.description)
        )
    return table


def _number(value: float | None, digits: int) -> str:
    return "" if value is None else f"{value:.{digits}f}"
