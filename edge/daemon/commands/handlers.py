"""What each command does to the daemon."""

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
from edge.daemon.commands.dispatcher import Effect, Outcome
from edge.daemon.commands.snapshots import SnapshotCallback, Snapshots
from edge.mqtt.topics import Topics
from edge.pipeline.pipeline import Pipeline

log = logging.getLogger(__name__)

MOST_STREAMS = 64
# With the unit's RestartSec=, ten starts then take longer than its StartLimitIntervalSec=, past which systemd gives up.
RESTART_AFTER_S = 15
LASTS = "until the daemon starts again or reloads its configuration"


class DaemonControl(Protocol):
    """What of the daemon commands can move; called from its main thread."""

    @property
    def config(self) -> Config:
        """What runs now."""

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def board(self) -> BoardMonitor: ...

    def reload(self) -> None:
        """Go over to what the configuration file says now; raise EdgeError where that is refused."""

    def go_over(self, config: Config) -> None:
        """Go over to another configuration; raise EdgeError, with everything as it was, where that is refused."""

    def restart(self) -> None:
        """End in peace, to be started again."""

    @property
    def folder(self) -> Path:
        """Where relative paths of the configuration start."""


class CommandHandlers:
    """The commands by name; what takes time is answered later."""

    def __init__(
        self, hands: DaemonControl, topics: Topics, publish: Callable[[Message], None], wake: Callable[[], None]
    ) -> None:
        self._hands = hands
        self._wake = wake
        self._started_ns = now_ns()
        self._snapshots = Snapshots(topics, publish, wake)
        self.by_name: Mapping[CommandName, Effect] = {
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

    def look(self) -> None:
        """Do what was waited for."""
        self._snapshots.look()

    def _power_mode(self, args: PowerModeArgs, told: SnapshotCallback) -> None:
        def mode_told(mode: str | EdgeError) -> None:
            is_set = isinstance(mode, str)
            told(Outcome({"power_mode": mode}) if is_set else Outcome(reason=str(mode)))
            self._wake()

        self._hands.board.ask_power_mode(args.mode, mode_told)

    def _reload(self, _args: NoArgs, told: SnapshotCallback) -> None:
        self._hands.reload()
        told(Outcome({"streams": sorted(self._hands.pipeline.streams)}))

    def _stream_on(self, args: StreamArgs, told: SnapshotCallback) -> None:
        self._switch(args.stream, enabled=True)
        told(Outcome({"stream": args.stream, "enabled": True, "lasts": LASTS}))

    def _stream_off(self, args: StreamArgs, told: SnapshotCallback) -> None:
        self._switch(args.stream, enabled=False)
        told(Outcome({"stream": args.stream, "enabled": False, "lasts": LASTS}))

    def _switch(self, name: Name, *, enabled: bool) -> None:
        settings = self._settings(name)
        if settings.enabled != enabled:
            self._go_over({name: settings.model_copy(update={"enabled": enabled})})

    def _stream_add(self, args: StreamAddArgs, told: SnapshotCallback) -> None:
        streams, models = self._hands.config.streams, self._hands.config.models
        if args.stream in streams:
            raise CommandError(f"stream {args.stream} exists already; remove it first, or choose another name")
        if len(streams) >= MOST_STREAMS:
            raise CommandError(f"there are {len(streams)} streams already, the most that commands may make; remove one")
        place = f"settings of stream {args.stream}"
        if "password_file" in args.settings:  # a camera of the sender's would be given any file of this device to read
            raise CommandError(f"{place}: password_file is not taken; put the stream into the configuration file")
        settings = as_table(args.settings, StreamSettings, CommandError, place, self._hands.folder)
        path = Path(settings.source.location)
        # A pipe that nobody writes to holds its reader for ever: each such stream would leave a thread behind.
        if settings.source.scheme == "file" and not path.is_file() and not path.is_dir():
            raise CommandError(f"{place}: source: {path} is a pipe or device, wanted a file or folder of images")
        if settings.model not in models:
            raise CommandError(f"{place}: model: found {settings.model!r}, wanted one of {', '.join(models) or 'none'}")
        self._go_over({args.stream: settings})
        told(Outcome({"stream": args.stream, "enabled": settings.enabled, "lasts": LASTS}))

    def _stream_remove(self, args: StreamArgs, told: SnapshotCallback) -> None:
        self._settings(args.stream)
        self._go_over({args.stream: None})
        told(Outcome({"stream": args.stream, "lasts": LASTS}))

    def _go_over(self, changed: Mapping[Name, StreamSettings | None]) -> None:
        """Have some streams changed, and those of None taken out."""
        config = self._hands.config
        streams = {name: each for name, each in (config.streams | dict(changed)).items() if each is not None}
        self._hands.go_over(config.model_copy(update={"streams": streams}))

    def _settings(self, name: Name) -> StreamSettings:
        streams = self._hands.config.streams
        if name not in streams:
            raise CommandError(f"stream {name!r} does not exist; wanted one of {', '.join(streams) or 'none: add one'}")
        return streams[name]

    def _snapshot(self, args: StreamArgs, told: SnapshotCallback) -> None:
        self._settings(args.stream)
        stream = self._hands.pipeline.streams.get(args.stream)
        if stream is None:
            raise CommandError(f"stream {args.stream} is off; switch it on first")
        self._snapshots.ask(stream, told)

    def _log_level(self, args: LogLevelArgs, told: SnapshotCallback) -> None:
        logging.getLogger().setLevel(args.level.upper())
        told(Outcome({"level": args.level, "lasts": "until the daemon starts again"}))

    def _restart(self, _args: NoArgs, told: SnapshotCallback) -> None:
        run_s = (now_ns() - self._started_ns) / 1e9
        if run_s < RESTART_AFTER_S:
            why = "as systemd gives up a service that is started too often; ask again then"
            told(Outcome(reason=f"the daemon runs for {run_s:.0f} s, wanted {RESTART_AFTER_S} s or more, {why}"))
            return
        told(Outcome({}))
        self._hands.restart()
