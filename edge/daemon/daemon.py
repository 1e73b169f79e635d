"""Daemon life cycle: start, ready, tick (watchdog, telemetry), reload, stop."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import threading
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from time import sleep
from types import FrameType
from typing import Any

from edge.core.clock import now_ns
from edge.core.config import Config, StreamSettings, load_config
from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.process import signal_handler
from edge.core.records import BoardState, Message
from edge.core.state_dir import find_state_dir, state_lock
from edge.core.tuned_profile import TunedProfile
from edge.daemon.board_monitor import BoardMonitor
from edge.daemon.commands.service import CommandService
from edge.daemon.event_publisher import EventPublisher
from edge.daemon.homeassistant.discovery import DeviceIdentity
from edge.daemon.prometheus.exporter import Exporter
from edge.daemon.retained_record import RetainedRecord
from edge.daemon.start_history import HEALTHY_UPTIME_S, CrashLoop, StartHistory
from edge.daemon.telemetry import Telemetry
from edge.host.board import board_name, machine_identity, manufacturer
from edge.host.systemd import Notifier, watchdog_period_s
from edge.inference.engine_provider import EngineEnvironment, Fallback
from edge.mqtt.encode import MessageHead, to_json
from edge.mqtt.outbox import open_outbox
from edge.mqtt.publisher import Publisher
from edge.mqtt.topics import Topics
from edge.pipeline.pipeline import Pipeline
from edge.pipeline.served_model import ServedModel
from edge.power.controller import PowerPolicy
from edge.power.governor import Decision

log = logging.getLogger(__name__)

# Asks the service manager for a restart.
RESTART_EXIT = 3
# From a signal to the exit: the pipeline may take 4 s, and the outbox has the rest for its disk.
SEND_S = 4.3
EXIT_S = 4.8
# When the sources have ended by themselves, nobody waits: a slow broker gets more time for the rest.
FLUSH_S = 30.0
# Interval of checks for signals and for the end of every source.
END_POLL_S = 0.1
# Start time-out of the unit, to which a pause before the start is added.
START_S = 300.0
# Tables whose change requires a restart.
FIXED_TABLES = ("device", "mqtt", "outbox", "engines", "accuracy", "governor", "commands", "homeassistant", "http")


class Daemon:
    """One run of the daemon; see `run`."""

    def __init__(self, config_path: Path, config: Config, state_dir: Path, *, force: bool = False) -> None:
        self._config_path = config_path
        self._config = config
        self._notifier = Notifier()
        self._start_history = StartHistory(state_dir, restarted=self._notifier.is_heard)
        self._crash_loop = self._start_history.crash_loop()
        fallback = _fallback(self._crash_loop)
        self._environment = EngineEnvironment(state_dir, board_name(), config.engines, force, fallback)
        self._boot = uuid.uuid4().hex
        self._topics = Topics(config.mqtt.prefix, config.device.name)
        self._head = MessageHead(config.device.name, self._boot)
        self._events = EventPublisher(self, self._topics, self._head, self._publish)
        policy = PowerPolicy(config.device.power_mode, config.governor)
        self._board_monitor = BoardMonitor(policy, self._events.alarms, self._events.alarm, self._on_decision)
        self._wake = threading.Event()
        self._stop_signal: int | None = None
        self._reload_requested = False
        self._restart_requested = False
        self._outlives_sources = False  # a command has switched streams off: keep running when the others end
        self._commands = CommandService(config, self._topics, self._head, state_dir, self._publish, self._wake.set)
        self._events.on_result = self._commands.note_result
        self._outbox, self._spooler = open_outbox(
            config.mqtt, config.outbox, config.device.name, state_dir, self._events.outbox
        )
        self._publisher = Publisher(
            config.mqtt,
            config.mqtt.client_id_of(config.device.name),
            self._events.last_will(),
            self._outbox,
            self._on_acknowledged,
            self._commands.subscriptions,
            self._commands.inbox.put,
        )
        self._exporter = Exporter()
        self._retained_record = RetainedRecord(state_dir, machine_identity(), config.mqtt.shown)
        self._pipeline: Pipeline  # from `_open` on, as the next
        self._telemetry: Telemetry
        self.on_status: Callable[[str], None] = self._notifier.status  # a sentence a period for whoever looks
        self.summary: dict[str, Any] = {}  # of the frames and messages; empty until the daemon has stopped

    # Life cycle

    def run(self) -> int:
        """Serve until every source has ended or a signal comes; return the exit code.

        Raises GpuLostError, with everything flushed, where only a new process can continue.
        """
        self._start_history.begin()
        self._wait_out_crash_loop()
        if self._stop_signal is not None:
            self._start_history.end("clean")
            self._outbox.close_journal()
            return 0
        self._open()
        try:
            self._start()
            self._serve()
        except EdgeError:
            raise
        except Exception:  # logged before the stop, which may fail for the same reason
            log.critical("unexpected failure; the daemon stops", exc_info=True)
            raise
        finally:
            self._stop()
        return self._finish()

    def _wait_out_crash_loop(self) -> None:
        """Pause if the last starts ended badly, until a stop signal arrives."""
        if (loop := self._crash_loop) is None:
            return
        log.error("%s; waiting %g s before this start", loop.reason, loop.pause_s)
        self._notifier.extend_start(loop.pause_s + START_S)
        self._notifier.status(f"waiting {loop.pause_s:g} s: {loop.reason}")
        until_ns = now_ns() + int(loop.pause_s * 1e9)
        while self._stop_signal is None and now_ns() < until_ns:
            sleep(END_POLL_S)

    def _open(self) -> None:
        """Open the models, and start the messaging threads; raise EdgeError if the configuration cannot be served."""
        try:
            self._pipeline = Pipeline(self._config, self._events, self._environment)
        except (ConfigError, ModelError):  # for a person to fix: a restart would not help
            self._start_history.end("clean")
            raise
        freeze_startup_objects()
        self._board_monitor.start(self._profile())
        self._telemetry = Telemetry(self._head)
        self._spooler.start()
        self._publisher.start()
        self._exporter.start(self._config.http)

    def _start(self) -> None:
        """Start the streams, accept commands, and report that the daemon is ready."""
        self._clear_former()
        self._events.status("online")
        self._pipeline.start()
        self._announce_disabled({})
        identity = DeviceIdentity(board_name(), manufacturer(), self._exporter.link)
        self._commands.start(self, identity, self._retained_record)
        self._notifier.ready()
        if self._crash_loop is not None:
            self._events.crash_loop(self._crash_loop.reason)
        if not self._pipeline.streams:
            log.warning("no [streams.NAME] is enabled in %s: nothing to do until a reload", self._config_path)
        log.info("%d streams run as boot %s", len(self._pipeline.streams), self._boot)

    def _serve(self) -> None:
        """Tick until it is time to stop; no blocking I/O here except what a reload needs."""
        watchdog_s = watchdog_period_s()
        ping_s = watchdog_s / 2 if watchdog_s else None
        telemetry_due_ns = now_ns() + int(self._config.telemetry.period_s * 1e9)
        ping_due_ns = now_ns()
        while not self._is_over():
            self._wake.wait(END_POLL_S)
            self._wake.clear()
            self._tick()
            if ping_s is not None and now_ns() >= ping_due_ns:
                ping_due_ns = now_ns() + int(ping_s * 1e9)
                self._ping_watchdog()
            if now_ns() >= telemetry_due_ns:
                telemetry_due_ns = max(telemetry_due_ns + int(self._config.telemetry.period_s * 1e9), now_ns())
                self._publish_telemetry()

    def _tick(self) -> None:
        self._update_board()
        self._update_start_history()
        self._retained_record.update(self._retained_topics() | self._outbox.retained_topics())
        self._pipeline.recover_engines()
        self._pipeline.check_outputs()
        self._commands.tick()
        if self._reload_requested:
            self._reload_requested = False
            with contextlib.suppress(EdgeError):  # already logged
                self.reload()

    def _is_over(self) -> bool:
        """Return whether to stop: on request, after every source has ended, or because the GPU was lost."""
        has_ended = self._pipeline.has_ended and not self._outlives_sources
        return self._is_hurried or has_ended or self._pipeline.lost is not None

    @property
    def _is_hurried(self) -> bool:
        """True once somebody waits for the daemon to end."""
        return self._stop_signal is not None or self._restart_requested

    def _stop(self) -> None:
        """Stop everything, within `EXIT_S` of a signal, and report what was lost."""
        start_ns = now_ns()
        self._notifier.stopping()
        self._commands.close()
        self._pipeline.stop()
        self._publish_telemetry()
        self._exporter.stop()
        self._events.status("stopped")
        # When the sources have ended by themselves, the backlog on disk is sent too.
        self._publisher.finish(FLUSH_S, backlog=not self._is_hurried)
        self._board_monitor.stop()
        hurried_ns = self._flush(start_ns)
        self._keep_unsent(EXIT_S - (now_ns() - hurried_ns) / 1e9)
        self.summary = self._summarize()

    def _flush(self, start_ns: int) -> int:
        """Wait until everything is sent, within the limits; return since when somebody waits for the end."""
        was_hurried = self._is_hurried
        while not self._publisher.join(END_POLL_S):
            if self._is_hurried and not was_hurried:
                was_hurried, start_ns = True, now_ns()
                self._publisher.finish(FLUSH_S, backlog=False)
            if (now_ns() - start_ns) / 1e9 >= (SEND_S if was_hurried else FLUSH_S):
                self._publisher.finish(0)  # what is in flight without an acknowledgement goes to the disk too
                self._publisher.join(END_POLL_S)
                break
        return start_ns

    def _keep_unsent(self, timeout_s: float) -> None:
        """Write what was not acknowledged to the disk, and log what is kept and what is lost."""
        in_time = self._spooler.close(timeout_s if self._stop_signal is not None else EXIT_S)
        with_copy, without_copy = self._outbox.left_in_memory()
        shown, on_disk = self._config.mqtt.shown, self._publisher.outbox().disk_messages
        if on_disk:
            log.warning("%d messages were not acknowledged by broker %s and are kept on disk", on_disk, shown)
        if with_copy:
            log.warning(
                "%d messages are in the memory journal alone: sent after the next start, lost if power fails", with_copy
            )
        if without_copy:
            log.warning("%d messages were not acknowledged by broker %s and are lost", without_copy, shown)
        if in_time:  # else the disk hangs, and its thread may still remove copies later
            self._outbox.close_journal()

    def _finish(self) -> int:
        """Record how the run ended; return the exit code, or raise what made it end."""
        lost = self._pipeline.lost
        self._start_history.end("clean" if lost is None else "lost")
        if lost is not None:
            raise lost
        if self._restart_requested:
            return RESTART_EXIT
        failed = any(stream.state == "failed" for stream in self._pipeline.streams.values())
        return 1 if failed and self._stop_signal is None else 0

    def _summarize(self) -> dict[str, Any]:
        """Return what became of each stream's frames, and of the messages.

        Lost means dropped, or neither sent nor stored; statuses do not count, as the next start sends new ones.
        """
        state = self._publisher.outbox()
        with_copy, without_copy = self._outbox.left_in_memory()
        return {
            "boot": self._boot,
            "streams": {name: each.summary() for name, each in self._pipeline.streams.items()},
            "messages_lost": state.dropped + without_copy,
            "messages_kept": state.disk_messages + with_copy,
        }

    # For signals, commands and events

    def on_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 -- a handler's signature
        """Record SIGTERM, SIGINT (stop) or SIGHUP (reload) for the next tick."""
        # This interrupts the main thread anywhere: waiting for a lock that it holds would never end.
        if number == signal.SIGHUP:
            self._reload_requested = True
        else:
            self._stop_signal = number

    @property
    def config(self) -> Config:
        """Configuration in effect; commands may have changed it since it was read."""
        return self._config

    @property
    def pipeline(self) -> Pipeline:
        return self._pipeline

    @property
    def board_monitor(self) -> BoardMonitor:
        return self._board_monitor

    @property
    def models(self) -> Mapping[str, ServedModel]:
        return self._pipeline.models

    @property
    def board_state(self) -> BoardState:
        return self._board_monitor.state

    @property
    def is_falling_back(self) -> bool:
        """True if a crash loop has other engines serve than the configured ones."""
        return self._crash_loop is not None

    @property
    def folder(self) -> Path:
        """Directory that relative paths of the configuration start from."""
        return self._config_path.parent.resolve()

    def restart(self) -> None:
        """Stop in order, with the exit code that asks for a restart."""
        self._restart_requested = True

    def reload(self) -> None:
        """Read the configuration again and apply it; a bad one is refused, and the old one stays in effect."""
        self._notifier.reloading()
        try:
            config = load_config(self._config_path)
            for table in FIXED_TABLES:
                if getattr(config, table) != getattr(self._config, table):
                    raise ConfigError(f"[{table}] has changed, which requires a restart of the daemon")
            self.apply(config)
            self._outlives_sources = False
        except EdgeError as error:
            log.error("the new configuration is refused and the old one stays in effect: %s", error)  # noqa: TRY400 -- for users
            raise
        finally:
            self._notifier.ready()
        log.info("configuration reloaded: %d streams", len(self._pipeline.streams))

    def apply(self, config: Config) -> None:
        """Apply another configuration; raise EdgeError, with everything as it was, where it cannot be served."""
        self._notifier.watchdog_ping()  # opening a model may take long
        self._pipeline.change(config)
        before, self._config = self._config.streams, config
        self._retained_record.add(self._retained_topics())
        self._outlives_sources |= any(
            each.enabled and not _is_enabled(config.streams.get(name)) for name, each in before.items()
        )
        self._events.drop_settled_builds()
        self._announce_disabled(before)
        for name in before.keys() - config.streams.keys():
            self._events.stream_gone(name)
            self._commands.forget(name)
        self._events.status("online")

    def _clear_former(self) -> None:
        """Clear what earlier starts left retained at this broker, and this one has not: streams, names, entities."""
        expected = self._retained_topics()
        for topic in self._retained_record.stale(expected):
            log.info("%s is cleared: an earlier start left a retained message there", topic)
            self._publish(Message(topic, b"", retain=True))
        self._retained_record.add(expected)

    def _retained_topics(self) -> set[str]:
        """Return the topics of the retained messages of this configuration."""
        streams = self._config.streams
        own = {self._topics.status, *map(self._topics.stream_status, streams)}
        return own | self._commands.retained_topics(streams)

    def _announce_disabled(self, before: Mapping[str, StreamSettings]) -> None:
        """Publish the status of streams that are off now and were not off before."""
        for name, settings in self._config.streams.items():
            if not settings.enabled and (name not in before or before[name].enabled):
                self._events.stream_status(name, "off", "switched off", settings)

    def _profile(self) -> TunedProfile | None:
        """Return what `edge tune` measured here, of the first model that has a profile."""
        profiles = (model.profile for model in self._pipeline.models.values())
        return next((each for each in profiles if each is not None), None)

    def _on_decision(self, decision: Decision) -> None:
        """Apply the governor's limits to the batches of every model."""
        for model in self._pipeline.models.values():
            wait_ms = model.settings.max_wait_ms if decision.max_wait_ms is None else decision.max_wait_ms
            model.batcher.limit(decision.max_batch or model.max_batch, wait_ms)
        self._events.decision(decision)

    def _on_acknowledged(self, message: Message, at_ns: int) -> None:
        stream = self._pipeline.streams.get(message.stream or "")
        if stream is not None:
            stream.meter.acknowledged((at_ns - message.decoded_ns) / 1e6, (at_ns - message.captured_ns) / 1e6)

    def _publish(self, message: Message) -> None:
        self._publisher.put(message)

    # Of a tick

    def _update_board(self) -> None:
        """Update the board's state; publish a new power mode in the status too."""
        before = self._board_monitor.state.power_mode
        self._board_monitor.update()
        if self._board_monitor.state.power_mode != before:
            self._events.status("online")

    def _update_start_history(self) -> None:
        """Record the engines of this start; once it is healthy, the crash loop is over."""
        engines = {name: model.engine.label for name, model in self._pipeline.models.items()}
        if self._start_history.update(engines) and self._crash_loop is not None:
            reason = f"the daemon has served for {HEALTHY_UPTIME_S:g} s"
            self._events.alarm(self._events.alarms.clear("crash_loop", reason))

    def _ping_watchdog(self) -> None:
        """Ping systemd's watchdog only if every lane has progressed."""
        stuck = self._pipeline.stuck_lanes()
        if stuck:
            log.error("no progress since the last watchdog ping: %s", ", ".join(stuck))
        else:
            self._notifier.watchdog_ping()

    def _publish_telemetry(self) -> None:
        streams = {name: stream.meter for name, stream in self._pipeline.streams.items()}
        models = {name: (model.engine.label, model.meter) for name, model in self._pipeline.models.items()}
        body = self._telemetry.report(streams, models, self._board_monitor.read, self._publisher.outbox())
        if (commands := self._commands.counts()) is not None:
            body["commands"] = commands
        meters = {name: meter for name, (_, meter) in models.items()}
        standing, is_connected = self._events.alarms.standing(), self._publisher.connected
        self._exporter.update(body, streams, meters, standing, is_connected=is_connected)
        self._events.energy_j = {name: each["energy_j_per_image"] for name, each in body["models"].items()}
        expiry_s = round(self._config.telemetry.expiry_s)
        self._publisher.put(Message(self._topics.telemetry, to_json(body), kind="telemetry", expiry_s=expiry_s))
        self._board_monitor.govern(self._pipeline.streams.values(), body["period_s"])
        rate = sum(each["results_per_s"] or 0.0 for each in body["streams"].values())
        running = sum(stream.state == "running" for stream in self._pipeline.streams.values())
        self.on_status(f"{running} of {len(streams)} streams running, {rate:.1f} results/s")


def _fallback(loop: CrashLoop | None) -> Fallback | None:
    """Return the engines that serve in a crash loop."""
    if loop is None:
        return None
    reason = f"{loop.reason}; a restart tries the configured engine again (systemctl restart edge)"
    return Fallback(reason, loop.tried, loop.engines)


def _is_enabled(settings: StreamSettings | None) -> bool:
    return settings is not None and settings.enabled


def run(
    config_path: Path,
    state_dir: Path | None = None,
    *,
    force: bool = False,
    on_status: Callable[[str], None] | None = None,
) -> tuple[int, dict[str, Any]]:
    """Run the daemon with the configuration at `config_path`; return the exit code and a summary of the run.

    With `force`, INT8 serves even if its agreement with FP32 was never verified. `on_status` is given a
    sentence each telemetry period, in place of systemd. The process is expected to end then: its signals are ignored.
    """
    config = load_config(config_path)
    state_dir = find_state_dir(state_dir, config.device.state_dir)
    with state_lock(state_dir):
        daemon = Daemon(config_path, config, state_dir, force=force)
        daemon.on_status = on_status or daemon.on_status
        numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
        # What comes while the process ends would only cost it its output and its exit code.
        with signal_handler(daemon.on_signal, numbers, after=signal.SIG_IGN):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # they are blocked from the start of the command on
            return daemon.run(), daemon.summary


def freeze_startup_objects() -> None:
    """Exempt the modules' hundred thousands of objects from every later garbage collection."""
    gc.collect()
    gc.freeze()
