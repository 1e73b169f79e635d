"""`edge bench`: how fast, how late, how many watts: the order in, the report out."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from edge.core.config import Config, load_config
from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.manifest import model_file, read_manifest
from edge.core.progress import timed
from edge.core.state_dir import default_state_dir, state_lock
from edge.host.board import board_name
from edge.host.sensors.sensors import Sensors
from edge.inference.derived_files import source_sha256
from edge.inference.engine_provider import EngineEnvironment
from edge.perf.bench.eta import EtaEstimator
from edge.perf.bench.fusion import fusion, show_fusion
from edge.perf.bench.interleaved import InterleavedRunner, PlannedRow, grouped
from edge.perf.bench.machine import machine
from edge.perf.bench.measure import InterruptedRunError
from edge.perf.bench.networks import NAMES
from edge.perf.bench.plan import BenchPlan
from edge.perf.bench.report import Form, Report, show
from edge.perf.bench.report_sections import ReportOptions, ReportSections
from edge.perf.bench.subject import Subject, check_name, is_config, of_config, of_name
from edge.perf.tune.measurements_file import MeasurementsFile
from edge.perf.tune.tuned_config import model_to_tune
from edge.power.mode_guard import ModeGuard, Power, terminable
from edge.power.mode_switch import board_power

WORSE = 4  # exit code: a row is worse than in the earlier run
INTERRUPTED = 130  # exit code, as of a shell's command that Ctrl-C ended
SPEED_ONLY = "networks are of random weights, INT8 calibrated on random input: the speed is real, the accuracy is not"
_ALL = "all"


def run(wish: BenchPlan, form: Form, asked: ReportOptions) -> int:
    """Measure with what this board has, and print the report; return the exit code."""
    beside = ReportSections(asked)
    report = bench(wish, board_power(), Sensors())
    if report.rows:
        beside.look(report)
    try:
        if report.rows or not report.partial:
            show(report, form)
    finally:
        if report.rows:
            beside.draw(report)
    if report.partial:
        return INTERRUPTED
    return WORSE if beside.is_worse else 0


def tell_fusion(wish: BenchPlan, *, as_json: bool) -> int:
    """Print the layers of each network before and after fusion; on a GPU also each layer's time."""
    state_dir = wish.state_dir or default_state_dir()
    found = []
    for what in wish.what:
        if is_config(what):
            raise ConfigError(f"--fusion: found the configuration {what}, wanted networks or models")
        check_name(what)
        subject = of_name(what, state_dir)
        folder = subject.settings.path
        if subject.is_random and "int8" in wish.precisions:
            from edge.perf.bench.random_int8 import make_int8_variant  # noqa: PLC0415 -- imports onnx, which is slow

            for backend in ("trt", "ort-cpu"):
                make_int8_variant(model_file(folder, read_manifest(folder)), backend, state_dir)
        found += [fusion(folder, precision, state_dir) for precision in wish.precisions]
    if as_json:
        print(json.dumps([each.to_json() for each in found], allow_nan=False))  # noqa: T201 -- the command's output
    else:
        for each in found:
            show_fusion(each, Console())
    return 0


def bench(wish: BenchPlan, power: Power | None, sensors: Sensors) -> Report:
    """Measure all that is asked for; Ctrl-C ends it early, with what was measured until then.

    Raises EdgeError, ConfigError before anything is measured; the board is then in the power mode from before.
    """
    _check(wish)
    config = _config(wish)
    state_dir = wish.state_dir or default_state_dir(config.device.state_dir if config else None)
    with state_lock(state_dir), terminable():
        sensors.start()
        try:
            return Bench(wish, config, state_dir, power, sensors).measure()
        finally:
            sensors.stop()


def _check(wish: BenchPlan) -> None:
    """Raise ConfigError for what can be seen to be wrong at once."""
    if "server" in wish.scenarios and wish.target_p99_ms is None:
        raise ConfigError(
            "--scenario server: found no --target-p99-ms, wanted the latency that the highest rate has to meet"
        )
    if any(is_config(what) for what in wish.what) and len(wish.what) > 1:
        raise ConfigError("found a configuration among others; wanted one configuration, or models and networks")
    for what in wish.what:
        if not is_config(what):
            check_name(what)


def _config(wish: BenchPlan) -> Config | None:
    return load_config(Path(wish.what[0])) if is_config(wish.what[0]) else None


class Bench:
    """One benchmark at work."""

    def __init__(
        self, wish: BenchPlan, config: Config | None, state_dir: Path, power: Power | None, sensors: Sensors
    ) -> None:
        self._wish = wish
        self._config = config
        self._state_dir = state_dir
        self._power = power
        self._sensors = sensors

    def measure(self) -> Report:
        """Measure each setting; the report is partial where Ctrl-C ended it."""
        wish = self._wish
        report = Report({}, wish.target_p99_ms)
        try:
            with contextlib.ExitStack() as opened:
                subjects = self._subjects()
                report.files, report.state_dir = _files(subjects), self._state_dir
                report.machine = machine({name: source_sha256(file) for name, file in report.files.items()})
                keeper = None
                if self._power is not None:
                    finished = MeasurementsFile(self._state_dir / "bench" / "power.json", {}, fresh=True)
                    keeper = opened.enter_context(ModeGuard(self._power, finished, allow_reboot=False))
                modes = self._modes(keeper, report)
                rows = [PlannedRow(subject, setting) for setting in wish.settings(modes) for subject in subjects]
                rows.sort(key=lambda each: (modes.index(each.setting.power_mode), subjects.index(each.subject)))
                together = InterleavedRunner(wish, self._environment, self._sensors, report)
                pace = EtaEstimator(wish.effort, report.rows)
                for group in timed(grouped(rows), pace.planned_s):
                    together.measure(group, self._switched(group.rows[0].setting.power_mode, keeper))
        except InterruptedRunError as error:
            report.partial = True
            report.rows += error.rows
        except KeyboardInterrupt:
            report.partial = True
        self._finish(report)
        return report

    def _subjects(self) -> list[Subject]:
        if self._config is not None:
            name = model_to_tune(self._config, Path(self._wish.what[0]), self._wish.model)
            return [of_config(self._config, name)]
        return [of_name(what, self._state_dir) for what in self._wish.what]

    def _modes(self, keeper: ModeGuard | None, report: Report) -> tuple[str | None, ...]:
        """Return the power modes to go through; None: whatever the board is in."""
        wanted = self._wish.power_modes
        if not wanted:
            return (None,)
        if keeper is None or self._power is None:
            raise ConfigError("--power-mode: this machine has no power modes that edge can set; leave it out")
        names = self._power.modes() if _ALL in wanted else [self._power.name_of(each) for each in wanted]
        modes, notes = keeper.choose(tuple(dict.fromkeys(names)))
        report.notes += [note.replace("; --allow-reboot lets it be measured", ", and is left out") for note in notes]
        if not modes:
            raise EdgeError(f"--power-mode: no mode is left to measure: {'; '.join(notes)}")
        return modes

    def _environment(self, subject: Subject) -> EngineEnvironment:
        return EngineEnvironment(self._state_dir, board_name(), subject.engines, force=subject.is_random)

    def _switched(self, wanted: str | None, keeper: ModeGuard | None) -> str | None:
        """Switch to a power mode, where one is wanted; return the one that the board is in."""
        if keeper is not None and wanted is not None:
            keeper.switch(wanted)
        return wanted or self._current_mode()

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
            report.notes.append(f"watts and what is made of them are null: {self._why_no_power()}")
        if any(row.network in NAMES and row.precision == "int8" for row in report.rows):
            report.notes.append(SPEED_ONLY)
        if report.partial:
            report.notes.append("partial: ended by Ctrl-C, and only what was measured until then is told")

    def _why_no_power(self) -> str:
        if self._sensors.total is None:
            return "no power sensor is found here (INA3221 or INA238 on a Jetson, RAPL as root, NVML)"
        return f"{self._sensors.total.name} was not read for most of the measured time"


def _files(subjects: Sequence[Subject]) -> dict[str, Path]:
    folders = {subject.name: subject.settings.path for subject in subjects}
    return {name: model_file(folder, read_manifest(folder)) for name, folder in folders.items()}
