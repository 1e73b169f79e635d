"""Benchmark session: the measurement of a plan."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edge.core.config import Config, load_config
from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.manifest import model_file, read_manifest, served_file
from edge.core.progress import timed
from edge.core.state_dir import find_state_dir, state_lock
from edge.host.board import board_name
from edge.host.sensors.sensors import Sensors
from edge.inference.derived_files import source_sha256
from edge.inference.engine_provider import EngineEnvironment
from edge.inference.model_variants import Precision
from edge.perf.bench.eta import EtaEstimator
from edge.perf.bench.fusion import Fusion, fusion
from edge.perf.bench.interleaved import InterleavedRunner, PlannedRow, grouped
from edge.perf.bench.machine import machine
from edge.perf.bench.measure import InterruptedRunError
from edge.perf.bench.networks import NAMES
from edge.perf.bench.plan import BenchPlan
from edge.perf.bench.report import Report
from edge.perf.bench.subject import Subject, check_name, is_config, of_config, of_name
from edge.perf.tune.measurements_file import MeasurementsFile
from edge.perf.tune.tuned_config import model_to_tune
from edge.power.mode_guard import ModeGuard, Power, terminable

SPEED_ONLY = (
    "networks have random weights, and INT8 is calibrated on random input: the speed is real, the accuracy is not"
)
_ALL = "all"


def count_layers(what: Sequence[str], precisions: Sequence[Precision], state_dir: Path | None) -> list[Fusion]:
    """Return the layers of each network or model before and after fusion, in each precision.

    Raises ConfigError for a name that is neither.
    """
    state_dir = find_state_dir(state_dir)
    found = []
    for name in what:
        if is_config(name):
            raise ConfigError(f"--fusion: found the configuration {name}, wanted networks or models")
        check_name(name)
        subject = of_name(name, state_dir)
        folder = subject.settings.path
        if subject.is_random and "int8" in precisions:
            from edge.perf.bench.random_int8 import make_int8_variant  # noqa: PLC0415 -- imports onnx, which is slow

            for backend in ("trt", "ort-cpu"):
                make_int8_variant(model_file(folder, read_manifest(folder)), backend, state_dir)
        found += [fusion(folder, precision, state_dir) for precision in precisions]
    return found


def bench(plan: BenchPlan, power: Power | None, sensors: Sensors) -> Report:
    """Measure the plan; Ctrl-C ends it early, with the rows measured so far.

    Raises EdgeError, or ConfigError before anything is measured. The board ends in the power mode that it began in.
    """
    _check(plan)
    config = _config(plan)
    state_dir = find_state_dir(plan.state_dir, config.device.state_dir if config else None)
    with state_lock(state_dir), terminable():
        sensors.start()
        try:
            return BenchSession(plan, config, state_dir, power, sensors).measure()
        finally:
            sensors.stop()


def _check(plan: BenchPlan) -> None:
    """Raise ConfigError for what is plainly wrong, before anything is measured."""
    if "server" in plan.scenarios and plan.target_p99_ms is None:
        raise ConfigError(
            "--scenario server: found no --target-p99-ms, wanted the latency that the highest rate has to meet"
        )
    if any(is_config(what) for what in plan.what) and len(plan.what) > 1:
        raise ConfigError(
            "found a configuration among several subjects; wanted one configuration, or models and networks"
        )
    for what in plan.what:
        if not is_config(what):
            check_name(what)


def _config(plan: BenchPlan) -> Config | None:
    return load_config(Path(plan.what[0])) if is_config(plan.what[0]) else None


class BenchSession:
    """One benchmark in progress."""

    def __init__(
        self, plan: BenchPlan, config: Config | None, state_dir: Path, power: Power | None, sensors: Sensors
    ) -> None:
        self._plan = plan
        self._config = config
        self._state_dir = state_dir
        self._power = power
        self._sensors = sensors

    def measure(self) -> Report:
        """Measure each setting; Ctrl-C makes the report partial."""
        plan = self._plan
        report = Report({}, plan.target_p99_ms)
        try:
            with contextlib.ExitStack() as opened:
                subjects = self._subjects()
                report.files, report.state_dir = _files(subjects), self._state_dir
                report.machine = machine({name: source_sha256(file) for name, file in report.files.items()})
                guard = None
                if self._power is not None:
                    record = MeasurementsFile(self._state_dir / "bench" / "power.json", {}, fresh=True)
                    guard = opened.enter_context(ModeGuard(self._power, record, allow_reboot=False))
                modes = self._modes(guard, report)
                rows = _rows(plan, modes, subjects)
                rows.sort(key=lambda each: (modes.index(each.setting.power_mode), subjects.index(each.subject)))
                runner = InterleavedRunner(plan, self._environment, self._sensors, report)
                eta = EtaEstimator(plan.effort, report.rows)
                for group in timed(grouped(rows), eta.planned_s):
                    runner.measure(group, self._switched(group.rows[0].setting.power_mode, guard))
        except InterruptedRunError as error:
            report.partial = True
            report.rows += error.rows
        except KeyboardInterrupt:
            report.partial = True
        self._finish(report)
        return report

    def _subjects(self) -> list[Subject]:
        if self._config is not None:
            name = model_to_tune(self._config, Path(self._plan.what[0]), self._plan.model)
            return [of_config(self._config, name)]
        return [of_name(what, self._state_dir) for what in self._plan.what]

    def _modes(self, guard: ModeGuard | None, report: Report) -> tuple[str | None, ...]:
        """Return the power modes to measure in; None: the current one."""
        asked = self._plan.power_modes
        if not asked:
            return (None,)
        if guard is None or self._power is None:
            raise ConfigError("--power-mode: this machine has no power modes that edge can set; omit the option")
        names = self._power.modes() if _ALL in asked else [self._power.name_of(each) for each in asked]
        modes, skipped = guard.choose(tuple(dict.fromkeys(names)))
        notes = [f"{mode} needs a reboot, and is skipped" for mode in skipped]
        report.notes += notes
        if not modes:
            raise EdgeError(f"--power-mode: no mode can be measured: {'; '.join(notes)}")
        return modes

    def _environment(self, subject: Subject) -> EngineEnvironment:
        return EngineEnvironment(self._state_dir, board_name(), subject.engines, force=subject.is_random)

    def _switched(self, mode: str | None, guard: ModeGuard | None) -> str | None:
        """Switch to a power mode, where one is given; return the one that the board is in."""
        if guard is not None and mode is not None:
            guard.switch(mode)
        return mode or self._current_mode()

    def _current_mode(self) -> str | None:
        if self._power is None:
            return None
        try:
            return self._power.current()
        except EdgeError:
            return None

    def _finish(self, report: Report) -> None:
        if not report.rows and not report.partial:
            raise ModelError(f"nothing could be measured: {'; '.join(report.notes)}")
        if report.rows and all(row.power_w is None for row in report.rows):
            report.notes.append(f"power and efficiency are null: {self._why_no_power()}")
        if any(row.network in NAMES and row.precision == "int8" for row in report.rows):
            report.notes.append(SPEED_ONLY)
        if report.partial:
            report.notes.append("partial: ended by Ctrl-C; only rows measured until then are shown")

    def _why_no_power(self) -> str:
        if self._sensors.total is None:
            return "no power sensor was found (INA3221 or INA238 on a Jetson, RAPL as root, NVML)"
        return f"{self._sensors.total.name} could not be read during most of the measurement"


def _rows(plan: BenchPlan, modes: Sequence[str | None], subjects: Sequence[Subject]) -> list[PlannedRow]:
    """Return a row of each setting and subject; an engine file has the one precision that it was built in."""
    rows: list[PlannedRow] = []
    for setting in plan.settings(tuple(modes)):
        for subject in subjects:
            row = PlannedRow(subject, replace(setting, precision="engine") if subject.is_engine_file else setting)
            if row not in rows:
                rows.append(row)
    return rows


def _files(subjects: Sequence[Subject]) -> dict[str, Path]:
    folders = {subject.name: subject.settings.path for subject in subjects}
    return {name: served_file(folder, read_manifest(folder)) for name, folder in folders.items()}
