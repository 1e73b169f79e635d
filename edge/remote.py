"""The daemon's way to be asked: commands and Home Assistant over MQTT, from the request to the answer."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge import __version__
from edge.audit import Audit, shown_args
from edge.clock import now_ns, utc_text, wall_ns
from edge.commands import Answer, Commands, Inbox
from edge.config import Config
from edge.effects import Effects, Hands
from edge.homeassistant import MOST_LABELS, Discovery, Shown, ShownStream, counts_of, switched
from edge.model import Model
from edge.publish import to_json
from edge.records import Message, Request, Result
from edge.topics import Topics

log = logging.getLogger(__name__)

COUNTS_NS = 1_000_000_000  # between two counts of a stream: a home need not follow each frame
FORGET_NS = 60_000_000_000  # after which the components that are gone are left out of the discovery message


class Remote:
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
        self._commands: Commands | None = None
        self._effects: Effects | None = None
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

    def start(self, hands: Hands, board: str) -> None:
        """Begin to work on what comes."""
        effects = self._effects = Effects(hands, self._topics, self._publish, self._wake)
        self._commands = Commands(self._settings.commands, self._head, effects.by_name, self._answer, self._record)
        if self._settings.homeassistant.enabled:
            discovery = Discovery(self._settings.homeassistant.prefix, self._topics, __version__, board)
            self._home = Home(discovery, hands, self._topics, self._head, self._publish)

    def look(self) -> None:
        """Work on one request, so that ticks stay short, and on what has come to its end."""
        if self._commands is None or self._effects is None:
            return
        if (taken := self.inbox.take()) is not None:
            self._wake()  # there may be more
            self._take(self._commands, *taken)
        self._effects.look()
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
            self._publish(Message(self._topics.counts(stream), b"", retain=True))

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

    def _take(self, commands: Commands, request: Request, has_room: bool) -> None:  # noqa: FBT001 -- as the inbox gives it
        if (name := self._topics.commanded(request.topic)) is not None:
            commands.take(name, request, has_room=has_room)
        elif (stream := self._topics.switched_stream(request.topic)) is not None:
            if (command := switched(request.body)) is not None:
                body = to_json({"args": {"stream": stream}})
                switch = Request(self._topics.command(command), body, request.retained)
                commands.take(command, switch, has_room=has_room)
        elif self._home is not None and request.topic == self._home.birth_topic and request.body == b"online":
            self._home.renew()

    def _answer(self, command: str, askers: list[Request], answer: Answer) -> None:
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


class Home:
    """Keeps Home Assistant told of what there is, and of how many objects each stream sees."""

    def __init__(
        self,
        discovery: Discovery,
        hands: Hands,
        topics: Topics,
        head: dict[str, Any],
        publish: Callable[[Message], None],
    ) -> None:
        self.birth_topic = discovery.birth_topic
        self.newest: dict[str, Result] = {}  # by stream
        self._discovery, self._hands, self._topics, self._head, self._publish = discovery, hands, topics, head, publish
        self._components: dict[str, Any] = {}
        self._seen: tuple[Any, ...] = ()
        self._labels: dict[str, tuple[tuple[str, ...], bool]] = {}  # of each model that was ever open
        self._counts: dict[str, dict[str, Any]] = {}
        self._counts_due_ns = 0
        self._forget_due_ns: int | None = None

    def look(self) -> None:
        """Tell what has changed."""
        hands = self._hands
        seen = (hands.config.streams, hands.pipeline.models, hands.board.power_modes)
        is_due = self._forget_due_ns is not None and now_ns() >= self._forget_due_ns
        if is_due or len(seen) != len(self._seen) or any(a is not b for a, b in zip(seen, self._seen, strict=True)):
            self._seen = seen
            self.renew()
        if now_ns() >= self._counts_due_ns:
            self._counts_due_ns = now_ns() + COUNTS_NS
            self._tell_counts()

    def renew(self) -> None:
        """Send the discovery message; what has gone since the one before is named in it once more."""
        body = self._discovery.body(self._shown(), self._components)
        components = body["components"]
        self._components = {key: each for key, each in components.items() if "unique_id" in each}
        self._forget_due_ns = now_ns() + FORGET_NS if len(self._components) < len(components) else None
        self._publish(Message(self._discovery.topic, to_json(body), retain=True))

    def _shown(self) -> Shown:
        hands = self._hands
        for name, model in hands.pipeline.models.items():
            self._note_labels(name, model)
        streams = []
        for name, settings in hands.config.streams.items():
            labels, classifies = self._labels.get(settings.model, ((), False))
            streams.append(ShownStream(name, settings.labels or labels, classifies))
        models = tuple(hands.pipeline.models)
        return Shown(tuple(streams), models, hands.board.power_modes, hands.config.commands.allow)

    def _note_labels(self, name: str, model: Model) -> None:
        if name not in self._labels and len(model.labels) > MOST_LABELS:
            log.info(
                "Home Assistant is shown the first %d of the %d labels of model %s; a stream's labels choose others",
                MOST_LABELS,
                len(model.labels),
                name,
            )
        self._labels[name] = model.labels, model.manifest.task == "classify"

    def _tell_counts(self) -> None:
        """Publish what the newest result of each stream holds, where that is not what was told last."""
        configured = self._hands.config.streams
        for name, result in list(self.newest.items()):
            counts = counts_of(result.findings, result.labels)
            if name not in configured:
                self.newest.pop(name, None)
                self._counts.pop(name, None)
            elif counts != self._counts.get(name):
                self._counts[name] = counts
                body = self._head | {"at": utc_text(wall_ns()), "stream": name, "seq": result.seq} | counts
                self._publish(Message(self._topics.counts(name), to_json(body), retain=True))
