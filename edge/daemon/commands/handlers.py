"""Handlers of the commands."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edge.core.clock import now_ns
from edge.core.config import CommandName, Config, Name, StreamSettings
from edge.core.errors import EdgeError
from edge.core.records import Message
from edge.core.validation import as_table
from edge.daemon.board_monitor import BoardMonitor
from edge.daemon.commands.arguments import CommandError, LogLevelArgs, NoArgs, PowerModeArgs, StreamAddArgs, StreamArgs
from edge.daemon.commands.dispatcher import CommandHandler, Outcome, OutcomeCallback
from edge.daemon.commands.snapshots import Snapshots
from edge.mqtt.topics import Topics
from edge.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)

MOST_STREAMS = 64
# With the unit's RestartSec=, ten starts then take longer than its StartLimitIntervalSec=, past which systemd gives up.
RESTART_AFTER_S = 15
LASTS = "until the daemon restarts or reloads its configuration"


class DaemonControl(Protocol):
    """Controls of the daemon that commands use, from its main thread."""

    @property
    def config(self) -> Config:
        """Configuration in effect."""

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def board_monitor(self) -> BoardMonitor: ...

    def reload(self) -> None:
        """Apply the configuration file again; raise EdgeError where it is refused."""

    def apply(self, config: Config) -> None:
        """Apply another configuration; raise EdgeError, with everything as it was, where it is refused."""

    def restart(self) -> None:
        """Stop in order, to be started again."""

    @property
    def folder(self) -> Path:
        """Directory that relative paths of the configuration start from."""


class CommandHandlers:
    """The handlers by name; what takes time is answered later."""

    def __init__(
        self, daemon: DaemonControl, topics: Topics, publish: Callable[[Message], None], wake: Callable[[], None]
    ) -> None:
        self._daemon = daemon
        self._wake = wake
        self._started_ns = now_ns()
        self._snapshots = Snapshots(topics, publish, wake)
        self.by_name: Mapping[CommandName, CommandHandler] = {
            "power_mode": self._power_mode,
            "reload": self._reload,
            "stream_on": self._stream_on,
            "stream_off": self._stream_off,
            "stream_add": self._stream_add,
            "stream_remove": self._stream_remove,
            "snapshot": self._snapshot,
            "log_level": self._log_level,
            "restart": self._restart,
        }

    def tick(self) -> None:
        """Finish what was waiting."""
        self._snapshots.tick()

    def _power_mode(self, args: PowerModeArgs, finish: OutcomeCallback) -> None:
        def on_mode(mode: str | EdgeError) -> None:
            is_set = isinstance(mode, str)
            finish(Outcome({"power_mode": mode}) if is_set else Outcome(reason=str(mode)))
            self._wake()

        self._daemon.board_monitor.ask_power_mode(args.mode, on_mode)

    def _reload(self, _args: NoArgs, finish: OutcomeCallback) -> None:
        self._daemon.reload()
        finish(Outcome({"streams": sorted(self._daemon.pipeline.streams)}))

    def _stream_on(self, args: StreamArgs, finish: OutcomeCallback) -> None:
        self._switch(args.stream, enabled=True)
        finish(Outcome({"stream": args.stream, "enabled": True, "lasts": LASTS}))

    def _stream_off(self, args: StreamArgs, finish: OutcomeCallback) -> None:
        self._switch(args.stream, enabled=False)
        finish(Outcome({"stream": args.stream, "enabled": False, "lasts": LASTS}))

    def _switch(self, name: Name, *, enabled: bool) -> None:
        settings = self._settings(name)
        if settings.enabled != enabled:
            self._apply({name: settings.model_copy(update={"enabled": enabled})})

    def _stream_add(self, args: StreamAddArgs, finish: OutcomeCallback) -> None:
        streams, models = self._daemon.config.streams, self._daemon.config.models
        if args.stream in streams:
            raise CommandError(f"stream {args.stream} exists already; remove it first, or choose another name")
        if len(streams) >= MOST_STREAMS:
            raise CommandError(f"there are already {len(streams)} streams, the limit for commands; remove one first")
        place = f"settings of stream {args.stream}"
        if "password_file" in args.settings:  # it would send any file of this device to a camera of the sender's
            raise CommandError(f"{place}: password_file is not accepted; add the stream to the configuration file")
        settings = as_table(args.settings, StreamSettings, CommandError, place, self._daemon.folder)
        path = Path(settings.source.location)
        # A pipe that nobody writes to blocks its reader for ever: each such stream would leave a thread behind.
        if settings.source.scheme == "file" and not path.is_file() and not path.is_dir():
            found = "is a pipe or device" if path.exists() else "does not exist"
            raise CommandError(f"{place}: source: {settings.source.shown} {found}, wanted a file or folder of images")
        if settings.model not in models:
            raise CommandError(f"{place}: model: found {settings.model!r}, wanted one of {', '.join(models) or 'none'}")
        self._apply({args.stream: settings})
        finish(Outcome({"stream": args.stream, "enabled": settings.enabled, "lasts": LASTS}))

    def _stream_remove(self, args: StreamArgs, finish: OutcomeCallback) -> None:
        self._settings(args.stream)
        self._apply({args.stream: None})
        finish(Outcome({"stream": args.stream, "lasts": LASTS}))

    def _apply(self, changed: Mapping[Name, StreamSettings | None]) -> None:
        """Change some streams, and remove those of None."""
        config = self._daemon.config
        streams = {name: each for name, each in (config.streams | dict(changed)).items() if each is not None}
        self._daemon.apply(config.model_copy(update={"streams": streams}))

    def _settings(self, name: Name) -> StreamSettings:
        streams = self._daemon.config.streams
        if name not in streams:
            raise CommandError(f"stream {name!r} does not exist; wanted one of {', '.join(streams) or 'none: add one'}")
        return streams[name]

    def _snapshot(self, args: StreamArgs, finish: OutcomeCallback) -> None:
        self._settings(args.stream)
        stream = self._daemon.pipeline.streams.get(args.stream)
        if stream is None:
            raise CommandError(f"stream {args.stream} is off; switch it on first")
        self._snapshots.ask(stream, finish)

    def _log_level(self, args: LogLevelArgs, finish: OutcomeCallback) -> None:
        logging.getLogger().setLevel(args.level.upper())
        finish(Outcome({"level": args.level, "lasts": "until the daemon restarts"}))

    def _restart(self, _args: NoArgs, finish: OutcomeCallback) -> None:
        run_s = (now_ns() - self._started_ns) / 1e9
        if run_s < RESTART_AFTER_S:
            why = "as systemd gives up on a service that restarts too often; send it again then"
            finish(Outcome(reason=f"the daemon has run for {run_s:.0f} s, wanted {RESTART_AFTER_S} s or more, {why}"))
            return
        finish(Outcome({}))
        self._daemon.restart()
