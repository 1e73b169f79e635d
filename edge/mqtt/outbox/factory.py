"""Construction of the outbox: its parts, and the places of its files."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edge.core.config import MqttSettings, OutboxSettings
from edge.mqtt.outbox.alarm_latch import AlarmCallback
from edge.mqtt.outbox.destination import UNKNOWN, Destination
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import Spool
from edge.mqtt.outbox.spooler import Spooler

log = logging.getLogger(__name__)

DISK_FILE = "outbox.db"
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


def open_outbox(
    mqtt: MqttSettings, settings: OutboxSettings, device: str, state_dir: Path, on_alarm: AlarmCallback
) -> tuple[Outbox, Spooler]:
    """Create the outbox of a daemon and its spooler, whose thread is not started yet."""
    destination = destination_of(mqtt, device)
    outbox = Outbox(mqtt.queue_messages, open_journal(state_dir, destination), settings.foreign)
    spool = open_spool(settings, destination, state_dir) if settings.max_mb else None
    return outbox, Spooler(outbox, spool, settings.memory_s, settings.commit_s, on_alarm)


def destination_of(mqtt: MqttSettings, device: str) -> Destination:
    """Return where a device's messages go."""
    return Destination(mqtt.shown, mqtt.prefix, device)


def open_spool(settings: OutboxSettings, destination: Destination, state_dir: Path) -> Spool:
    """Create the spool of a state directory; its file is not opened yet."""
    path = state_dir / DISK_FILE
    return Spool(path, settings.max_mb, settings.max_age_s, settings.sync, destination, settings.foreign)


def open_journal(state_dir: Path, destination: Destination = UNKNOWN) -> Journal | None:
    """Open the journal of a state directory; log a warning and return None where there is no place for it."""
    key = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    refusals = list[str]()
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if refusal := _refusal(folder):
                refusals.append(refusal)
                continue
            return Journal(folder / f"outbox-{key}.journal", destination=destination)
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror or error}")
    log.warning(
        "messages in memory are lost if the process is killed, as there is no place for the journal (%s); "
        "wanted a private runtime directory in memory (tmpfs)",
        "; ".join(refusals),
    )
    return None


def _folders() -> Iterator[Path]:
    """Yield the directories for the journal, the best first."""
    if under_systemd := os.environ.get("RUNTIME_DIRECTORY"):
        yield Path(under_systemd.split(":")[0])
    if of_the_user := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(of_the_user) / "edge"
    yield Path(f"/dev/shm/edge-{os.getuid()}")  # noqa: S108 -- anybody may write there, so the owner is checked


def _refusal(folder: Path) -> str | None:
    """Return why a directory is unsuitable: it must be ours alone, and in memory, where writing wears out no flash."""
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return f"{folder} is not a directory that only this user may write to"
    if _file_system(found.st_dev) not in MEMORY_FILE_SYSTEMS:
        return f"{folder} is not in memory"
    return None


def _file_system(device: int) -> str | None:
    """Return the type of the file system with this device number (proc(5), mountinfo)."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    for line in _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines():
        mount, _, source = line.partition(" - ")
        if mount.split()[2] == wanted:
            return source.split()[0]
    return None
