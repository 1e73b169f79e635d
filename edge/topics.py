"""Where each message is published: `prefix/device/…`."""

from __future__ import annotations

from dataclasses import dataclass


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
