"""Search for the best operating point of a model: the order of the trials, and their result."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Sequence
from pathlib import Path

from edge import __version__
from edge.core.clock import utc_text, wall_ns
from edge.core.config import Config
from edge.core.errors import ConfigError, EdgeError
from edge.core.process import usable_cores
from edge.core.progress import tracked
from edge.core.tuned_profile import OperatingPoint, TunedProfile, max_p, max_q, write_profile
from edge.host.board import board_name
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.tune.candidate_pruner import CandidatePruner, Reason, fastest_first
from edge.perf.tune.measurements_file import MeasurementsFile
from edge.perf.tune.plan import TunePlan, default_devices
from edge.perf.tune.report import TuneResult
from edge.perf.tune.setting import MeasuredSetting, Setting
from edge.perf.tune.trial import CannotServeError, Trial, TrialSensors
from edge.perf.tune.tuned_config import config_of_model, config_under, model_to_tune
from edge.pipeline.served_model import ServedModel
from edge.power.mode_guard import ModeGuard, Power, RebootingError

log = logging.getLogger(__name__)

_LOGGED = {"images_per_s", "latency_p99_ms", "power_w", "energy_j_per_image"}


class _CannotSetError(EdgeError):
    """The power mode could not be set."""


class TuneSearch:
    """One search over the grid of a plan."""

    def __init__(
        self, plan: TunePlan, config: Config, state_dir: Path, power: Power | None, sensors: TrialSensors | None
    ) -> None:
        """Open the model once; raise ConfigError or ModelError if it cannot be tuned."""
        self._plan = plan
        self._name = model_to_tune(config, plan.config, plan.model)
        self._environment = EngineEnvironment(state_dir, board_name(), config.engines)
        self._config = config_of_model(config, self._name, saturate=plan.saturate)
        self._power = power
        self._sensors = sensors
        self._notes: list[str] = []
        self._skipped: dict[Setting, Reason] = {}
        model = ServedModel(self._name, config.models[self._name], self._environment)
        on_cpu = model.engine.label.startswith("ort-cpu") and model.missing_reason is None
        self._devices = default_devices(model.settings.device, on_cpu=on_cpu)
        self._machine = model.machine
        model.close()
        conditions = {
            "edge": __version__,
            "machine": self._machine.model_dump(),
            "cores": usable_cores(),
            "seconds": plan.seconds,
            "model": config.models[self._name].model_dump(exclude={"precision", "max_batch", "lanes", "device"}),
            "streams": {name: each.model_dump() for name, each in self._config.streams.items()},
        }
        path = state_dir / "tune" / f"{self._name}.json"
        self._measurements = MeasurementsFile(path, conditions, fresh=plan.fresh)

    def run(self) -> TuneResult:
        """Measure the settings not measured yet; the board ends in its original power mode."""
        if self._measurements.measured:
            log.warning(
                "%d settings are already measured and not measured again; --fresh starts over",
                len(self._measurements.measured),
            )
        with contextlib.ExitStack() as opened:
            if self._sensors is not None:
                self._sensors.start()
                opened.callback(self._sensors.stop)
            guard = None
            if self._power is not None:
                guard = opened.enter_context(
                    ModeGuard(self._power, self._measurements, allow_reboot=self._plan.allow_reboot)
                )
            elif self._plan.power_modes:
                raise ConfigError("--power-modes: this machine has no power modes that edge can set; omit it")
            axes = self._plan.axes(self._modes(guard), self._devices, usable_cores())
            candidates = list(axes.candidates())
            self._measure_all(candidates, guard)
            return self._result(candidates)

    def _modes(self, guard: ModeGuard | None) -> tuple[str | None, ...]:
        if guard is None or self._power is None:
            return (None,)
        modes, skipped = guard.choose(self._plan.power_modes)
        self._notes += [f"{mode} needs a reboot; pass --allow-reboot to measure it" for mode in skipped]
        live = tuple(mode for mode in modes if self._power.is_live(mode))
        others = tuple(mode for mode in modes if mode not in live)
        return (*fastest_first(live, self._power.is_slower), *fastest_first(others, self._power.is_slower))

    def _measure_all(self, candidates: Sequence[Setting], guard: ModeGuard | None) -> None:
        is_slower = self._power.is_slower if self._power is not None else _never
        pruner = CandidatePruner(self._measurements.measured, self._plan.target_p99_ms, is_slower)
        refused: dict[tuple[str | None, ...], Reason] = {}  # a power mode, or device and precision
        for candidate in tracked(candidates, len(candidates)):
            if candidate in self._measurements.measured:
                continue
            mode, form = (candidate.power_mode,), (candidate.device, candidate.precision)
            reason = refused.get(mode) or refused.get(form) or pruner.reason_to_skip(candidate)
            if reason is None:
                try:
                    self._switch(candidate.power_mode, guard)
                    self._measure(candidate)
                    continue
                except _CannotSetError as error:
                    reason = refused[mode] = Reason(str(error), str(error))
                except CannotServeError as error:
                    reason = Reason(str(error), str(error))
                    if error.always:
                        refused[form] = reason
            self._skipped[candidate] = reason
        if not self._measurements.measured.keys() & set(candidates):
            reasons = "; ".join({reason.text for reason in self._skipped.values()})
            raise EdgeError(f"model {self._name} could not be measured in any setting: {reasons}")

    def _switch(self, mode: str | None, guard: ModeGuard | None) -> None:
        """Switch to a mode; raise _CannotSetError if it cannot be set and was not named in the plan."""
        if guard is None or mode is None:
            return
        try:
            guard.switch(mode)
        except RebootingError:
            raise
        except EdgeError as error:
            if self._plan.power_modes:
                raise
            raise _CannotSetError(str(error)) from None

    def _measure(self, candidate: Setting) -> None:
        mode = candidate.power_mode or ""
        with Trial(config_under(self._config, candidate), candidate, self._environment, self._sensors) as trial:
            if mode not in self._measurements.idle_w and (idle_w := trial.idle_w()) is not None:
                self._measurements.idle_w[mode] = idle_w
            measured = trial.measure(self._plan.seconds)
        idle_w = self._measurements.idle_w.get(mode)
        point = measured.point.model_copy(update={"idle_w": idle_w})
        self._measurements.add(candidate, measured.model_copy(update={"point": point}))
        log.info("%s: %s", candidate, point.model_dump_json(include=_LOGGED))

    def _result(self, candidates: Sequence[Setting]) -> TuneResult:
        """Pick the best of the measured candidates, and write the profile."""
        measured = {
            each: self._measurements.measured[each] for each in candidates if each in self._measurements.measured
        }
        points = tuple(each.point for each in measured.values())
        target = self._plan.target_p99_ms
        best, fastest = max_q(points, target), max_p(points, target)
        profile = TunedProfile(
            machine=self._machine,
            engine_label=_label(measured, fastest),
            made_at=utc_text(wall_ns()),
            target_p99_ms=target,
            is_saturated=self._plan.saturate,
            points=points,
            max_q=best,
            max_p=fastest,
        )
        self._notes += _notes(measured, profile)
        path = write_profile(profile, self._environment.state_dir, self._name)
        return TuneResult(self._name, profile, path, measured, self._skipped, self._notes)


def _never(_mode: str, _than: str) -> bool:
    return False


def _label(measured: dict[Setting, MeasuredSetting], fastest: OperatingPoint | None) -> str:
    return next((each.engine for each in measured.values() if each.point == fastest), "") or next(
        each.engine for each in measured.values()
    )


def _notes(measured: dict[Setting, MeasuredSetting], profile: TunedProfile) -> list[str]:
    notes = []
    unsteady = sum(1 for each in measured.values() if not each.is_steady)
    if unsteady:
        notes.append(f"load or temperature did not settle in time in {unsteady} of {len(measured)} settings")
    discarded_s = sum(each.discarded_s for each in measured.values())
    if discarded_s:
        throttled = sum(1 for each in measured.values() if each.discarded_s)
        notes.append(f"the board throttled in {throttled} settings; {discarded_s:.0f} s of samples were discarded")
    if all(each.point.power_w is None for each in measured.values()):
        notes.append("power cannot be measured here: W and J/image are empty, and there is no Max-Q")
    if profile.max_p is None:
        nearest = min((each.point.latency_p99_ms or math.inf, str(candidate)) for candidate, each in measured.items())
        notes.append(
            "no setting meets the latency target, so there is no Max-Q or Max-P; "
            f"the nearest is {nearest[1]} with {nearest[0]:.3g} ms"
        )
    return notes
