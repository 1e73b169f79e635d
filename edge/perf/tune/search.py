"""The search for a model's best operating point: which settings are tried, in what order, and what comes of it."""

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
from edge.core.tuned_profile import OperatingPoint, Profile, max_p, max_q, write_profile
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
    """A power mode cannot be set."""


class TuneSearch:
    """One search: what it has measured, and what it has left out."""

    def __init__(
        self, wish: TunePlan, config: Config, state_dir: Path, power: Power | None, sensors: TrialSensors | None
    ) -> None:
        """Open the model once; raise ConfigError or ModelError where this cannot be tuned."""
        self._wish = wish
        self._name = model_to_tune(config, wish.config, wish.model)
        self._environment = EngineEnvironment(state_dir, board_name(), config.engines)
        self._config = config_of_model(config, self._name, saturate=wish.saturate)
        self._power = power
        self._sensors = sensors
        self._notes: list[str] = []
        self._left_out: dict[Setting, Reason] = {}
        model = ServedModel(self._name, config.models[self._name], self._environment)
        on_cpu = model.engine.label.startswith("ort-cpu") and model.missing_reason is None
        self._devices = default_devices(model.settings.device, on_cpu=on_cpu)
        self._machine = model.machine
        model.close()
        conditions = {
            "edge": __version__,
            "machine": self._machine.model_dump(),
            "cores": usable_cores(),
            "seconds": wish.seconds,
            "model": config.models[self._name].model_dump(exclude={"precision", "max_batch", "lanes", "device"}),
            "streams": {name: each.model_dump() for name, each in self._config.streams.items()},
        }
        path = state_dir / "tune" / f"{self._name}.json"
        self._finished = MeasurementsFile(path, conditions, fresh=wish.fresh)

    def run(self) -> TuneResult:
        """Measure what is not measured yet; the board is then in the power mode from before."""
        if self._finished.measured:
            log.warning(
                "%d settings were measured before and are not measured again; --fresh starts anew",
                len(self._finished.measured),
            )
        with contextlib.ExitStack() as opened:
            if self._sensors is not None:
                self._sensors.start()
                opened.callback(self._sensors.stop)
            keeper = None
            if self._power is not None:
                keeper = opened.enter_context(
                    ModeGuard(self._power, self._finished, allow_reboot=self._wish.allow_reboot)
                )
            elif self._wish.power_modes:
                raise ConfigError("--power-modes: this machine has no power modes that edge can set; leave it out")
            axes = self._wish.axes(self._modes(keeper), self._devices, usable_cores())
            wanted = list(axes.candidates())
            self._measure_all(wanted, keeper)
            return self._found(wanted)

    def _modes(self, keeper: ModeGuard | None) -> tuple[str | None, ...]:
        if keeper is None or self._power is None:
            return (None,)
        modes, notes = keeper.choose(self._wish.power_modes)
        self._notes += notes
        live = tuple(mode for mode in modes if self._power.is_live(mode))
        others = tuple(mode for mode in modes if mode not in live)
        return (*fastest_first(live, self._power.is_slower), *fastest_first(others, self._power.is_slower))

    def _measure_all(self, wanted: Sequence[Setting], keeper: ModeGuard | None) -> None:
        is_slower = self._power.is_slower if self._power is not None else _never
        judge = CandidatePruner(self._finished.measured, self._wish.target_p99_ms, is_slower)
        refused: dict[tuple[str | None, ...], Reason] = {}  # a power mode, or device and precision
        for candidate in tracked(wanted):
            if candidate in self._finished.measured:
                continue
            mode, form = (candidate.power_mode,), (candidate.device, candidate.precision)
            reason = refused.get(mode) or refused.get(form) or judge.why_not(candidate)
            if reason is None:
                try:
                    self._switch(candidate.power_mode, keeper)
                    self._measure(candidate)
                    continue
                except _CannotSetError as error:
                    reason = refused[mode] = Reason(str(error), str(error))
                except CannotServeError as error:
                    reason = Reason(str(error), str(error))
                    if error.always:
                        refused[form] = reason
            self._left_out[candidate] = reason
        if not self._finished.measured.keys() & set(wanted):
            reasons = "; ".join({reason.text for reason in self._left_out.values()})
            raise EdgeError(f"model {self._name} could not be measured under any setting: {reasons}")

    def _switch(self, mode: str | None, keeper: ModeGuard | None) -> None:
        """Go over to a mode; where nobody asked for just that one, a mode that cannot be set is left out."""
        if keeper is None or mode is None:
            return
        try:
            keeper.switch(mode)
        except RebootingError:
            raise
        except EdgeError as error:
            if self._wish.power_modes:
                raise
            raise _CannotSetError(str(error)) from None

    def _measure(self, candidate: Setting) -> None:
        mode = candidate.power_mode or ""
        with Trial(config_under(self._config, candidate), candidate, self._environment, self._sensors) as trial:
            if mode not in self._finished.idle_w and (idle_w := trial.idle_w()) is not None:
                self._finished.idle_w[mode] = idle_w
            measured = trial.measure(self._wish.seconds)
        idle_w = self._finished.idle_w.get(mode)
        point = measured.point.model_copy(update={"idle_w": idle_w})
        self._finished.add(candidate, measured.model_copy(update={"point": point}))
        log.info("%s: %s", candidate, point.model_dump_json(include=_LOGGED))

    def _found(self, wanted: Sequence[Setting]) -> TuneResult:
        """Judge all that was asked for, and write the profile."""
        measured = {each: self._finished.measured[each] for each in wanted if each in self._finished.measured}
        points = tuple(each.point for each in measured.values())
        target = self._wish.target_p99_ms
        best, fastest = max_q(points, target), max_p(points, target)
        profile = Profile(
            machine=self._machine,
            engine_label=_label(measured, fastest),
            made_at=utc_text(wall_ns()),
            target_p99_ms=target,
            is_saturated=self._wish.saturate,
            points=points,
            max_q=best,
            max_p=fastest,
        )
        self._notes += _notes(measured, profile)
        path = write_profile(profile, self._environment.state_dir, self._name)
        return TuneResult(self._name, profile, path, measured, self._left_out, self._notes)


def _never(_mode: str, _than: str) -> bool:
    return False


def _label(measured: dict[Setting, MeasuredSetting], fastest: OperatingPoint | None) -> str:
    return next((each.engine for each in measured.values() if each.point == fastest), "") or next(
        each.engine for each in measured.values()
    )


def _notes(measured: dict[Setting, MeasuredSetting], profile: Profile) -> list[str]:
    notes = []
    unsteady = sum(1 for each in measured.values() if not each.is_steady)
    if unsteady:
        notes.append(f"in {unsteady} of {len(measured)} settings load or temperature had not settled in time")
    discarded_s = sum(each.discarded_s for each in measured.values())
    if discarded_s:
        throttled = sum(1 for each in measured.values() if each.discarded_s)
        notes.append(f"the board throttled in {throttled} settings: {discarded_s:.0f} s of samples are left out")
    if all(each.point.power_w is None for each in measured.values()):
        notes.append("power cannot be measured here: W and J are empty, and no setting can be marked Max-Q")
    if profile.max_p is None:
        quickest = min((each.point.latency_p99_ms or math.inf, str(candidate)) for candidate, each in measured.items())
        notes.append(
            "no setting is within the latency target, so that there is no Max-Q and no Max-P; "
            f"the nearest is {quickest[1]} with {quickest[0]:.3g} ms"
        )
    return notes
