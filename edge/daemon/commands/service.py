"""The daemon's way to be asked: commands and Home Assistant over MQTT, from the request to the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge import __version__
from edge.core.config import Config
from edge.core.records import CommandRequest, Message, Result
from edge.daemon.commands.audit_log import Audit, shown_args
from edge.daemon.commands.dispatcher import Answer, Dispatcher
from edge.daemon.commands.handlers import CommandHandlers, DaemonControl
from edge.daemon.commands.inbox import Inbox
from edge.daemon.homeassistant.discovery import Discovery, switched
from edge.daemon.homeassistant.publisher import Home
from edge.mqtt.encode import to_json
from edge.mqtt.topics import Topics

log = logging.getLogger(__name__)


class CommandService:
    """Takes requests from the publisher's thread and works on them at the daemon's ticks."""

    def __init__(
        self,
        config: Config,
        topics: Topics,
        head: dict[str, Any],
        state_dir: Path,
        publish: Callable[[Message], None],
        wake: Callable[[], None],
    ) -> None:
        """Take `head`, which every message begins with."""
        self._settings, self._topics, self._head, self._publish = config, topics, head, publish
        self._wake = wake
        self.inbox = Inbox(wake)
        self._audit = Audit(state_dir)
        self._commands: Dispatcher | None = None
        self._effects: CommandHandlers | None = None
        self._home: Home | None = None

    @property
    def subscriptions(self) -> list[str]:
        """What is listened to; nothing unless it is configured."""
        allow, home = self._settings.commands.allow, self._settings.homeassistant
        topics = [self._topics.commands] if allow else []
        if home.enabled:
            topics.append(f"{home.prefix}/status")
            if {"stream_on", "stream_off"} <= set(allow):
                topics.append(self._topics.switch("+"))
        return topics

    def start(self, hands: DaemonControl, board: str) -> None:
        """Begin to work on what comes."""
        effects = self._effects = CommandHandlers(hands, self._topics, self._publish, self._wake)
        self._commands = Dispatcher(self._settings.commands, self._head, effects.by_name, self._answer, self._record)
        if self._settings.homeassistant.enabled:
            discovery = Discovery(self._settings.homeassistant.prefix, self._topics, __version__, board)
            self._home = Home(discovery, hands, self._topics, self._head, self._publish)

    def look(self) -> None:
        """Work on one request, so that ticks stay short, and on what has come to its end."""
        if self._commands is None or self._effects is None:
            return
        try:
            if (taken := self.inbox.take()) is not None:
                self._wake()  # there may be more
                self._take(self._commands, *taken)
            self._effects.look()
        # Whatever a command stumbles over must not end the daemon that it was sent to.
        except Exception:
            log.exception("the work on commands failed unexpectedly")
        self._commands.settle()
        if self._home is not None:
            self._home.look()

    def result(self, result: Result) -> None:
        """Note the newest result of a stream; called from lanes."""
        if self._home is not None:
            self._home.newest[result.stream] = result

    def forget(self, stream: str) -> None:
        """Take away what the broker has retained of a stream that is gone."""
        if self._home is not None:
            self._home.forget(stream)

    def counts(self) -> dict[str, int] | None:
        """Return what became of the commands since the start; None where none is taken."""
        commands = self._commands
        if commands is None or not self._settings.commands.allow:
            return None
        return {"taken": commands.taken, "refused": commands.refused, "lost": self.inbox.lost}

    def close(self) -> None:
        """Answer what has not come to its end."""
        if self._commands is not None:
            self._commands.close()

    def _take(self, commands: Dispatcher, request: CommandRequest, has_room: bool) -> None:  # noqa: FBT001 -- as the inbox gives it
        if (name := self._topics.commanded(request.topic)) is not None:
            commands.take(name, request, has_room=has_room)
        elif (stream := self._topics.switched_stream(request.topic)) is not None:
            if (command := switched(request.body)) is not None:
                body = to_json({"args": {"stream": stream}})
                switch = CommandRequest(self._topics.command(command), body, request.retained)
                commands.take(command, switch, has_room=has_room)
        elif self._home is not None and request.topic == self._home.birth_topic and request.body == b"online":
            self._home.ask()

    def _answer(self, command: str, askers: list[CommandRequest], answer: Answer) -> None:
        """Send an answer to the command's topic, and to where each asker wants it."""
        body = to_json(answer)
        topic = self._topics.acknowledgement(command)
        correlation = askers[0].correlation if len(askers) == 1 else None
        self._publish(Message(topic, body, kind="answer", correlation=correlation))
        for asker in askers:
            wanted = asker.response_topic
            if wanted is None or wanted == topic:
                continue
            if self._topics.is_for_answers(wanted):
                self._publish(Message(wanted, body, kind="answer", correlation=asker.correlation))
            else:
                log.warning("command %s: no answer is sent to its response topic %r", command, wanted[:200])

    def _record(self, answer: Answer, args: Any) -> None:
        line = {key: answer[key] for key in ("at", "id", "command", "ok", "reason")}
        self._audit.write(line | {"args": shown_args(args)})
