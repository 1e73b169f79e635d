"""Command service: requests over MQTT, from commands and Home Assistant, and their answers."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from edge import __version__
from edge.core.config import Config
from edge.core.records import CommandRequest, Message, Result
from edge.daemon.commands.arguments import MOST_BYTES
from edge.daemon.commands.audit_log import AuditLog, shown_args
from edge.daemon.commands.dispatcher import Answer, Dispatcher
from edge.daemon.commands.handlers import CommandHandlers, DaemonControl
from edge.daemon.homeassistant.discovery import DeviceIdentity, Discovery, discovery_topic, switch_command
from edge.daemon.homeassistant.publisher import HomeAssistantPublisher
from edge.daemon.retained_record import RetainedRecord
from edge.mqtt.encode import MessageHead, to_json
from edge.mqtt.topics import Topics

log = logging.getLogger(__name__)

MOST_WAITING = 64  # requests that arrive between two ticks


class Inbox:
    """Queue of requests between two threads; when full, the newest are refused with an answer, then only counted."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self.lost = 0  # without even an answer
        self._wake = wake
        self._lock = threading.Lock()
        self._waiting: deque[CommandRequest] = deque()
        self._turned_away: deque[CommandRequest] = deque()

    def put(self, request: CommandRequest) -> None:
        """Queue a request; never waits."""
        if len(request.body) > MOST_BYTES:
            request = replace(request, body=request.body[: MOST_BYTES + 1])  # enough to refuse it by its length
        with self._lock:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(request)
            elif len(self._turned_away) < MOST_WAITING:
                self._turned_away.append(request)
            else:
                self.lost += 1
        self._wake()

    def pop(self) -> tuple[CommandRequest, bool] | None:
        """Return the next request and whether there was room for it; None if the queue is empty."""
        with self._lock:
            if self._waiting:
                return self._waiting.popleft(), True
            return (self._turned_away.popleft(), False) if self._turned_away else None


def subscriptions(config: Config, topics: Topics) -> list[str]:
    """Return the topics that a daemon subscribes to."""
    allow, home = config.commands.allow, config.homeassistant
    subscribed = [topics.commands] if allow else []
    if home.enabled:
        subscribed.append(f"{home.prefix}/status")
        if {"stream_on", "stream_off"} <= set(allow):
            subscribed.append(topics.switch("+"))
    return subscribed


class CommandService:
    """Queues requests on the publisher's thread and runs them at the daemon's ticks."""

    def __init__(
        self,
        config: Config,
        topics: Topics,
        head: MessageHead,
        state_dir: Path,
        publish: Callable[[Message], None],
        wake: Callable[[], None],
    ) -> None:
        self._settings, self._topics, self._head, self._publish = config, topics, head, publish
        self._wake = wake
        self.inbox = Inbox(wake)
        self._audit_log = AuditLog(state_dir)
        self._dispatcher: Dispatcher | None = None
        self._handlers: CommandHandlers | None = None
        self._home_assistant: HomeAssistantPublisher | None = None

    @property
    def subscriptions(self) -> list[str]:
        """Topics to subscribe to; none unless configured."""
        return subscriptions(self._settings, self._topics)

    def start(self, daemon: DaemonControl, identity: DeviceIdentity, record: RetainedRecord) -> None:
        """Begin to run what arrives."""
        handlers = self._handlers = CommandHandlers(daemon, self._topics, self._publish, self._wake)
        self._dispatcher = Dispatcher(self._settings.commands, self._head, handlers.by_name, self._answer, self._record)
        if self._settings.homeassistant.enabled:
            discovery = Discovery(self._settings.homeassistant.prefix, self._topics, __version__, identity)
            self._home_assistant = HomeAssistantPublisher(
                discovery, daemon, self._topics, self._head, self._publish, record
            )

    def tick(self) -> None:
        """Run one request, so that ticks stay short, and answer what has finished."""
        if self._dispatcher is None or self._handlers is None:
            return
        try:
            if (popped := self.inbox.pop()) is not None:
                self._wake()  # there may be more
                request, has_room = popped
                self._route(self._dispatcher, request, has_room=has_room)
            self._handlers.tick()
        # Whatever a command fails with must not end the daemon that it was sent to.
        except Exception:
            log.exception("commands failed unexpectedly")
        self._dispatcher.settle()
        if self._home_assistant is not None:
            self._home_assistant.tick()

    def note_result(self, result: Result) -> None:
        """Note the newest result of a stream; called from lanes."""
        if self._home_assistant is not None:
            self._home_assistant.newest[result.stream] = result

    def forget(self, stream: str) -> None:
        """Remove what the broker has retained of a stream that is gone."""
        if self._home_assistant is not None:
            self._home_assistant.forget(stream)

    def retained_topics(self, streams: Iterable[str]) -> set[str]:
        """Return the topics of the retained messages about these streams for Home Assistant, if it is told anything."""
        home = self._settings.homeassistant
        if not home.enabled:
            return set()
        return {discovery_topic(home.prefix, self._topics), *map(self._topics.counts, streams)}

    def counts(self) -> dict[str, int] | None:
        """Return the counts of commands since the start, by outcome; None if no command is allowed."""
        dispatcher = self._dispatcher
        if dispatcher is None or not self._settings.commands.allow:
            return None
        return {"taken": dispatcher.accepted, "refused": dispatcher.refused, "lost": self.inbox.lost}

    def close(self) -> None:
        """Answer what has not finished."""
        if self._dispatcher is not None:
            self._dispatcher.close()

    def _route(self, dispatcher: Dispatcher, request: CommandRequest, *, has_room: bool) -> None:
        if (name := self._topics.commanded(request.topic)) is not None:
            dispatcher.accept(name, request, has_room=has_room)
        elif (stream := self._topics.switched_stream(request.topic)) is not None:
            if (command := switch_command(request.body)) is not None:
                body = to_json({"args": {"stream": stream}})
                switch = CommandRequest(self._topics.command(command), body, request.retained)
                dispatcher.accept(command, switch, has_room=has_room)
        elif (
            self._home_assistant is not None
            and request.topic == self._home_assistant.birth_topic
            and request.body == b"online"
        ):
            self._home_assistant.ask()

    def _answer(self, command: str, requests: list[CommandRequest], answer: Answer) -> None:
        """Publish an answer on the command's topic, and on the response topic of each request."""
        body = to_json(answer)
        topic = self._topics.acknowledgement(command)
        correlation = requests[0].correlation if len(requests) == 1 else None
        self._publish(Message(topic, body, kind="answer", correlation=correlation))
        for request in requests:
            response_topic = request.response_topic
            if response_topic is None or response_topic == topic:
                continue
            if self._topics.is_for_answers(response_topic, self._settings.commands.answer_prefixes):
                self._publish(Message(response_topic, body, kind="answer", correlation=request.correlation))
            else:
                log.warning(
                    "command %s: no answer is sent to response topic %r; wanted one below %s/ or [commands] "
                    "answer_prefixes, and none of a device",
                    command,
                    response_topic[:200],
                    self._topics.prefix,
                )

    def _record(self, answer: Answer, args: Any) -> None:
        line = {key: answer[key] for key in ("at", "id", "command", "ok", "reason")}
        self._audit_log.write(line | {"args": shown_args(args)})
