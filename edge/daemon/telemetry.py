"""Telemetry message of one device, once a period."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge.core.clock import now_ns
from edge.core.records import OutboxState
from edge.host.sensors.sensors import SensorReading
from edge.mqtt.encode import MessageHead
from edge.pipeline.meters import ModelMeter, ModelWork, StreamMeter


class Telemetry:
    """Compiles the telemetry messages of one device; the first period begins with it."""

    def __init__(self, head: MessageHead) -> None:
        self._head = head
        self._period_start_ns = now_ns()

    def report(
        self,
        streams: Mapping[str, StreamMeter],
        models: Mapping[str, tuple[str, ModelMeter]],
        read_board: Callable[[int], SensorReading],
        outbox: OutboxState,
    ) -> dict[str, Any]:
        """Return the message of the period that ends now.

        `models` holds each model's engine label and meter; `read_board` reads the board's period with so many images.
        """
        end_ns = now_ns()
        period_s = max((end_ns - self._period_start_ns) / 1e9, 1e-3)
        self._period_start_ns = end_ns
        reports = {name: meter.report(period_s, engine) for name, (engine, meter) in models.items()}
        works = {name: meter.work for name, (_, meter) in models.items()}
        board = read_board(sum(work.images for work in works.values()))
        busy_ms = sum(work.busy_ms for work in works.values())
        return {
            **self._head.stamped(),
            "period_s": round(period_s, 3),
            "streams": {name: meter.report(period_s) for name, meter in streams.items()},
            "models": {name: each | energy_of(works[name], busy_ms, board) for name, each in reports.items()},
            "board": board.to_json(),
            "outbox": outbox.to_json(),
        }


def energy_of(work: ModelWork, busy_ms: float, board: SensorReading) -> dict[str, float | None]:
    """Return a model's energy per image, in joules, total and above the board's idle power; None if not measured.

    The board's energy is divided by how long each engine ran, `busy_ms` in total. Images from a time without sensor
    readings are left out, as is its energy.
    """
    total = board.period.total
    whole = above_idle = None
    if total is not None and total.energy_j is not None and work.images and work.busy_ms:
        period_s = board.period.seconds
        measured_s = period_s - total.gap_s
        images = work.images * measured_s / period_s / (work.busy_ms / busy_ms)
        if images > 0:
            whole = round(total.energy_j / images, 6)
            if board.idle_w is not None:
                above_idle = round((total.energy_j - board.idle_w * measured_s) / images, 6)
    return {"energy_j_per_image": whole, "energy_j_per_image_above_idle": above_idle}
