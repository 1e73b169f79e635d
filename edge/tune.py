"""`edge tune`: tries power modes, precisions, batches and lanes on the very pipeline that serves, and notes the best."""

from __future__ import annotations

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from edge import __version__
from edge.backends.convert import source_sha256
from edge.backends.supply import Place
from edge.candidate import Axes, Candidate, Judge, Measured, ordered
from edge.clock import utc_text, wall_ns
from edge.config import Config, load_config
from edge.daemon import state_lock
from edge.errors import ConfigError, EdgeError
from edge.finished import Finished
from edge.host.board import board_name
from edge.mode_keeper import ModeKeeper, Power, RebootingError
from edge.model import Model, usable_cores
from edge.pipeline import used_models
from edge.places import default_state_dir
from edge.profiles import Machine, Profile, max_p, max_q, write_profile
from edge.trial import CannotServeError, Sensors, Trial
from edge.tune_report import Found, check_plot, plot, show, to_json

log = logging.getLogger(__name__)

SECONDS = 20.0
BATCHES = (1, 2, 4, 8)
GPU_LANES = (1, 2, 3)
PRECISIONS = ("fp32", "fp16", "int8")
DEVICES = ("gpu", "dla0", "dla1", "cpu")
_Part = TypeVar("_Part", str, int)


@dataclass(frozen=True)
class Wish:
    """What is to be tuned, and over what; empty: all that makes sense here."""

    config: Path
    model: str | None = None
    target_p99_ms: float | None = None
    seconds: float = SECONDS  # a point, without those in which the board throttled
    power_modes: tuple[str, ...] = ()
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ()
    batches: tuple[int, ...] = ()
    lanes: tuple[int, ...] = ()
    saturate: bool = False
    allow_reboot: bool = False
    fresh: bool = False
    plot: Path | None = None
    state_dir: Path | None = None


def run(wish: Wish, *, as_json: bool, power: Power | None = None, sensors: Sensors | None = None) -> int:
    """Search, and tell what was found; return the exit code."""
    if wish.plot is not None:
        check_plot(wish.plot)
    config = load_config(wish.config)
    state_dir = wish.state_dir or default_state_dir(config.device.state_dir)
    with state_lock(state_dir), _terminable():
        try:
            found = Search(wish, config, state_dir, power, sensors).run()
        except RebootingError as told:
            Console(stderr=True).print(str(told), markup=False)
            return told.exit_code
    if wish.plot is not None:
        plot(found, wish.plot)
    if as_json:
        print(json.dumps(to_json(found), allow_nan=False))  # noqa: T201 -- the command's output
    else:
        show(found, Console())
    return 0


class Search:
    """One search: what it has measured, and what it has left out."""

    def __init__(
        self, wish: Wish, config: Config, state_dir: Path, power: Power | None, sensors: Sensors | None
    ) -> None:
        """Open the model once; raise ConfigError or ModelError where this cannot be tuned."""
        self._wish = wish
        self._name = _model_name(wish, config)
        self._place = Place(state_dir, board_name(), config.engines)
        self._config = _alone(config, self._name, saturate=wish.saturate)
        self._power = power
        self._sensors = sensors
        self._notes: list[str] = []
        self._left_out: dict[str, list[Candidate]] = {}
        model = Model(self._name, config.models[self._name], self._place)
        self._device = "cpu" if model.engine.label.startswith("ort-cpu") and model.lacking is None else "gpu"
        self._machine = Machine(board=self._place.board, l4t=None, engine=source_sha256(model.supply.onnx))
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
        self._finished = Finished(path, conditions, fresh=wish.fresh)

    def run(self) -> Found:
        """Measure what is not measured yet; the board is then in the power mode from before."""
        if self._sensors is None:
            self._notes.append("power cannot be measured here: W and J are empty, and no point can be marked Max-Q")
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
                    ModeKeeper(self._power, self._finished, allow_reboot=self._wish.allow_reboot)
                )
            elif self._wish.power_modes:
                raise ConfigError("--power-modes: this machine has no power modes that edge can set; leave it out")
            axes = self._axes(keeper)
            wanted = list(axes.candidates())
            self._measure_all(wanted, keeper)
            found = self._found(wanted)
        return found

    def _axes(self, keeper: ModeKeeper | None) -> Axes:
        wish = self._wish
        devices = wish.devices or (self._device,)
        plain = ("fp32",) if devices == ("cpu",) else ("fp16",)
        cores = usable_cores()
        cpu_lanes = {1, 2, cores} if cores > 1 else {1}
        return Axes(
            power_modes=self._modes(keeper),
            devices=devices,
            precisions=wish.precisions or (*plain, "int8"),
            lanes=wish.lanes or (tuple(sorted(cpu_lanes)) if devices == ("cpu",) else GPU_LANES),
            batches=wish.batches or BATCHES,
        )

    def _modes(self, keeper: ModeKeeper | None) -> tuple[str | None, ...]:
        if keeper is None or self._power is None:
            return (None,)
        modes, notes = keeper.choose(self._wish.power_modes)
        self._notes += notes
        live = tuple(mode for mode in modes if self._power.is_live(mode))
        others = tuple(mode for mode in modes if mode not in live)
        return (*ordered(live, self._power.is_slower), *ordered(others, self._power.is_slower))

    def _measure_all(self, wanted: Sequence[Candidate], keeper: ModeKeeper | None) -> None:
        refused: dict[tuple[str, str], str] = {}  # device and precision that cannot be had at all
        is_slower = self._power.is_slower if self._power is not None else _never
        judge = Judge(self._finished.measured, self._wish.target_p99_ms, is_slower)
        for candidate in _tracked(wanted):
            if candidate in self._finished.measured:
                continue
            reason = refused.get((candidate.device, candidate.precision)) or judge.why_not(candidate)
            if reason is None:
                try:
                    self._measure(candidate, keeper)
                    continue
                except CannotServeError as error:
                    reason = str(error)
                    if error.always:
                        refused[candidate.device, candidate.precision] = reason
            self._left_out.setdefault(reason, []).append(candidate)
        if not self._finished.measured.keys() & set(wanted):
            reasons = "; ".join(self._left_out) or "no setting was wanted"
            raise EdgeError(f"model {self._name} could not be measured under any setting: {reasons}")

    def _measure(self, candidate: Candidate, keeper: ModeKeeper | None) -> None:
        if keeper is not None and candidate.power_mode is not None:
            keeper.switch(candidate.power_mode)
        mode = candidate.power_mode or ""
        with Trial(self._with(candidate), candidate, self._place, self._sensors) as trial:
            if mode not in self._finished.idle_w and (idle_w := trial.idle_w()) is not None:
                self._finished.idle_w[mode] = idle_w
            measured = trial.measure(self._wish.seconds)
        idle_w = self._finished.idle_w.get(mode)
        point = measured.point.model_copy(update={"idle_w": idle_w})
        self._finished.add(candidate, measured.model_copy(update={"point": point}))

    def _with(self, candidate: Candidate) -> Config:
        settings = self._config.models[self._name].model_copy(
            update={
                "precision": candidate.precision,
                "max_batch": candidate.max_batch,
                "lanes": candidate.lanes,
                "device": candidate.device,
            }
        )
        return self._config.model_copy(update={"models": {self._name: settings}})

    def _found(self, wanted: Sequence[Candidate]) -> Found:
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
            points=points,
            max_q=best,
            max_p=fastest,
        )
        self._notes += _notes(measured, profile)
        path = write_profile(profile, self._place.state_dir, self._name)
        return Found(profile, path, measured, self._left_out, self._notes)


def _model_name(wish: Wish, config: Config) -> str:
    """Return the model to tune: the only one that a stream uses, or the one that was named."""
    used = used_models(config)
    if not used:
        raise ConfigError(f"{wish.config} has no enabled [streams.NAME] to measure with; wanted one or more")
    if wish.model is not None:
        if wish.model not in used:
            raise ConfigError(f"--model: found {wish.model!r}, wanted one that a stream uses: {', '.join(used)}")
        return wish.model
    if len(used) > 1:
        raise ConfigError(f"{wish.config} uses {len(used)} models; name one with --model: {', '.join(used)}")
    return next(iter(used))


def _alone(config: Config, name: str, *, saturate: bool) -> Config:
    """Return the configuration with this model's streams alone, whose files play for ever."""
    streams = {}
    for stream, settings in config.streams.items():
        if not settings.enabled or settings.model != name:
            continue
        changes: dict[str, Any] = {"loop": settings.source.scheme == "file"}
        if saturate:
            if settings.source.is_live:
                raise ConfigError(
                    f"--saturate: [streams.{stream}] is a {settings.source.scheme}:// source, which gives no more "
                    "frames than it has; wanted files or synthetic sources"
                )
            changes |= {"delivery": "every", "fps": 0.0}
        streams[stream] = settings.model_copy(update=changes)
    return config.model_copy(update={"models": {name: config.models[name]}, "streams": streams})


def _never(_mode: str, _than: str) -> bool:
    return False


def _label(measured: dict[Candidate, Measured], fastest: Any) -> str:
    return next((each.engine for each in measured.values() if each.point == fastest), "") or next(
        each.engine for each in measured.values()
    )


def _notes(measured: dict[Candidate, Measured], profile: Profile) -> list[str]:
    notes = []
    unsteady = sum(1 for each in measured.values() if not each.is_steady)
    if unsteady:
        notes.append(f"in {unsteady} of {len(measured)} settings load or temperature had not settled in time")
    discarded_s = sum(each.discarded_s for each in measured.values())
    if discarded_s:
        throttled = sum(1 for each in measured.values() if each.discarded_s)
        notes.append(f"the board throttled in {throttled} settings: {discarded_s:.0f} s of samples are left out")
    if profile.max_p is None:
        notes.append("no setting is within the latency target: there is no Max-Q and no Max-P")
    return notes


def _tracked(wanted: Sequence[Candidate]) -> Iterator[Candidate]:
    """Draw a progress bar on standard error, where it is a terminal."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=len(wanted))
        for candidate in wanted:
            bar.update(task, description=str(candidate))
            yield candidate
            bar.advance(task)


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the search as Ctrl-C does, with the power mode put back."""

    def on_signal(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, on_signal)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
