"""Topics of messages, commands and answers: `prefix/device/…`."""

from __future__ import annotations

from dataclasses import dataclass

MOST_TOPIC_BYTES = 1024  # of a response topic, which a requester chooses


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

    def is_for_answers(self, topic: str) -> bool:
        """Return whether a response topic is allowed: an answer must not pass for a message or command of ours."""
        levels = topic.removeprefix(f"{self.prefix}/").split("/")
        is_ours = topic.startswith(f"{self.prefix}/") and (levels[0] == self.device or "cmd" in levels)
        is_name = 0 < len(topic.encode(errors="replace")) <= MOST_TOPIC_BYTES and topic.isprintable()
        return is_name and not is_ours and not topic.startswith("$") and "+" not in topic and "#" not in topic
