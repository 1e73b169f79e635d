"""What the governor may do, what it is shown, and what it answers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rules:
    """What the governor may do."""

    modes: tuple[str, ...]  # allowed, the lowest budget first
    max_batches: tuple[int, ...] = (1, 2, 4, 8)
    max_waits_ms: tuple[float, ...] = (0.0, 5.0, 10.0, 20.0)
    min_dwell_s: float = 60.0  # between switches; only urgent ones come earlier
    switch_cost_j: float = 5.0  # what one switch takes
    max_switches_per_h: int = 12  # a switch that only saves never goes beyond it
    headroom: float = 0.0  # by which a mode must hold more than is asked, before it is switched to so as to save
    max_temperature_c: float | None = None
    cool_by_c: float = 5.0  # below the limit, before a higher mode is allowed again
    low_battery: float | None = 0.2  # share of the charge below which the lowest mode is kept
    battery_margin: float = 0.05  # above that, before the other modes are allowed again


@dataclass(frozen=True)
class StreamSeen:
    """One stream in the period that ends with the snapshot; None where it was not measured."""

    name: str
    target_p99_ms: float | None  # None: as it comes
    p99_ms: float | None
    asked_per_s: float | None  # images offered
    results_per_s: float | None
    late: float | None = None  # share of frames over the target or dropped; None: p99 and the counts tell


@dataclass(frozen=True)
class GovernorInput:
    """What is known when a decision is due; None where it was not measured."""

    time_s: float  # monotonic
    mode: str | None  # in force
    streams: tuple[StreamSeen, ...] = ()
    power_w: float | None = None
    temperature_c: float | None = None  # the hottest sensor
    is_throttled: bool | None = None
    battery: float | None = None  # share of the charge; None: no battery
    override: str | None = None  # the mode that a person asked for


@dataclass(frozen=True)
class Decision:
    """What is to be in force from now on; None leaves it as it is."""

    mode: str | None
    max_batch: int | None
    max_wait_ms: float | None
    reason: str  # one sentence
    is_switch: bool = False
    is_urgent: bool = False  # it came without waiting for the dwell
    notice: str | None = None  # a sentence for an alarm, told once
