"""Row of a benchmark report: throughput, latency, power and the raw samples of one setting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

# A percentile of fewer samples is an accident.
LEAST_SAMPLES = 100
_DIGITS = 6  # significant digits of a figure


@dataclass(frozen=True, slots=True)
class Block:
    """Part of the measured time; the blocks of a stretch follow one another without a gap."""

    latency_ms: tuple[float, ...]  # one per query, in the order of completion
    images: NonNegativeInt
    seconds: NonNegativeFloat

    def to_json(self) -> dict[str, Any]:
        return {"latency_ms": list(self.latency_ms), "images": self.images, "seconds": self.seconds}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Block:
        return cls(tuple(found["latency_ms"]), int(found["images"]), float(found["seconds"]))


@dataclass(frozen=True, slots=True)
class BenchRow:
    """Figures of one measured setting; None for what was not or cannot be measured."""

    device: str
    power_mode: str | None
    precision: str
    network: str
    batch: int
    images_per_s: float | None
    power_w: float | None  # mean over the rails that make up the total
    images_per_s_per_w: float | None
    gpu_power_w: float | None  # of the rail that feeds only the GPU
    gpu_images_per_s_per_w: float | None
    latency_ms: float | None  # median
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    latency_max_ms: float | None
    energy_j_per_image: float | None
    scenario: str
    lanes: int
    spread: float | None  # standard deviation of the blocks ÷ their mean
    valid: bool
    why: str | None  # the reason that it is not valid
    rails_w: Mapping[str, float | None]
    cpu_load: float | None  # 0…1 of all cores
    gpu_load: float | None  # 0…1
    memory_mb: float | None  # resident memory of this process, 10⁶ bytes
    temperature_start_c: float | None  # of the hottest sensor
    temperature_end_c: float | None
    throttled: bool | None
    samples: tuple[Block, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"rails_w": dict(self.rails_w), "samples": [each.to_json() for each in self.samples]}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> BenchRow:
        """Return the row that `to_json` gave; unknown keys are ignored."""
        known = {field.name: found[field.name] for field in fields(cls)}
        return cls(**known | {"samples": tuple(map(Block.from_json, known["samples"]))})


@dataclass(frozen=True, slots=True)
class Speed:
    """Summary of a run's samples; None for figures that need more samples."""

    images: int
    seconds: float
    images_per_s: float | None
    latency_ms: float | None
    latency_p90_ms: float | None
    latency_p99_ms: float | None
    latency_max_ms: float | None


def speed_of(blocks: Sequence[Block]) -> Speed:
    """Summarise the samples of a run."""
    latencies_ms = [each for block in blocks for each in block.latency_ms]
    images, seconds = sum(block.images for block in blocks), sum(block.seconds for block in blocks)
    return Speed(
        images=images,
        seconds=seconds,
        images_per_s=significant(images / seconds) if seconds else None,
        latency_ms=significant(float(np.median(latencies_ms))) if latencies_ms else None,
        latency_p90_ms=percentile(latencies_ms, 90),
        latency_p99_ms=percentile(latencies_ms, 99),
        latency_max_ms=max(latencies_ms, default=None),
    )


def percentile(samples: Sequence[float], percent: float) -> float | None:
    """Return a percentile; None for fewer than LEAST_SAMPLES."""
    if len(samples) < LEAST_SAMPLES:
        return None
    return significant(float(np.percentile(samples, percent)))


def significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def ratio(value: float | None, to: float | None) -> float | None:
    """Return a quotient; None if an operand is unknown or the divisor is 0."""
    return significant(value / to) if value is not None and to else None
