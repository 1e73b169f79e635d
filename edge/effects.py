"""What each command does to the daemon."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edge.annotate import as_jpeg, draw
from edge.board_watch import BoardWatch
from edge.clock import now_ns, utc_text
from edge.command_args import CommandError, LogLevelArgs, NoArgs, PowerModeArgs, StreamAddArgs, StreamArgs
from edge.commands import Effect, Outcome
from edge.config import CommandName, Config, Name, StreamSettings
from edge.errors import EdgeError
from edge.pipeline import Pipeline
from edge.records import Message, Result
from edge.settings import as_table
from edge.topics import Topics

log = logging.getLogger(__name__)

SNAPSHOT_S = 5.0  # how long a stream's next frame is waited for
SNAPSHOT_EXPIRY_S = 60
MOST_SNAPSHOTS = 8  # asked for and not taken yet
MOST_STREAMS = 64
LASTS = "until the daemon starts again or reloads its configuration"

Told = Callable[[Outcome], None]


class Hands(Protocol):
    """What of the daemon commands can move; called from its main thread."""

    @property
    def config(self) -> Config:
        """What runs now."""

    @property
    def pipeline(self) -> Pipeline: ...

    @property
    def board(self) -> BoardWatch: ...

    def reload(self) -> None:
        """Go over to what the configuration file says now; raise EdgeError where that is refused."""

    def go_over(self, config: Config) -> None:
        """Go over to another configuration; raise EdgeError, with everything as it was, where that is refused."""

    def restart(self) -> None:
        """End in peace, to be started again."""

    @property
    def folder(self) -> Path:
        """Where relative paths of the configuration start."""


@dataclass(frozen=True, slots=True)
class _Snapshot:
    """One that was asked for, until the stream gives a frame or the time is over."""

    stream: str
    due_ns: int
    told: Told


class Effects:
    """The commands by name; what takes time is told from `look`."""

    def __init__(
        self, hands: Hands, topics: Topics, publish: Callable[[Message], None], wake: Callable[[], None]
    ) -> None:
        self._hands = hands
        self._topics = topics
        self._publish = publish
        self._wake = wake
        self._asked: list[_Snapshot] = []
        self._pictures: deque[tuple[NDArray[np.uint8], Result]] = deque(maxlen=MOST_SNAPSHOTS)  # from the lanes
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
        """Send pictures that have come, and give up on those that do not come."""
        while self._pictures:
            picture, result = self._pictures.popleft()
            self._send_snapshot(picture, result)
        now = now_ns()
        late = [each for each in self._asked if each.due_ns <= now]
        self._asked = [each for each in self._asked if each.due_ns > now]
        for each in late:
            each.told(Outcome(reason=f"stream {each.stream} gave no frame in {SNAPSHOT_S:g} s; see its status"))

    def _power_mode(self, args: PowerModeArgs, told: Told) -> None:
        def mode_told(mode: str | EdgeError) -> None:
            is_set = isinstance(mode, str)
            told(Outcome({"power_mode": mode}) if is_set else Outcome(reason=str(mode)))
            self._wake()

        self._hands.board.ask_power_mode(args.mode, mode_told)

    def _reload(self, _args: NoArgs, told: Told) -> None:
        self._hands.reload()
        told(Outcome({"streams": sorted(self._hands.pipeline.streams)}))

    def _stream_on(self, args: StreamArgs, told: Told) -> None:
        self._switch(args.stream, enabled=True)
        told(Outcome({"stream": args.stream, "enabled": True, "lasts": LASTS}))

    def _stream_off(self, args: StreamArgs, told: Told) -> None:
        self._switch(args.stream, enabled=False)
        told(Outcome({"stream": args.stream, "enabled": False, "lasts": LASTS}))

    def _switch(self, name: Name, *, enabled: bool) -> None:
        settings = self._settings(name)
        if settings.enabled != enabled:
            self._go_over({name: settings.model_copy(update={"enabled": enabled})})

    def _stream_add(self, args: StreamAddArgs, told: Told) -> None:
        streams, models = self._hands.config.streams, self._hands.config.models
        if args.stream in streams:
            raise CommandError(f"stream {args.stream} exists already; remove it first, or choose another name")
        if len(streams) >= MOST_STREAMS:
            raise CommandError(f"there are {len(streams)} streams already, the most that commands may make; remove one")
        place = f"settings of stream {args.stream}"
        settings = as_table(args.settings, StreamSettings, CommandError, place, self._hands.folder)
        if settings.model not in models:
            raise CommandError(f"{place}: model: found {settings.model!r}, wanted one of {', '.join(models) or 'none'}")
        self._go_over({args.stream: settings})
        told(Outcome({"stream": args.stream, "enabled": settings.enabled, "lasts": LASTS}))

    def _stream_remove(self, args: StreamArgs, told: Told) -> None:
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

    def _snapshot(self, args: StreamArgs, told: Told) -> None:
        self._settings(args.stream)
        stream = self._hands.pipeline.streams.get(args.stream)
        if stream is None:
            raise CommandError(f"stream {args.stream} is off; switch it on first")
        if len(self._asked) >= MOST_SNAPSHOTS:
            raise CommandError(f"busy: {MOST_SNAPSHOTS} snapshots are asked for already; send it again later")
        self._asked.append(_Snapshot(args.stream, now_ns() + int(SNAPSHOT_S * 1e9), told))
        stream.ask_snapshot(self._take_picture)

    def _take_picture(self, picture: NDArray[np.uint8], result: Result) -> None:
        """Keep a picture for the main thread; called from a lane, which draws and encodes nothing."""
        self._pictures.append((picture, result))
        self._wake()

    def _send_snapshot(self, picture: NDArray[np.uint8], result: Result) -> None:
        """Publish a picture with what was found drawn in, then tell all who asked for one of this stream."""
        asked = [each for each in self._asked if each.stream == result.stream]
        self._asked = [each for each in self._asked if each.stream != result.stream]
        if not asked:
            return
        try:
            jpeg = as_jpeg(draw(picture, result.findings, result.labels))
        # What a decoder of the user's own found may be of any kind, and cannot always be drawn.
        except Exception as error:  # noqa: BLE001
            outcome = Outcome(reason=f"what was found cannot be drawn: {error}")
        else:
            topic = self._topics.snapshot(result.stream)
            message = Message(topic, jpeg, kind="answer", content_type="image/jpeg", expiry_s=SNAPSHOT_EXPIRY_S)
            self._publish(message)
            outcome = Outcome(_told_of(result, topic, len(jpeg)))
        for each in asked:
            each.told(outcome)

    def _log_level(self, args: LogLevelArgs, told: Told) -> None:
        logging.getLogger().setLevel(args.level.upper())
        told(Outcome({"level": args.level, "lasts": "until the daemon starts again"}))

    def _restart(self, _args: NoArgs, told: Told) -> None:
        told(Outcome({}))
        self._hands.restart()


def _told_of(result: Result, topic: str, size_bytes: int) -> dict[str, Any]:
    return {
        "stream": result.stream,
        "topic": topic,
        "bytes": size_bytes,
        "size": list(result.size_px),
        "frame": result.frame,
        "captured_at": utc_text(result.captured_at_ns),
    }
