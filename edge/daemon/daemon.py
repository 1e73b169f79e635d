"""The daemon's life: start, ready, tick (watchdog, telemetry), reload, stop."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
import uuid
from collections.abc import Mapping
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

from edge.core.clock import now_ns
from edge.core.config import Config, StreamSettings, load_config
from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.process import signal_handler
from edge.core.records import BoardState, Message
from edge.core.state_dir import default_state_dir, state_lock
from edge.core.tuned_profile import Profile
from edge.daemon.board_monitor import BoardMonitor
from edge.daemon.commands.service import CommandService
from edge.daemon.event_publisher import EventPublisher
from edge.daemon.prometheus.exporter import Exporter
from edge.daemon.start_history import HEALTHY_UPTIME_S, CrashLoop, StartHistory
from edge.daemon.telemetry import Telemetry
from edge.host.board import board_name
from edge.host.systemd import Notifier, watchdog_period_s
from edge.inference.engine_provider import EngineEnvironment, Fallback
from edge.mqtt.encode import to_json
from edge.mqtt.outbox import open_outbox
from edge.mqtt.publisher import Publisher
from edge.mqtt.topics import Topics
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.served_model import ServedModel
from edge.power.controller import PowerPolicy
from edge.power.governor import Decision

log = logging.getLogger(__name__)

# Asks whoever started the daemon to start it again.
RESTART_EXIT = 3
# From a signal to the exit, of which the pipeline may take 4 s; what is left then, the outbox has for its disk.
SEND_S = 4.3
EXIT_S = 4.8
# When the sources have ended by themselves, nobody waits: a slow broker gets longer to take what there is.
FLUSH_S = 30.0
# How often the daemon looks whether every source has ended, and whether a signal has come.
END_POLL_S = 0.1
# What the unit gives a start, of which a pause before it shall take nothing.
START_S = 300.0
# What takes a restart to change.
FIXED_TABLES = ("device", "mqtt", "outbox", "engines", "accuracy", "governor", "commands", "homeassistant", "http")


class Daemon:
    """One run of the daemon."""

    def __init__(self, config_path: Path, config: Config, state_dir: Path, *, force: bool = False) -> None:
        self._config_path = config_path
        self._config = config
        self._notifier = Notifier()
        self._starts = StartHistory(state_dir, restarted=self._notifier.is_heard)
        self._crash_loop = self._starts.crash_loop()
        self._environment = EngineEnvironment(
            state_dir, board_name(), config.engines, force, _fallback(self._crash_loop)
        )
        self._boot = uuid.uuid4().hex
        self._topics = Topics(config.mqtt.prefix, config.device.name)
        self._say = EventPublisher(self, self._topics, self._boot, self._publish)
        wanted = PowerPolicy(config.device.power_mode, config.governor)
        self._board = BoardMonitor(wanted, self._say.alarms, self._say.alarm, self._decided)
        self._wake = threading.Event()
        self._stop_signal: int | None = None
        self._reload_asked = False
        self._is_to_restart = False
        self._stays = False  # a command has switched streams off: that the others have ended is no end
        self._remote = CommandService(config, self._topics, self._say.head, state_dir, self._publish, self._wake.set)
        self._say.on_result = self._remote.result
        self._outbox, self._shelving = open_outbox(config.mqtt, config.outbox, state_dir, self._say.outbox)
        self._publisher = Publisher(
            config.mqtt,
            f"edge-{config.mqtt.prefix}-{config.device.name}",
            self._say.last_will(),
            self._outbox,
            self._acknowledged,
            self._remote.subscriptions,
            self._remote.inbox.put,
        )
        self._exporter = Exporter()
        self._pipeline: Pipeline
        self._telemetry: Telemetry

    def wait_out_crash_loop(self) -> bool:
        """Wait where the last starts ended badly; False where a signal to stop came meanwhile."""
        self._starts.begin()
        if (loop := self._crash_loop) is None:
            return True
        log.error("%s; now it waits %g s", loop.told, loop.pause_s)
        self._notifier.extend_start(loop.pause_s + START_S)
        self._notifier.status(f"waits {loop.pause_s:g} s, as {loop.told}")
        until_ns = now_ns() + int(loop.pause_s * 1e9)
        while self._stop_signal is None and now_ns() < until_ns:
            sleep(END_POLL_S)
        if self._stop_signal is not None:
            self._starts.end("clean")
        return self._stop_signal is None

    def run(self) -> int:
        """Serve until every source has ended or a signal comes; return the exit code.

        Raises GpuLostError, with everything flushed, where only a new process can go on.
        """
        try:
            self._pipeline = Pipeline(self._config, self._say, self._environment)
        except (ConfigError, ModelError):  # for a person to mend: to start again would not help
            self._starts.end("clean")
            raise
        freeze_startup_objects()
        self._board.start(self._profile())
        self._telemetry = Telemetry(self._config.device.name, self._boot)  # whose first period begins now
        self._shelving.start()
        self._publisher.start()
        self._exporter.start(self._config.http)
        try:
            self._say.status("online")
            self._pipeline.start()
            self._tell_off({})
            self._remote.start(self, board_name())
            self._notifier.ready()
            if self._crash_loop is not None:
                self._say.crash_loop(self._crash_loop.told)
            if not self._pipeline.streams:
                log.warning("no [streams.NAME] is enabled in %s: nothing to do until a reload", self._config_path)
            log.info("%d streams run as boot %s", len(self._pipeline.streams), self._boot)
            self._serve()
        except EdgeError:
            raise
        except Exception:  # before the stop, which may stumble over the same
            log.critical("the daemon fails unexpectedly and stops", exc_info=True)
            raise
        finally:
            self._stop()
        self._starts.end("clean" if self._pipeline.lost is None else "lost")
        if self._pipeline.lost is not None:
            raise self._pipeline.lost
        if self._is_to_restart:
            return RESTART_EXIT
        failed = any(stream.state == "failed" for stream in self._pipeline.streams.values())
        return 1 if failed and self._stop_signal is None else 0

    def summary(self) -> dict[str, Any]:
        """Return what became of each stream's frames, and of the messages.

        Lost is what was dropped, and what waits nowhere; statuses are not counted, as the next start sends new ones.
        """
        state = self._publisher.outbox()
        copied, without = self._outbox.left_in_memory()
        return {
            "boot": self._boot,
            "streams": {name: each.summary() for name, each in self._pipeline.streams.items()},
            "messages_lost": state.dropped + without,
            "messages_kept": state.disk_messages + copied,
        }

    def on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a handler's signature
        """Take SIGTERM, SIGINT (stop) or SIGHUP (reload); the next tick sees it."""
        # This runs in the midst of whatever the main thread does: a lock that it holds would be waited for without end.
        if number == signal.SIGHUP:
            self._reload_asked = True
        else:
            self._stop_signal = number

    @property
    def config(self) -> Config:
        """What runs now; commands may have changed it since it was read."""
        return self._config

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    @property
    def board(self) -> BoardMonitor:
        return self._board

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self._pipeline.models

    @property
    def board_state(self) -> BoardState:
        return self._board.state

    @property
    def is_falling_back(self) -> bool:
        """Whether a crash loop has something else serve than what is wanted."""
        return self._crash_loop is not None

    @property
    def folder(self) -> Path:
        """Where relative paths of the configuration start."""
        return self._config_path.parent.resolve()

    def restart(self) -> None:
        """End in peace with the exit code that asks to be started again."""
        self._is_to_restart = True

    def _note_start(self) -> None:
        """Keep what this start has come to; once it has served for long enough, the loop is over."""
        engines = {name: model.engine.label for name, model in self._pipeline.models.items()}
        if self._starts.look(engines) and self._crash_loop is not None:
            told = f"the daemon has served for {HEALTHY_UPTIME_S:g} s"
            self._say.alarm(self._say.alarms.cleared("crash_loop", told))

    def _decided(self, decision: Decision) -> None:
        """Let batches be as the governor wants them."""
        for model in self._pipeline.models.values():
            wait_ms = model.settings.max_wait_ms if decision.max_wait_ms is None else decision.max_wait_ms
            model.batcher.limit(decision.max_batch or model.max_batch, wait_ms)
        self._say.decision(decision)

    def _profile(self) -> Profile | None:
        """Return what `edge tune` measured here, of the first model of which there is something."""
        profiles = (model.profile for model in self._pipeline.models.values())
        return next((each for each in profiles if each is not None), None)

    def _serve(self) -> None:
        """Tick until it is time to stop; no blocking I/O here but what a reload needs."""
        watchdog_s = watchdog_period_s()
        ping_s = watchdog_s / 2 if watchdog_s else None
        telemetry_due_ns = now_ns() + int(self._config.telemetry.period_s * 1e9)
        ping_due_ns = now_ns()
        while not self._is_over():
            self._wake.wait(END_POLL_S)
            self._wake.clear()
            self._look_at_board()
            self._note_start()
            self._pipeline.recover_engines()
            self._remote.look()
            if self._reload_asked:
                self._reload_asked = False
                with contextlib.suppress(EdgeError):  # which is in the log
                    self.reload()
            if ping_s is not None and now_ns() >= ping_due_ns:
                ping_due_ns = now_ns() + int(ping_s * 1e9)
                self._ping_watchdog()
            if now_ns() >= telemetry_due_ns:
                telemetry_due_ns = max(telemetry_due_ns + int(self._config.telemetry.period_s * 1e9), now_ns())
                self._publish_telemetry()

    def _ping_watchdog(self) -> None:
        """Tell systemd that all is well only where every lane has moved on."""
        stuck = self._pipeline.stuck_lanes()
        if stuck:
            log.error("no progress since the last tick: %s", ", ".join(stuck))
        else:
            self._notifier.watchdog_ping()

    def reload(self) -> None:
        """Read the configuration again and go over to it; a bad one is refused, and the old one runs on."""
        self._notifier.reloading()
        try:
            config = load_config(self._config_path)
            for table in FIXED_TABLES:
                if getattr(config, table) != getattr(self._config, table):
                    raise ConfigError(f"[{table}] has changed, which takes a restart of the daemon")
            self.go_over(config)
            self._stays = False
        except EdgeError as error:
            log.error("the new configuration is refused and the old one runs on: %s", error)  # noqa: TRY400 -- for users
            raise
        finally:
            self._notifier.ready()
        log.info("configuration reloaded: %d streams", len(self._pipeline.streams))

    def go_over(self, config: Config) -> None:
        """Go over to another configuration; raise EdgeError, with everything as it was, where it cannot be served."""
        self._notifier.watchdog_ping()  # opening a model may take long
        self._pipeline.change(config)
        before, self._config = self._config.streams, config
        self._stays |= any(each.enabled and not _runs(config.streams.get(name)) for name, each in before.items())
        self._say.drop_settled_builds()
        self._tell_off(before)
        for name in before.keys() - config.streams.keys():
            self._say.stream_gone(name)
            self._remote.forget(name)
        self._say.status("online")

    def _tell_off(self, before: Mapping[str, StreamSettings]) -> None:
        """Tell of streams that are off now, but of none that was so before."""
        for name, settings in self._config.streams.items():
            if not settings.enabled and (name not in before or before[name].enabled):
                self._say.stream_status(name, "off", "switched off", settings)

    def _is_over(self) -> bool:
        """Tell whether it is time to stop: asked to, every source has ended, or only a new process can go on."""
        has_ended = self._pipeline.has_ended and not self._stays
        return self._is_hurried or has_ended or self._pipeline.lost is not None

    @property
    def _is_hurried(self) -> bool:
        """Whether somebody waits for the daemon's end."""
        return self._stop_signal is not None or self._is_to_restart

    def _look_at_board(self) -> None:
        """Take over the board's state; a new power mode is told in the status too."""
        before = self._board.state.power_mode
        self._board.look()
        if self._board.state.power_mode != before:
            self._say.status("online")

    def _stop(self) -> None:
        """End everything, within `EXIT_S` of a signal, and tell what was lost."""
        start_ns = now_ns()
        self._notifier.stopping()
        self._remote.close()
        self._pipeline.stop()
        self._publish_telemetry()
        self._exporter.stop()
        self._say.status("stopped")
        # When the sources have ended by themselves, what waits on disk from before is sent too.
        self._publisher.finish(FLUSH_S, backlog=not self._is_hurried)
        self._board.stop()
        hurried_ns = self._send_the_rest(start_ns)
        self._keep_the_rest(EXIT_S - (now_ns() - hurried_ns) / 1e9)

    def _send_the_rest(self, start_ns: int) -> int:
        """Wait until everything is sent, for so long as may be; return since when somebody waits for the end."""
        was_hurried = self._is_hurried
        while not self._publisher.join(END_POLL_S):
            if self._is_hurried and not was_hurried:
                was_hurried, start_ns = True, now_ns()
                self._publisher.finish(FLUSH_S, backlog=False)
            if (now_ns() - start_ns) / 1e9 >= (SEND_S if was_hurried else FLUSH_S):
                self._publisher.finish(0)  # what is on its way without an acknowledgement goes to the disk too
                self._publisher.join(END_POLL_S)
                break
        return start_ns

    def _keep_the_rest(self, timeout_s: float) -> None:
        """Bring what was not acknowledged to the disk, and tell what is kept and what is lost."""
        in_time = self._shelving.close(timeout_s if self._stop_signal is not None else EXIT_S)
        copied, without = self._outbox.left_in_memory()
        shown, on_disk = self._config.mqtt.shown, self._publisher.outbox().disk_messages
        if on_disk:
            log.warning("%d messages were not acknowledged by broker %s: they wait on disk", on_disk, shown)
        if copied:
            log.warning("%d messages are not on disk: they wait in memory, for the next start or a power cut", copied)
        if without:
            log.warning("%d messages were not acknowledged by broker %s and are lost", without, shown)
        if in_time:  # else the disk hangs, and its thread may still come to take copies away
            self._outbox.close_journal()

    def _acknowledged(self, message: Message, at_ns: int) -> None:
        stream = self._pipeline.streams.get(message.stream or "")
        if stream is not None:
            stream.meter.acknowledged((at_ns - message.decoded_ns) / 1e6, (at_ns - message.captured_ns) / 1e6)

    def _publish(self, message: Message) -> None:
        self._publisher.put(message)

    def _publish_telemetry(self) -> None:
        streams = {name: stream.meter for name, stream in self._pipeline.streams.items()}
        models = {name: (model.engine.label, model.meter) for name, model in self._pipeline.models.items()}
        body = self._telemetry.take(streams, models, self._board.read, self._publisher.outbox())
        if (commands := self._remote.counts()) is not None:
            body["commands"] = commands
        meters = {name: meter for name, (_, meter) in models.items()}
        standing, is_connected = self._say.alarms.standing(), self._publisher.connected
        self._exporter.take(body, streams, meters, standing, is_connected=is_connected)
        self._say.energy_j = {name: each["energy_j_per_image"] for name, each in body["models"].items()}
        expiry_s = round(self._config.telemetry.expiry_s)
        self._publisher.put(Message(self._topics.telemetry, to_json(body), kind="telemetry", expiry_s=expiry_s))
        self._board.steer(self._pipeline.streams.values(), body["period_s"])
        rate = sum(each["results_per_s"] or 0.0 for each in body["streams"].values())
        running = sum(stream.state == "running" for stream in self._pipeline.streams.values())
        self._notifier.status(f"{running} of {len(streams)} streams run, {rate:.1f} results/s")


def _fallback(loop: CrashLoop | None) -> Fallback | None:
    """Return what serves in a crash loop."""
    if loop is None:
        return None
    told = f"{loop.told}; a restart tries the wanted engine again (systemctl restart edge)"
    return Fallback(told, loop.tried, loop.engines)


def _runs(settings: StreamSettings | None) -> bool:
    return settings is not None and settings.enabled


def run(config_path: Path, state_dir: Path | None = None, *, force: bool = False) -> tuple[int, dict[str, Any]]:
    """Run the daemon with the configuration at `config_path`; return the exit code and a summary of the run.

    With `force`, INT8 that is asked for serves without the proof that it agrees.
    """
    config = load_config(config_path)
    state_dir = state_dir or default_state_dir(config.device.state_dir)
    with state_lock(state_dir):
        daemon = Daemon(config_path, config, state_dir, force=force)
        with signal_handler(daemon.on_signal, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)):
            return (daemon.run(), daemon.summary()) if daemon.wait_out_crash_loop() else (0, {})


def freeze_startup_objects() -> None:
    """Keep the garbage collector from walking the modules' hundred thousands of objects again and again."""
    gc.collect()
    gc.freeze()
