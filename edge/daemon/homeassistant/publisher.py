"""Keeps Home Assistant told of what there is on this device."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge.core.clock import now_ns, utc_text, wall_ns
from edge.core.records import Message, Result
from edge.daemon.commands.handlers import DaemonControl
from edge.daemon.homeassistant.discovery import MOST_LABELS, DiscoveredDevice, DiscoveredStream, Discovery, counts_of
from edge.mqtt.encode import to_json
from edge.mqtt.topics import Topics
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

COUNTS_NS = 1_000_000_000  # between two counts of a stream: a home need not follow each frame
FORGET_NS = 60_000_000_000  # after which the components that are gone are left out of the discovery message


class Home:
    """Sends the discovery message when it changes, and how many objects each stream sees."""

    def __init__(
        self,
        discovery: Discovery,
        hands: DaemonControl,
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
        self._is_asked_for = False
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
            if self._is_asked_for:
                self.renew()
            self._tell_counts()

    def ask(self) -> None:
        """Have the discovery message, which may be large, sent again with the next counts."""
        self._is_asked_for = True

    def renew(self) -> None:
        """Send the discovery message; what has gone since the one before is named in it once more."""
        self._is_asked_for = False
        body = self._discovery.body(self._shown(), self._components)
        components = body["components"]
        self._components = {key: each for key, each in components.items() if "unique_id" in each}
        self._forget_due_ns = now_ns() + FORGET_NS if len(self._components) < len(components) else None
        self._publish(Message(self._discovery.topic, to_json(body), retain=True))

    def forget(self, stream: str) -> None:
        """Take away what the broker has retained of a stream that is gone; one of its name may come again."""
        self.newest.pop(stream, None)
        self._counts.pop(stream, None)
        self._publish(Message(self._topics.counts(stream), b"", retain=True))

    def _shown(self) -> DiscoveredDevice:
        hands = self._hands
        for name, model in hands.pipeline.models.items():
            self._note_labels(name, model)
        streams = []
        for name, settings in hands.config.streams.items():
            labels, classifies = self._labels.get(settings.model, ((), False))
            streams.append(DiscoveredStream(name, settings.labels or labels, classifies))
        models = tuple(hands.pipeline.models)
        return DiscoveredDevice(tuple(streams), models, hands.board.power_modes, hands.config.commands.allow)

    def _note_labels(self, name: str, model: ServedModel) -> None:
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
            if name in configured and counts != self._counts.get(name):
                self._counts[name] = counts
                body = self._head | {"at": utc_text(wall_ns()), "stream": name, "seq": result.seq} | counts
                self._publish(Message(self._topics.counts(name), to_json(body), retain=True))
