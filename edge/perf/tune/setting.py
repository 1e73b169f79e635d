"""Settings that `edge tune` tries, and the measurement of one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from edge.core.tuned_profile import OperatingPoint
from edge.core.validation import Table


@dataclass(frozen=True, slots=True)
class Setting:
    """Settings under which the pipeline can run."""

    power_mode: str | None  # None: the board's, whatever it is
    device: str
    precision: str
    lanes: int
    max_batch: int

    def __str__(self) -> str:
        mode = f"{self.power_mode} " if self.power_mode else ""
        lanes = "1 lane" if self.lanes == 1 else f"{self.lanes} lanes"
        return f"{mode}{self.device} {self.precision} batch {self.max_batch} {lanes}"


class MeasuredSetting(Table):
    """What the pipeline did under a candidate's settings."""

    point: OperatingPoint
    engine: str  # label of what served
    measured_s: float = Field(ge=0)  # without what was discarded
    discarded_s: float = Field(ge=0)  # while the board throttled
    is_steady: bool  # load and temperature had settled before
    images: int = Field(ge=0)
    dropped_share: float = Field(ge=0, le=1)  # of the frames captured meanwhile
    batch_mean: float | None
    batch_most: int = Field(ge=0)  # images of the fullest batch
    service_ms: float | None  # median from a batch's forming to its results
    busy: float = Field(ge=0)  # share of the time that a lane had a batch, on the mean


@dataclass(frozen=True)
class Axes:
    """All that is tried."""

    power_modes: tuple[str | None, ...]
    devices: tuple[str, ...]
    precisions: tuple[str, ...]
    lanes: tuple[int, ...]
    batches: tuple[int, ...]

    def candidates(self) -> Iterator[Setting]:
        """Yield each combination: modes change least, since a board has to settle, and small ones come first."""
        for mode, device, precision, lanes, batch in itertools.product(
            self.power_modes, self.devices, self.precisions, sorted(set(self.lanes)), sorted(set(self.batches))
        ):
            yield Setting(mode, device, precision, lanes, batch)
