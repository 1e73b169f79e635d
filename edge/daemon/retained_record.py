"""Record of the topics that hold a retained message of this device, so that the next start clears what is gone."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

from edge.core.files import write_atomic

log = logging.getLogger(__name__)

MOST_BROKERS = 8

Topic = Annotated[str, StringConstraints(min_length=1, max_length=65_535, pattern=r"^[^+#\x00-\x1f]+$")]
# Home Assistant's components of a discovery message: key → platform; empty for other topics.
Retained = dict[Topic, dict[str, str]]


class _RetainedFile(BaseModel):
    model_config = ConfigDict(extra="forbid")

    # A copy of this directory, as on a cloned card, must not clear what another device has published.
    machine: str
    brokers: dict[str, Retained]


class RetainedRecord:
    """The record in the state directory; written only when it changes."""

    def __init__(self, state_dir: Path, machine: str, broker: str) -> None:
        """Read what earlier starts on this machine have left at each broker."""
        self._path = state_dir / "retained.json"
        self._machine, self._broker = machine, broker
        self._others = self._read()
        self._here = self._others.pop(broker, {})

    def stale(self, expected: Collection[str]) -> list[str]:
        """Return the recorded topics that are not among those of this run."""
        return [topic for topic in self._here if topic not in expected]

    def add(self, topics: Iterable[str]) -> None:
        """Record topics before something is published there."""
        self._replace({topic: {} for topic in topics} | self._here)

    def update(self, topics: Iterable[str]) -> None:
        """Replace the recorded topics: all others are cleared."""
        self._replace({topic: self._here.get(topic, {}) for topic in topics})

    def components(self, topic: str) -> Mapping[str, str]:
        """Return the components that Home Assistant was told of on a topic: key → platform."""
        return self._here.get(topic, {})

    def note_components(self, topic: str, components: Mapping[str, str]) -> None:
        """Record the components of a discovery message."""
        self._replace(self._here | {topic: dict(components)})

    def _replace(self, here: Retained) -> None:
        if here == self._here:
            return
        self._here = here
        others = dict(list(self._others.items())[: MOST_BROKERS - 1])
        record = _RetainedFile(machine=self._machine, brokers={self._broker: here} | others)
        try:
            write_atomic(self._path, record.model_dump_json(indent=1).encode(), durable=True, mode=0o600)
        except OSError as error:
            log.warning("%s cannot be written (%s): what the broker retains is not cleared", self._path, error.strerror)

    def _read(self) -> dict[str, Retained]:
        try:
            found = _RetainedFile.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "damaged"
            log.warning("%s cannot be read (%s): what an earlier start left at the broker stays there", self._path, why)
            return {}
        return found.brokers if found.machine == self._machine else {}
