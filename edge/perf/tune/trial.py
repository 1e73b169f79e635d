"""Trial run of the pipeline under one setting: settle, measure, stop."""

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

SLICE_S = 1.0  # the unit that is kept or discarded
FIRST_RESULT_S = 30.0  # a camera may be slow to connect
BUILD_S = 3600.0
IDLE_S = 3.0
SETTLE_S = 90.0  # a heat sink takes minutes; a note says what has not settled by then
_POLL_S = 0.05


class TrialReading(Protocol):
    """Sensor readings since the previous one; None for what was not measured."""

    @property
    def power_w(self) -> float | None: ...

    @property
    def throttled(self) -> bool | None: ...

    @property
    def conditions(self) -> Conditions: ...


class TrialSensors(Protocol):
    """Sensors of the board."""

    def start(self) -> None: ...

    def stop(self) -> None: ...

    def read(self, images: int | None = None, power_mode: str | None = None) -> TrialReading:
        """Return the readings since the last call, during which `images` were inferred."""


class CannotServeError(EdgeError):
    """The setting is not available here; with `always`, no other batch or number of lanes would help."""

    def __init__(self, message: str, *, always: bool) -> None:
        super().__init__(message)
        self.always = always


class Trial:
    """Context manager that runs the pipeline under one setting."""

    def __init__(
        self, config: Config, setting: Setting, place: EngineEnvironment, sensors: TrialSensors | None
    ) -> None:
        """Open the model; raise CannotServeError if the setting is not available here."""
        self._setting = setting
        self._sensors = sensors
        self._outlet = RecordingOutlet()
        self._dropped = 0
        try:
            self._pipeline = Pipeline(config, self._outlet, place)
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
        """Measure the power with everything ready and no frames flowing; None if it cannot be measured."""
        if self._sensors is None:
            return None
        mode = self._setting.power_mode
        self._sensors.read(0, mode)
        self._wait(IDLE_S)
        return self._sensors.read(0, mode).power_w

    def measure(self, seconds: float) -> MeasuredSetting:
        """Wait for a steady load, then measure until there are `seconds` without throttling."""
        self._check_precision()
        self._pipeline.start()
        self._await_engine()
        self._await_first_result()
        is_steady = self._settle()
        kept: list[Slice] = []
        discarded: list[Slice] = []
        while len(kept) * SLICE_S < seconds and len(discarded) * SLICE_S < seconds:
            current = self._slice(min(SLICE_S, seconds))
            (discarded if current.throttled else kept).append(current)
        return self._summarise(kept, discarded, is_steady=is_steady)

    def _check_precision(self) -> None:
        """Raise CannotServeError if another engine serves, and the right one will not follow."""
        model, setting = self._model, self._setting
        if model.missing_reason is not None and not model.can_build:
            raise CannotServeError(model.missing_reason, always=True)
        if model.missing_reason is None and f"/{setting.precision}/" not in model.engine.label:
            raise CannotServeError(f"{model.engine.label} serves, wanted {setting.precision}", always=True)
        if model.max_batch < setting.max_batch:
            raise CannotServeError(f"the model's largest batch is {model.max_batch}", always=False)

    def _await_engine(self) -> None:
        """Wait while the missing engine is built and verified."""
        until_ns = now_ns() + int(BUILD_S * 1e9)
        while self._model.missing_reason is not None:
            step, reason = self._outlet.engine or ("building", None)
            if step in ("failed", "partly") or now_ns() > until_ns:
                raise CannotServeError(reason or f"the engine was not ready within {BUILD_S:g} s", always=False)
            self._wait(_POLL_S)

    def _await_first_result(self) -> None:
        until_ns = now_ns() + int(FIRST_RESULT_S * 1e9)
        while not self._outlet.drain().images:
            if now_ns() > until_ns:
                raise EdgeError(
                    f"no stream produced a result within {FIRST_RESULT_S:g} s; check that the configured sources work: "
                    "edge check CONFIG"
                )
            self._wait(_POLL_S)

    def _settle(self) -> bool:
        """Wait for a steady rate and temperature; return whether they settled in time."""
        self._slice(SLICE_S)  # the first frames come in a burst
        last: list[Slice] = []
        while len(last) * SLICE_S < SETTLE_S:
            last.append(self._slice(SLICE_S))
            if is_settled(last[-SETTLED_SLICES:]):
                return True
        return False

    def _slice(self, seconds: float) -> Slice:
        self._wait(seconds)
        current = self._outlet.drain()
        if self._sensors is not None:
            reading = self._sensors.read(current.images, self._setting.power_mode)
            # Gaps within the slice are taken to be like the rest of it.
            current.energy_j = None if reading.power_w is None else reading.power_w * current.seconds
            current.throttled = reading.throttled
            current.hottest_c = reading.conditions.hottest_c
        dropped = sum(
            count for stream in self._pipeline.streams.values() for count in stream.meter.counts()["dropped"].values()
        )
        current.dropped, self._dropped = dropped - self._dropped, dropped
        return current

    def _wait(self, seconds: float) -> None:
        """Sleep; raise the failure that makes waiting pointless."""
        until_ns = now_ns() + int(seconds * 1e9)
        while (left_ns := until_ns - now_ns()) > 0:
            threading.Event().wait(min(left_ns / 1e9, _POLL_S))
            if (failure := self._outlet.failure or self._pipeline.lost) is not None:
                raise failure

    def _summarise(self, kept: Sequence[Slice], discarded: Sequence[Slice], *, is_steady: bool) -> MeasuredSetting:
        is_throttled = len(discarded) > len(kept)
        slices = discarded if is_throttled else kept
        seconds = sum(each.seconds for each in slices)
        latencies_ms = [latency for each in slices for latency in each.latencies_ms]
        services_ms = [service for each in slices for service in each.services_ms]
        images, dropped = len(latencies_ms), sum(each.dropped for each in slices)
        batches: Counter[int] = sum((each.batches for each in slices), Counter())
        energy_j = total([each.energy_j for each in slices])
        point = OperatingPoint(
            power_mode=self._setting.power_mode,
            precision=self._setting.precision,
            max_batch=self._setting.max_batch,
            max_wait_ms=self._max_wait_ms,
            lanes=self._setting.lanes,
            device=self._setting.device,
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
            busy=round(sum(each.busy_ms for each in slices) / 1e3 / seconds / self._setting.lanes, 4),
        )
