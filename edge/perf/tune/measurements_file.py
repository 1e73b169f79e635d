"""Measurements of `edge tune`, stored in the state directory so that an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from edge.core.errors import EdgeError
from edge.core.files import write_atomic
from edge.core.validation import Table
from edge.perf.tune.setting import MeasuredSetting, Setting

log = logging.getLogger(__name__)


class _MeasuredPoint(Table):
    power_mode: str | None
    device: str
    precision: str
    lanes: int
    max_batch: int
    measured: MeasuredSetting

    @property
    def setting(self) -> Setting:
        return Setting(self.power_mode, self.device, self.precision, self.lanes, self.max_batch)


class _Contents(Table):
    key: str
    mode_before: str | None = None  # restored at the end
    mode_set: str | None = None  # the last one switched to; a board found in another was switched by somebody else
    idle_w: dict[str, float] = Field(default_factory=dict)  # by power mode
    points: list[_MeasuredPoint] = Field(default_factory=list)


class MeasurementsFile:
    """File of the settings measured for one model under one configuration."""

    def __init__(self, path: Path, conditions: Mapping[str, Any], *, fresh: bool) -> None:
        """Load the measurements made under the same conditions; discard them if `fresh`."""
        self._path = path
        text = json.dumps(conditions, sort_keys=True, default=str)
        self._key = hashlib.sha256(text.encode()).hexdigest()
        found = self._read() or _Contents(key=self._key)
        self.mode_before, self.mode_set = found.mode_before, found.mode_set
        kept = [] if fresh else found.points
        self.idle_w: dict[str, float] = {} if fresh else dict(found.idle_w)
        self.measured: dict[Setting, MeasuredSetting] = {each.setting: each.measured for each in kept}

    def add(self, setting: Setting, measured: MeasuredSetting) -> None:
        self.measured[setting] = measured
        self.save()

    def save(self) -> None:
        """Write the file atomically; raise EdgeError on failure."""
        points = [
            _MeasuredPoint(
                power_mode=each.power_mode,
                device=each.device,
                precision=each.precision,
                lanes=each.lanes,
                max_batch=each.max_batch,
                measured=measured,
            )
            for each, measured in self.measured.items()
        ]
        content = _Contents(
            key=self._key,
            mode_before=self.mode_before,
            mode_set=self.mode_set,
            idle_w=self.idle_w,
            points=points,
        )
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, content.model_dump_json(indent=1).encode(), durable=True)  # a reboot may be next
        except OSError as error:
            raise EdgeError(
                f"{self._path} cannot be written ({error.strerror}); name a writable state directory: see --state-dir"
            ) from None

    def _read(self) -> _Contents | None:
        try:
            found = _Contents.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            log.warning("%s cannot be read (%s); measuring everything again", self._path, type(error).__name__)
            return None
        if found.key != self._key:
            log.warning("%s was measured under another configuration; measuring everything again", self._path)
            return _Contents(key=self._key, mode_before=found.mode_before, mode_set=found.mode_set)
        return found
