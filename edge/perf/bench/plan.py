"""Plan of `edge bench`: the settings to sweep; what no option names is not swept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge.inference.model_variants import Precision
from edge.perf.bench.load_generator import Length, Scenario
from edge.perf.bench.measure import Effort

SECONDS, QUICK_S = 10.0, 1.0
WARM_UP_S, QUICK_WARM_UP_S = 2.0, 0.2


@dataclass(frozen=True)
class BenchSetting:
    """One setting of the sweep; with lanes None, as many as serving uses."""

    scenario: Scenario
    power_mode: str | None
    precision: Precision
    lanes: int | None
    batch: int

    def __str__(self) -> str:
        mode = f"{self.power_mode} " if self.power_mode else ""
        lanes = f" lanes {self.lanes}" if self.lanes else ""
        return f"{mode}{self.precision} batch {self.batch}{lanes}"


@dataclass(frozen=True)
class BenchPlan:
    """Models to measure and the values to sweep."""

    what: tuple[str, ...]  # networks, folders with model.toml, or a configuration
    model: str | None = None  # in a configuration with several
    scenarios: tuple[Scenario, ...] = ("single-stream",)
    batches: tuple[int, ...] = (1,)
    precisions: tuple[Precision, ...] = ("fp32",)
    power_modes: tuple[str, ...] = ()  # names, max-q, max-p, or all; empty: the current one
    lanes: tuple[int | None, ...] = (None,)
    seconds: float | None = None
    frames: int | None = None
    quick: bool = False
    target_p99_ms: float | None = None
    engine_only: bool = False
    seed: int = 1
    state_dir: Path | None = None

    @property
    def effort(self) -> Effort:
        seconds = self.seconds or (QUICK_S if self.quick else SECONDS)
        warm_up_s = QUICK_WARM_UP_S if self.quick else WARM_UP_S
        return Effort(Length(seconds, self.frames), warm_up_s, not self.quick, self.target_p99_ms, self.seed)

    def settings(self, power_modes: tuple[str | None, ...]) -> Iterator[BenchSetting]:
        """Yield every combination; the mode changes least often, since a board has to settle."""
        for mode, precision, scenario, lanes, batch in itertools.product(
            power_modes, self.precisions, self.scenarios, self.lanes, sorted(set(self.batches))
        ):
            yield BenchSetting(scenario, mode, precision, lanes, batch)
