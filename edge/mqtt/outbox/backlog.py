"""Backlog on disk as a person sees it and decides about it, while a daemon runs or not."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge.core.config import Config
from edge.core.errors import EdgeError
from edge.mqtt.outbox.destination import UNKNOWN, Destination
from edge.mqtt.outbox.factory import DISK_FILE, destination_of, open_spool
from edge.mqtt.outbox.spool import Spool
from edge.mqtt.outbox.spool_file import FORMAT, Slot, count_rows, read_format, read_slots, slot_of


@dataclass(frozen=True, slots=True)
class Backlog:
    """Messages on disk for one destination."""

    destination: Destination
    messages: int
    bytes: int
    is_held: bool  # until a person decides

    def to_json(self) -> dict[str, Any]:
        counts = {"messages": self.messages, "bytes": self.bytes, "held": self.is_held}
        return asdict(self.destination) | counts


def read_backlog(config: Config, state_dir: Path) -> list[Backlog]:
    """Return what is on disk, without changing anything; raise EdgeError where it cannot be read."""
    path, own = state_dir / DISK_FILE, destination_of(config.mqtt, config.device.name)
    if not path.exists():
        return []
    with _explained(path), contextlib.closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as db:
        is_old = read_format(db) < FORMAT
        slots = {0: Slot(own)} if is_old else read_slots(db)
        counts = dict[Slot, tuple[int, int]]()
        for prefix, (messages, size) in count_rows(db).items():
            slot = slots.get(slot_of(prefix), Slot(UNKNOWN))
            before = counts.get(slot, (0, 0))
            counts[slot] = (before[0] + messages, before[1] + size)
    may_hold = config.outbox.foreign != "send"
    return [
        Backlog(slot.destination, *found, is_held=may_hold and slot.destination != own and not slot.is_released)
        for slot, found in counts.items()
    ]


def send_held(config: Config, state_dir: Path) -> int:
    """Have what is held sent to the configured broker by the daemon, at once if it runs; return how many messages."""
    held = sum(each.messages for each in read_backlog(config, state_dir) if each.is_held)
    if held:
        with _opened(config, state_dir) as spool:
            spool.release_held()
    return held


def discard_held(config: Config, state_dir: Path) -> int:
    """Remove what is held from the disk; return how many messages."""
    discarded = 0
    if any(each.is_held for each in read_backlog(config, state_dir)):
        with _opened(config, state_dir) as spool:
            while gone := spool.discard_held():
                discarded += len(gone)
    return discarded


@contextlib.contextmanager
def _opened(config: Config, state_dir: Path) -> Iterator[Spool]:
    spool = open_spool(config.outbox, destination_of(config.mqtt, config.device.name), state_dir)
    with _explained(spool.path):
        spool.open(0)
        try:
            yield spool
        finally:
            spool.close()


@contextlib.contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise EdgeError(f"{path} cannot be used ({error}); run this as the daemon's user, and try it again") from None
    except sqlite3.NotSupportedError as error:
        raise EdgeError(f"{path} cannot be used: {error}") from None
    except sqlite3.DatabaseError as error:
        raise EdgeError(
            f"{path} is damaged ({error}); the next start of the daemon recovers what is readable"
        ) from None
