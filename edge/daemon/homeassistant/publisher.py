"""Home Assistant publisher: discovery when it changes, and object counts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from edge.core.clock import now_ns
from edge.core.records import Message, Result
from edge.daemon.commands.handlers import DaemonControl
from edge.daemon.homeassistant.discovery import MOST_LABELS, DiscoveredDevice, DiscoveredStream, Discovery, counts_of
from edge.daemon.retained_record import RetainedRecord
from edge.mqtt.encode import MessageHead, to_json
from edge.mqtt.topics import Topics
from edge.pipeline.served_model import ServedModel

log = logging.getLogger(__name__)

COUNTS_NS = 1_000_000_000  # between two counts of a stream: a home need not follow every frame
FORGET_NS = 60_000_000_000  # until components that are gone are left out of the discovery message


class HomeAssistantPublisher:
    """Publishes the discovery message when it changes, and the object counts of each stream."""

    def __init__(
        self,
        discovery: Discovery,
        daemon: DaemonControl,
        topics: Topics,
        head: MessageHead,
        publish: Callable[[Message], None],
        record: RetainedRecord,
    ) -> None:
        self.birth_topic = discovery.birth_topic
        self.newest: dict[str, Result] = {}  # by stream
        self._discovery, self._daemon, self._topics = discovery, daemon, topics
        self._head, self._publish = head, publish
        self._record = record
        self._remembered = record.components(discovery.topic)  # of an earlier start: key → platform
        self._components: dict[str, Any] = {key: {"platform": each} for key, each in self._remembered.items()}
        self._described: tuple[Any, ...] = ()
        self._labels: dict[str, tuple[tuple[str, ...], bool]] = {}  # of every model that was ever open
        self._counts: dict[str, dict[str, Any]] = {}
        self._counts_due_ns = 0
        self._is_asked_for = False
        self._forget_due_ns: int | None = None

    def tick(self) -> None:
        """Publish what has changed."""
        daemon, described = self._daemon, self._described
        config, models, modes = daemon.config, daemon.pipeline.models, daemon.board_monitor.power_modes
        now = (config.streams, config.telemetry, models, modes)
        is_due = self._forget_due_ns is not None and now_ns() >= self._forget_due_ns
        if is_due or len(now) != len(described) or any(a is not b for a, b in zip(now, described, strict=True)):
            self._described = now
            self.renew()
        if now_ns() >= self._counts_due_ns:
            self._counts_due_ns = now_ns() + COUNTS_NS
            if self._is_asked_for:
                self.renew()
            self._publish_counts()

    def ask(self) -> None:
        """Schedule the discovery message, which may be large, to be sent again with the next counts."""
        self._is_asked_for = True

    def renew(self) -> None:
        """Send the discovery message; it lists once more what has gone since the last one."""
        self._is_asked_for = False
        device = self._device()
        unknown = {key: each for key, each in self._components.items() if self._is_unknown(key)}
        body = self._discovery.body(device, {key: each for key, each in self._components.items() if key not in unknown})
        components = body["components"]
        self._record.note_components(
            self._discovery.topic, {key: each["platform"] for key, each in (unknown | components).items()}
        )
        described = {key: each for key, each in components.items() if "unique_id" in each}
        self._components = unknown | described
        self._forget_due_ns = now_ns() + FORGET_NS if len(described) < len(components) else None
        self._publish(Message(self._discovery.topic, to_json(body), retain=True))

    def forget(self, stream: str) -> None:
        """Remove what the broker has retained of a stream that is gone; one of its name may come again."""
        self.newest.pop(stream, None)
        self._counts.pop(stream, None)
        self._publish(Message(self._topics.counts(stream), b"", retain=True))

    def _is_unknown(self, key: str) -> bool:
        """Return whether a component of an earlier start may still come: modes and labels are read later."""
        if key not in self._remembered:
            return False
        config = self._daemon.config
        if key == "power_mode":
            return "power_mode" in config.commands.allow and not self._daemon.board_monitor.power_modes
        return any(
            key.startswith(f"stream_{name}_label_") and not settings.labels and settings.model not in self._labels
            for name, settings in config.streams.items()
        )

    def _device(self) -> DiscoveredDevice:
        daemon = self._daemon
        for name, model in daemon.pipeline.models.items():
            self._note_labels(name, model)
        streams = []
        for name, settings in daemon.config.streams.items():
            labels, classifies = self._labels.get(settings.model, ((), False))
            streams.append(DiscoveredStream(name, settings.labels or labels, classifies))
        models = tuple(daemon.pipeline.models)
        config, modes = daemon.config, daemon.board_monitor.power_modes
        return DiscoveredDevice(tuple(streams), models, modes, config.commands.allow, config.telemetry.period_s)

    def _note_labels(self, name: str, model: ServedModel) -> None:
        if name not in self._labels and len(model.labels) > MOST_LABELS:
            log.info(
                "Home Assistant shows the first %d of the %d labels of model %s; labels of a stream selects others",
                MOST_LABELS,
                len(model.labels),
                name,
            )
        self._labels[name] = model.labels, model.manifest.task == "classify"

    def _publish_counts(self) -> None:
        """Publish the counts in the newest result of each stream, if they have changed."""
        configured = self._daemon.config.streams
        for name, result in list(self.newest.items()):
            counts = counts_of(result.findings, result.labels)
            if name in configured and counts != self._counts.get(name):
                self._counts[name] = counts
                body = self._head.stamped() | {"stream": name, "seq": result.seq} | counts
                self._publish(Message(self._topics.counts(name), to_json(body), retain=True))
