"""Table of metrics: one row per metric, with its figure in the telemetry message."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

Json = Mapping[str, Any]
Sample = tuple[tuple[str, ...], float | None]  # values of the labels, and the figure; None: not measured
Read = Callable[[Json], Iterator[Sample]]

QUANTILES = {"p50": "0.5", "p90": "0.9", "p99": "0.99", "max": "1.0"}  # as OpenMetrics writes them
# Base units of Prometheus, by the telemetry's own.
PER_MS, PER_MHZ = 1e-3, 1e6


@dataclass(frozen=True)
class Metric:
    """One metric: its name, help text, labels, and its figure in the message."""

    name: str
    help_text: str
    labels: tuple[str, ...]
    read: Read


def one(table: str, key: str, unit: float = 1.0) -> Read:
    """Read a figure of `board` or `outbox`."""

    def read(body: Json) -> Iterator[Sample]:
        yield (), _scaled(body[table].get(key), unit)

    return read


def each(table: str, key: str) -> Read:
    """Read a figure of every stream or model."""

    def read(body: Json) -> Iterator[Sample]:
        for name, figures in body[table].items():
            yield (name,), _scaled(figures[key])

    return read


def each_of_board(key: str) -> Read:
    """Read a figure of the board by rail, zone or unit."""

    def read(body: Json) -> Iterator[Sample]:
        for name, value in (body["board"].get(key) or {}).items():
            yield (name,), _scaled(value)

    return read


def quantiles(table: str, key: str) -> Read:
    """Read the quantiles of every stream's stages or every model's parts."""

    def read(body: Json) -> Iterator[Sample]:
        for name, figures in body[table].items():
            for part, percentiles in figures[key].items():
                for quantile, value_ms in (percentiles or {}).items():
                    yield (name, part, QUANTILES[quantile]), value_ms * PER_MS

    return read


def drops(body: Json) -> Iterator[Sample]:
    for name, figures in body["streams"].items():
        for cause, frames in figures["dropped"].items():
            yield (name, cause), frames


def throttle_causes(body: Json) -> Iterator[Sample]:
    for cause in body["board"]["throttled_by"] or ():
        yield (cause,), 1


def agreement(body: Json) -> Iterator[Sample]:
    for name, figures in body["models"].items():
        yield (name,), figures["shadow"]["agreement"]


def outbox_drops(body: Json) -> Iterator[Sample]:
    for cause, messages in body["outbox"]["dropped_by_cause"].items():
        yield (cause,), messages


def on_disk(key: str) -> Read:
    """Read a figure of the messages on disk."""

    def read(body: Json) -> Iterator[Sample]:
        yield (), body["outbox"]["on_disk"][key]

    return read


def commands(body: Json) -> Iterator[Sample]:
    for outcome, count in body.get("commands", {}).items():
        yield (outcome,), count


def ended_at(body: Json) -> Iterator[Sample]:
    moment = datetime.strptime(body["at"], "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    yield (), moment.timestamp()


def _scaled(value: float | None, unit: float = 1.0) -> float | None:
    return None if value is None else float(value) * unit


GAUGES = (
    Metric("edge_telemetry_timestamp_seconds", "Time of the telemetry shown here.", (), ended_at),
    Metric("edge_stream_in_flight_frames", "Captured frames that are neither a result nor a drop yet.", ("stream",),
        each("streams", "in_flight")),
    Metric("edge_model_busy_ratio", "Fraction of the lanes' time that the engine ran in the newest period.", ("model",),
        each("models", "busy")),
    Metric("edge_model_batch_images", "Mean number of images in a batch of the newest period.", ("model",),
        each("models", "batch_mean")),
    Metric("edge_model_image_energy_joules", "Energy of the board per image in the newest period, with idle power.",
        ("model",), each("models", "energy_j_per_image")),
    Metric("edge_model_image_energy_above_idle_joules", "Energy of the board per image above its idle power.",
        ("model",), each("models", "energy_j_per_image_above_idle")),
    Metric("edge_model_agreement_ratio", "Agreement of the serving engine with the model as exported.", ("model",),
        agreement),
    Metric("edge_board_power_watts", "Power of the board, mean of the newest period.", (), one("board", "power_w")),
    Metric("edge_board_alternative_power_watts", "Power of the board without a rail that may be part of another.", (),
        one("board", "power_w_alt")),
    Metric("edge_board_idle_power_watts", "Power in the last period without images, in this power mode.", (),
        one("board", "idle_w")),
    Metric("edge_board_gap_seconds", "Time of the newest period without a reading of the board's power.", (),
        one("board", "gap_s")),
    Metric("edge_board_images_per_joule", "Images per second and watt, that is per joule, in the newest period.", (),
        one("board", "images_per_s_per_w")),
    Metric("edge_rail_power_watts", "Power of a rail, mean of the newest period; rails may be parts of others.",
        ("rail",), each_of_board("rails_w")),
    Metric("edge_rail_unchanged_seconds", "Time that the reading of a rail has not changed, if 10 s or more.",
        ("rail",), each_of_board("rails_unchanged_s")),
    Metric("edge_temperature_celsius", "Temperature of a thermal zone.", ("zone",), each_of_board("temperature_c")),
    Metric("edge_throttled", "Whether the board was throttled in the newest period.", (),
        one("board", "throttled")),
    Metric("edge_throttled_by", "1 for each cause of throttling in the newest period.", ("cause",),
        throttle_causes),
    Metric("edge_gpu_load_ratio", "Load of the GPU.", (), one("board", "gpu_load")),
    Metric("edge_gpu_clock_hertz", "Clock of the GPU.", (), one("board", "gpu_mhz", PER_MHZ)),
    Metric("edge_emc_load_ratio", "Utilization of the memory bandwidth.", (), one("board", "emc_load")),
    Metric("edge_emc_clock_hertz", "Clock of the memory.", (), one("board", "emc_mhz", PER_MHZ)),
    Metric("edge_dla_active", "Whether a deep-learning accelerator is awake.", ("dla",), each_of_board("dla_active")),
    Metric("edge_fan_duty_ratio", "Pulse width of the fan.", (), one("board", "fan_duty")),
    Metric("edge_fan_rpm", "Speed of the fan in revolutions per minute.", (), one("board", "fan_rpm")),
    Metric("edge_cpu_load_ratio", "Load of the CPU, over all cores.", (), one("board", "cpu_load")),
    Metric("edge_outbox_messages", "Messages that are queued or not acknowledged yet.", (), one("outbox", "messages")),
    Metric("edge_outbox_bytes", "Bytes of the queued messages.", (), one("outbox", "bytes")),
    Metric("edge_outbox_disk_messages", "Queued messages on disk.", (), on_disk("messages")),
    Metric("edge_outbox_disk_bytes", "Bytes of the queued messages on disk.", (), on_disk("bytes")),
    Metric("edge_outbox_oldest_seconds", "Age of the oldest queued message.", (), one("outbox", "oldest_s")),
)  # fmt: skip

# Quantiles of the newest period, of durations that are counted and added up since the daemon started.
SUMMARIES = (
    Metric("edge_stream_stage_seconds", "Duration of each stage; quantiles of the newest period (1.0: the longest).",
        ("stream", "stage"), quantiles("streams", "latency_ms")),
    Metric("edge_model_part_seconds",
        "Duration of each part of a batch's inference; quantiles of the newest period (1.0: the longest).",
        ("model", "part"), quantiles("models", "engine_ms")),
)  # fmt: skip

# Counted since the stream started: a changed stream restarts at 0, and its total continues.
STREAM_COUNTERS = (
    Metric("edge_stream_frames_total", "Frames captured.", ("stream",), each("streams", "frames")),
    Metric("edge_stream_results_total", "Results published.", ("stream",), each("streams", "results")),
    Metric("edge_stream_dropped_frames_total", "Frames that gave no result, by cause.", ("stream", "cause"), drops),
)

# Counted since the daemon started.
COUNTERS = (
    Metric("edge_outbox_dropped_messages_total", "Dropped messages, by cause.", ("cause",), outbox_drops),
    Metric("edge_commands_total", "Commands by outcome, if any are allowed.", ("outcome",),
        commands),
    Metric("edge_over_current_events_total", "Trips of the over-current and under-voltage comparators.", (),
        one("board", "over_current_events")),
)  # fmt: skip

# Figures of one period, added up.
PERIODS = (
    Metric("edge_board_energy_joules_total", "Energy of the board, except in gaps of its readings.", (),
        one("board", "energy_j")),
    Metric("edge_rail_energy_joules_total", "Energy of a rail, except in gaps; rails may be parts of others.",
        ("rail",), each_of_board("rails_j")),
)  # fmt: skip
