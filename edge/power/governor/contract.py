"""Rules, inputs and decisions of the governor."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """Limits of the governor; see `[governor]` in systemd/edge.toml.

    Batches, waiting times, dwell, switches per hour and headroom are those of the runs in benchmarks/governor.md.
    """

    modes: tuple[str, ...]  # allowed, the lowest budget first
    max_batches: tuple[int, ...] = (1, 2, 4, 8)
    max_waits_ms: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0)
    min_dwell_s: float = 60.0  # between switches; only urgent ones come earlier
    switch_cost_j: float = 5.0  # of one switch; chosen: between the 1 and 20 J of benchmarks/governor.md
    max_switches_per_h: int = 12  # never exceeded by a switch that only saves
    headroom: float = 0.0  # fraction beyond the demand that a mode must sustain to be switched to for saving
    max_temperature_c: float | None = None
    cool_by_c: float = 5.0  # below the limit, before a higher mode is allowed again; chosen: against flapping
    low_battery: float | None = 0.2  # fraction of the charge below which the lowest mode is kept; chosen: a reserve
    battery_margin: float = 0.05  # above that, before other modes are allowed again; chosen: against flapping


@dataclass(frozen=True)
class StreamLoad:
    """Load and latency of one stream in the last period; None for what was not measured."""

    name: str
    target_p99_ms: float | None  # None: no target
    p99_ms: float | None
    offered_per_s: float | None  # images
    results_per_s: float | None
    late: float | None = None  # fraction of frames over the target or dropped; None: derived from p99 and counts


@dataclass(frozen=True)
class GovernorInput:
    """State of board and streams at a decision; None for what was not measured."""

    time_s: float  # monotonic
    mode: str | None  # in force
    streams: tuple[StreamLoad, ...] = ()
    power_w: float | None = None
    temperature_c: float | None = None  # the hottest sensor
    is_throttled: bool | None = None
    battery: float | None = None  # fraction of the charge; None: no battery
    override: str | None = None  # the mode that a person requested


@dataclass(frozen=True)
class Decision:
    """The setting from now on; None leaves a value unchanged."""

    mode: str | None
    max_batch: int | None
    max_wait_ms: float | None
    reason: str  # one sentence
    is_switch: bool = False
    is_urgent: bool = False  # it did not wait for the dwell
    notice: str | None = None  # reason for an alarm, given once
