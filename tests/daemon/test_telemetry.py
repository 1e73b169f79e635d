"""Telemetry message: as its schema says, and energy shared by the work done."""

from __future__ import annotations

import json

import jsonschema
import numpy as np
import pytest

from edge.core.records import Classes, EngineTimes, OutboxState, Result
from edge.daemon.telemetry import Telemetry, energy_of
from edge.host.sensors.energy import Energy
from edge.host.sensors.energy_ledger import EnergyPeriod
from edge.host.sensors.sensors import SensorReading, Sensors
from edge.mqtt import schemas
from edge.mqtt.encode import MessageHead
from edge.pipeline.meters import ModelMeter, ModelWork, StreamMeter

UNMEASURED = (
    "power_mode", "power_w", "power_rail", "energy_j", "idle_w", "images_per_s_per_w", "gpu_load", "gpu_mhz",
    "throttled", "over_current_events",
)  # fmt: skip
NOTHING_FOUND = Classes(np.empty(0, np.float32), np.empty(0, np.int64))


def result() -> Result:
    return Result("door", "m", "e", 0, 0, 0, 0, (1, 1), NOTHING_FOUND, (), 1.0, 2.0, 3.0, 4.0, 1)


def test_what_this_machine_cannot_measure_is_null() -> None:
    board = Sensors().read().to_json()
    for key in UNMEASURED:
        assert board[key] is None
    assert board["memory_mb"] > 1
    assert 0 <= board["cpu_load"] <= 1


def reading(joules: float, covered_s: float, idle_w: float | None = None) -> SensorReading:
    """Return a period of 10 s of which so much was measured."""
    total = Energy(joules, int(covered_s * 1e9), 10_000_000_000)
    return SensorReading(
        "Orin", 0.5, 100.0, period=EnergyPeriod(0, total.period_ns, {"VDD_IN": total}, total), idle_w=idle_w
    )


def test_energy_is_shared_by_the_time_that_engines_ran() -> None:
    assert energy_of(ModelWork(100, 3000.0), 4000.0, reading(80.0, 10.0, 5.0)) == {
        "energy_j_per_image": pytest.approx(80 * 0.75 / 100),
        "energy_j_per_image_above_idle": pytest.approx((80 - 50) * 0.75 / 100),
    }


def test_where_the_sensor_was_silent_neither_energy_nor_images_count() -> None:
    told = energy_of(ModelWork(100, 4000.0), 4000.0, reading(40.0, 5.0, 5.0))
    assert told["energy_j_per_image"] == pytest.approx(40 / 50)
    assert told["energy_j_per_image_above_idle"] == pytest.approx((40 - 25) / 50)


@pytest.mark.parametrize(
    ("work", "busy_ms", "board"),
    [
        (ModelWork(), 0.0, reading(80.0, 10.0)),
        (ModelWork(0, 5.0), 5.0, reading(80.0, 10.0)),
        (ModelWork(9, 5.0), 5.0, reading(0.0, 0.0)),
        (ModelWork(9, 0.0), 0.0, reading(80.0, 10.0)),
        (ModelWork(9, 5.0), 5.0, SensorReading("x86_64", 0.5, 100.0)),
    ],
)
def test_energy_that_was_not_measured_is_null(work: ModelWork, busy_ms: float, board: SensorReading) -> None:
    assert set(energy_of(work, busy_ms, board).values()) == {None}


def test_without_an_idle_power_nothing_is_told_above_it() -> None:
    assert energy_of(ModelWork(10, 5.0), 5.0, reading(80.0, 10.0))["energy_j_per_image_above_idle"] is None


@pytest.mark.parametrize("used", [False, True])
def test_the_message_is_as_its_schema_says(used: bool) -> None:  # noqa: FBT001 -- a column of the table
    stream, model = StreamMeter(), ModelMeter(lanes=1)
    if used:
        stream.captured()
        stream.resulted(result())
        stream.acknowledged(1.0, 2.0)
        model.inferred(1, EngineTimes(compute_ms=0.0))
    telemetry = Telemetry(MessageHead("bench-01", "0123456789"))
    outbox = OutboxState(3, 120, 0.5, 7)
    message = telemetry.report({"door": stream}, {"m": ("e", model)}, Sensors().read, outbox)
    jsonschema.validate(json.loads(json.dumps(message, allow_nan=False)), json.loads(schemas.read("telemetry")))
    told = {"messages": 3, "bytes": 120, "oldest_s": 0.5, "dropped": 7, "disk": "off", "journal": False}
    assert told.items() <= message["outbox"].items()
    assert message["period_s"] >= 0
