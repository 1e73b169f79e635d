"""Telemetry message of one device, once a period."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edge.core.clock import now_ns, utc_text, wall_ns
from edge.core.records import OutboxState
from edge.host.sensors.sensors import SensorReading
from edge.pipeline.meters import ModelMeter, ModelWork, StreamMeter


class Telemetry:
    """Makes the telemetry message of one device."""

    def __init__(self, device: str, boot: str) -> None:
        self._head = {"v": 1, "device": device, "boot": boot}
        self._period_start_ns = now_ns()

    def take(
        self,
        streams: Mapping[str, StreamMeter],
        models: Mapping[str, tuple[str, ModelMeter]],
        read_board: Callable[[int], SensorReading],
        outbox: OutboxState,
    ) -> dict[str, Any]:
        """Return the message of the period that ends now.

        `models` holds each model's engine label and meter; `read_board` gives the board's period with so many images.
        """
        end_ns = now_ns()
        period_s = max((end_ns - self._period_start_ns) / 1e9, 1e-3)
        self._period_start_ns = end_ns
        told = {name: meter.report(period_s, engine) for name, (engine, meter) in models.items()}
        works = {name: meter.work for name, (_, meter) in models.items()}
        board = read_board(sum(work.images for work in works.values()))
        busy_ms = sum(work.busy_ms for work in works.values())
        return {
            **self._head,
            "at": utc_text(wall_ns()),
            "period_s": round(period_s, 3),
            "streams": {name: meter.report(period_s) for name, meter in streams.items()},
            "models": {name: each | energy_of(works[name], busy_ms, board) for name, each in told.items()},
            "board": board.to_json(),
            "outbox": outbox.to_json(),
        }


def energy_of(work: ModelWork, busy_ms: float, board: SensorReading) -> dict[str, float | None]:
    """Return a model's energy an image, in joules, whole and above the board's idle power; None where not measured.

    What the board took is shared by how long the engines ran, `busy_ms` all together. Images of a time in which the
    sensor was silent are left out, as its energy is.
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
