"""One row of a benchmark's report: what was run, how fast, how late, and for how many watts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt

# A percentile from fewer samples is an accident.
LEAST_SAMPLES = 100
_DIGITS = 6  # significant ones that are told


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of the measured time; a run's blocks follow one another without a gap."""

    latency_ms: tuple[float, ...]  # one a query, in the order in which they ended
    images: NonNegativeInt
    seconds: NonNegativeFloat

    def to_json(self) -> dict[str, Any]:
        return {"latency_ms": list(self.latency_ms), "images": self.images, "seconds": self.seconds}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Block:
        return cls(tuple(found["latency_ms"]), int(found["images"]), float(found["seconds"]))


@dataclass(frozen=True, slots=True)
class BenchRow:
    """One setting that was measured; None for what was not, or cannot be."""

    device: str
    power_mode: str | None
    precision: str
    network: str
    batch: int
    images_per_s: float | None
    power_w: float | None  # mean of all rails of the total
    images_per_s_per_w: float | None
    gpu_power_w: float | None  # of the rail that feeds the GPU and nothing else
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
    why: str | None  # it is not to be trusted
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
        """Return the row that `to_json` told; keys that this version does not know are left out."""
        known = {field.name: found[field.name] for field in fields(cls)}
        return cls(**known | {"samples": tuple(map(Block.from_json, known["samples"]))})


@dataclass(frozen=True, slots=True)
class Speed:
    """What the samples of a run say; None where there are too few."""

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


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return a percentile, `share` of 100; None where there are fewer than LEAST_SAMPLES."""
    if len(samples) < LEAST_SAMPLES:
        return None
    return significant(float(np.percentile(samples, share)))


def significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{_DIGITS}g}")


def ratio(value: float | None, to: float | None) -> float | None:
    """Return a quotient; None where a part of it is not known, or would be divided by."""
    return significant(value / to) if value is not None and to else None
