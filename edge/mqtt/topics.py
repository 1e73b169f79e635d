"""Topics of messages, commands and answers: `prefix/device/…`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_TOPIC_BYTES = 1024  # of a response topic, which a requester chooses
# Levels of the topics of any device: messages and commands are there.
_OF_DEVICES = frozenset({"status", "telemetry", "alarms", "governor", "streams", "cmd"})


@dataclass(frozen=True)
class Topics:
    """The topics of one device."""

    prefix: str
    device: str

    @property
    def _root(self) -> str:
        return f"{self.prefix}/{self.device}"

    @property
    def status(self) -> str:
        return f"{self._root}/status"

    @property
    def telemetry(self) -> str:
        return f"{self._root}/telemetry"

    @property
    def alarms(self) -> str:
        return f"{self._root}/alarms"

    @property
    def governor(self) -> str:
        return f"{self._root}/governor"

    def results(self, stream: str) -> str:
        return f"{self._root}/streams/{stream}/results"

    def stream_status(self, stream: str) -> str:
        return f"{self._root}/streams/{stream}/status"

    def counts(self, stream: str) -> str:
        return f"{self._root}/streams/{stream}/counts"

    def snapshot(self, stream: str) -> str:
        return f"{self._root}/streams/{stream}/snapshot"

    def switch(self, stream: str) -> str:
        """Return the topic that accepts ON and OFF for a stream; `+` for all of them."""
        return f"{self._root}/streams/{stream}/set"

    def switched_stream(self, topic: str) -> str | None:
        """Return the stream that a message on this topic switches, if any."""
        head, tail = f"{self._root}/streams/", "/set"
        name = topic[len(head) : -len(tail)]
        return name if topic == f"{head}{name}{tail}" and name and "/" not in name else None

    @property
    def commands(self) -> str:
        """Subscription for all commands; their acknowledgements are one level below."""
        return self.command("+")

    def command(self, name: str) -> str:
        return f"{self._root}/cmd/{name}"

    def acknowledgement(self, name: str) -> str:
        return f"{self.command(name)}/ack"

    def commanded(self, topic: str) -> str | None:
        """Return the name of the command on this topic, if any."""
        head = self.command("")
        name = topic[len(head) :]
        return name if topic.startswith(head) and name and "/" not in name else None

    def is_for_answers(self, topic: str, prefixes: Sequence[str] = ()) -> bool:
        """Return whether an answer may go to the topic that its asker names.

        It must be below our prefix or another of `prefixes`, and no device may take it for a message or a command.
        """
        is_name = 0 < len(topic.encode(errors="replace")) <= MOST_TOPIC_BYTES and topic.isprintable()
        if not is_name or topic.startswith("$") or "+" in topic or "#" in topic:
            return False
        if _is_below(topic, self.prefix):
            return topic != self._root and not _OF_DEVICES & set(topic.removeprefix(self.prefix).split("/"))
        return any(_is_below(topic, each) for each in prefixes)


def _is_below(topic: str, prefix: str) -> bool:
    return topic.startswith(prefix.rstrip("/") + "/")
