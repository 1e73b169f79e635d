"""The pipeline run under a candidate's settings: waited for until it is steady, measured, and ended."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

from edge.core.clock import now_ns
from edge.core.config import Config
from edge.core.errors import EdgeError, GpuMemoryError, ModelError
from edge.core.tuned_profile import OperatingPoint
from edge.host.sensors.conditions import Conditions
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.tune.recording_outlet import SETTLED_SLICES, RecordingOutlet, Slice, is_settled, percentile, total
from edge.perf.tune.setting import MeasuredSetting, Setting
from edge.pipeline.pipeline import Pipeline

SLICE_S = 1.0  # what is kept or discarded at once
FIRST_RESULT_S = 30.0  # a camera may be slow to come
BUILD_S = 3600.0
IDLE_S = 3.0
SETTLE_S = 90.0  # a board's heat sink takes minutes; what is not steady by then is told
_POLL_S = 0.05


class TrialReading(Protocol):
    """What the sensors measured since the reading before; None where nothing did."""

    @property
    def power_w(self) -> float | None: ...

    @property
    def throttled(self) -> bool | None: ...

    @property
    def conditions(self) -> Conditions: ...


class TrialSensors(Protocol):
    """The board's sensors."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def read(self, images: int | None = None, power_mode: str | None = None) -> TrialReading:
        """Return what was measured since the last call, in which so many images were inferred."""


class CannotServeError(EdgeError):
    """These settings cannot be had here; `always` says that no other batch or number of lanes would help."""

    def __init__(self, message: str, *, always: bool) -> None:
        super().__init__(message)
        self.always = always


class Trial:
    """One candidate at work; a context manager, which ends the pipeline."""

    def __init__(
        self, config: Config, candidate: Setting, place: EngineEnvironment, sensors: TrialSensors | None
    ) -> None:
        """Open the model; raise CannotServeError where these settings cannot be had here."""
        self._candidate = candidate
        self._sensors = sensors
        self._tap = RecordingOutlet()
        self._dropped = 0
        try:
            self._pipeline = Pipeline(config, self._tap, place)
        except ModelError as error:
            raise CannotServeError(str(error), always=True) from None
        except GpuMemoryError as error:
            raise CannotServeError(str(error), always=False) from None
        self._model = next(iter(self._pipeline.models.values()))
        self._max_wait_ms = self._model.settings.max_wait_ms

    def __enter__(self) -> Trial:
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline.stop()

    def idle_w(self) -> float | None:
        """Return the power while everything is ready and no frame flows; None where it cannot be measured."""
        if self._sensors is None:
            return None
        mode = self._candidate.power_mode
        self._sensors.read(0, mode)
        self._wait(IDLE_S)
        return self._sensors.read(0, mode).power_w

    def measure(self, seconds: float) -> MeasuredSetting:
        """Wait until the load is steady, and measure it for some seconds in which the board did not throttle."""
        self._check_precision()
        self._pipeline.start()
        self._await_engine()
        self._await_first_result()
        is_steady = self._settle()
        kept: list[Slice] = []
        discarded: list[Slice] = []
        while len(kept) * SLICE_S < seconds and len(discarded) * SLICE_S < seconds:
            taken = self._slice(min(SLICE_S, seconds))
            (discarded if taken.throttled else kept).append(taken)
        return self._told(kept, discarded, is_steady=is_steady)

    def _check_precision(self) -> None:
        """Raise where another engine than the wanted one serves, and no better one will come."""
        model, wanted = self._model, self._candidate
        if model.missing_reason is not None and not model.can_build:
            raise CannotServeError(model.missing_reason, always=True)
        if model.missing_reason is None and f"/{wanted.precision}/" not in model.engine.label:
            raise CannotServeError(f"{model.engine.label} serves, wanted {wanted.precision}", always=True)
        if model.max_batch < wanted.max_batch:
            raise CannotServeError(f"the model takes batches of {model.max_batch} only", always=False)

    def _await_engine(self) -> None:
        """Wait while the engine that is missing is built and verified."""
        until_ns = now_ns() + int(BUILD_S * 1e9)
        while self._model.missing_reason is not None:
            step, reason = self._tap.engine or ("building", None)
            if step in ("failed", "partly") or now_ns() > until_ns:
                raise CannotServeError(reason or f"its engine was not ready within {BUILD_S:g} s", always=False)
            self._wait(_POLL_S)

    def _await_first_result(self) -> None:
        until_ns = now_ns() + int(FIRST_RESULT_S * 1e9)
        while not self._tap.take().images:
            if now_ns() > until_ns:
                raise EdgeError(
                    f"no stream gave a result within {FIRST_RESULT_S:g} s; see that the sources of the configuration "
                    "work: edge check CONFIG"
                )
            self._wait(_POLL_S)

    def _settle(self) -> bool:
        """Wait until rate and temperature stay as they are; tell whether they did in time."""
        self._slice(SLICE_S)  # the first frames come in a burst
        last: list[Slice] = []
        while len(last) * SLICE_S < SETTLE_S:
            last.append(self._slice(SLICE_S))
            if is_settled(last[-SETTLED_SLICES:]):
                return True
        return False

    def _slice(self, seconds: float) -> Slice:
        self._wait(seconds)
        taken = self._tap.take()
        if self._sensors is not None:
            reading = self._sensors.read(taken.images, self._candidate.power_mode)
            # What was missing within the slice is taken to be as the rest of it.
            taken.energy_j = None if reading.power_w is None else reading.power_w * taken.seconds
            taken.throttled = reading.throttled
            taken.hottest_c = reading.conditions.hottest_c
        dropped = sum(
            count for stream in self._pipeline.streams.values() for count in stream.meter.counts()["dropped"].values()
        )
        taken.dropped, self._dropped = dropped - self._dropped, dropped
        return taken

    def _wait(self, seconds: float) -> None:
        """Sleep; raise what makes further waiting useless."""
        until_ns = now_ns() + int(seconds * 1e9)
        while (left_ns := until_ns - now_ns()) > 0:
            threading.Event().wait(min(left_ns / 1e9, _POLL_S))
            if (failure := self._tap.failure or self._pipeline.lost) is not None:
                raise failure

    def _told(self, kept: Sequence[Slice], discarded: Sequence[Slice], *, is_steady: bool) -> MeasuredSetting:
        is_throttled = len(discarded) > len(kept)
        slices = discarded if is_throttled else kept
        seconds = sum(each.seconds for each in slices)
        latencies_ms = [latency for each in slices for latency in each.latencies_ms]
        services_ms = [service for each in slices for service in each.services_ms]
        images, dropped = len(latencies_ms), sum(each.dropped for each in slices)
        batches: Counter[int] = sum((each.batches for each in slices), Counter())
        energy_j = total([each.energy_j for each in slices])
        point = OperatingPoint(
            power_mode=self._candidate.power_mode,
            precision=self._candidate.precision,
            max_batch=self._candidate.max_batch,
            max_wait_ms=self._max_wait_ms,
            lanes=self._candidate.lanes,
            device=self._candidate.device,
            images_per_s=images / seconds if images else None,
            latency_p50_ms=percentile(latencies_ms, 50),
            latency_p99_ms=percentile(latencies_ms, 99),
            power_w=energy_j / seconds if energy_j else None,
            energy_j_per_image=energy_j / images if energy_j and images else None,
            temperature_c=slices[-1].hottest_c,
            is_throttled=is_throttled if any(each.throttled is not None for each in slices) else None,
        )
        return MeasuredSetting(
            point=point,
            engine=self._model.engine.label,
            measured_s=round(seconds, 3),
            discarded_s=round(sum(each.seconds for each in discarded), 3),
            is_steady=is_steady,
            images=images,
            dropped_share=round(dropped / (images + dropped), 4) if images + dropped else 0.0,
            # Each batch of n images is counted n times.
            batch_mean=round(images / sum(count / size for size, count in batches.items()), 3) if images else None,
            batch_most=max(batches, default=0),
            service_ms=percentile(services_ms, 50),
            busy=round(sum(each.busy_ms for each in slices) / 1e3 / seconds / self._candidate.lanes, 4),
        )
