"""Settings of the tuning grid, and the measurement of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from edge.core.tuned_profile import OperatingPoint
from edge.core.validation import Table


@dataclass(frozen=True, slots=True)
class Setting:
    """One point of the grid: the options under which the pipeline runs."""

    power_mode: str | None  # None: the current one
    device: str
    precision: str
    lanes: int
    max_batch: int

    def __str__(self) -> str:
        mode = f"{self.power_mode} " if self.power_mode else ""
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        return f"{mode}{self.device} {self.precision} batch {self.max_batch} {lanes}"


class MeasuredSetting(Table):
    """Measurement of the pipeline under one setting."""

    point: OperatingPoint
    engine: str  # label of the serving engine
    measured_s: float = Field(ge=0)  # of the samples that were kept
    discarded_s: float = Field(ge=0)  # while the board throttled
    is_steady: bool  # load and temperature had settled beforehand
    images: int = Field(ge=0)
    dropped_share: float = Field(ge=0, le=1)  # of the captured frames
    batch_mean: float | None
    batch_most: int = Field(ge=0)  # in the fullest batch
    service_ms: float | None  # median from forming a batch to its results
    busy: float = Field(ge=0)  # mean fraction of the time that a lane had a batch


@dataclass(frozen=True)
class Axes:
    """Axes of the tuning grid."""

    power_modes: tuple[str | None, ...]
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    lanes: tuple[int, ...]
    batches: tuple[int, ...]

    def candidates(self) -> Iterator[Setting]:
        """Yield every combination, smallest first; the mode changes least often, since a board has to settle."""
        for mode, device, precision, lanes, batch in itertools.product(
            self.power_modes, self.devices, self.precisions, sorted(set(self.lanes)), sorted(set(self.batches))
        ):
            yield Setting(mode, device, precision, lanes, batch)
