"""Destination of a message: the broker, prefix and device that it was made for."""

from __future__ import annotations

import zlib
from dataclasses import astuple, dataclass
from typing import Literal

# For messages of another destination than the configured one: they wait for a decision, or go to the configured broker.
ForeignPolicy = Literal["hold", "send", "discard"]


@dataclass(frozen=True, slots=True)
class Destination:
    """Broker, without credentials, and the head of the topics."""

    broker: str = ""  # mqtt://HOST:PORT
    prefix: str = ""
    device: str = ""

    def __str__(self) -> str:
        return f"{self.prefix}/{self.device} at {self.broker}" if self.broker else "an unknown destination"

    @property
    def digest(self) -> int:
        """Checksum of 32 bits, never 0 or 1."""
        return zlib.crc32(self.pack()) | 2

    def pack(self) -> bytes:
        return "\0".join(astuple(self)).encode()

    @classmethod
    def unpack(cls, packed: bytes) -> Destination:
        """Restore a destination; return the unknown one where the bytes are none."""
        parts = packed.decode(errors="replace").split("\0")
        return cls(*parts) if len(parts) == len(cls.__slots__) else UNKNOWN


UNKNOWN = Destination()
