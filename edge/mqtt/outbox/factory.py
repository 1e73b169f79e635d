"""Where the outbox keeps its files, and an outbox with all its parts."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from edge.core.config import MqttSettings, OutboxSettings
from edge.mqtt.outbox.alarms import AlarmCallback
from edge.mqtt.outbox.journal import Journal
from edge.mqtt.outbox.outbox import Outbox
from edge.mqtt.outbox.spool import Spool
from edge.mqtt.outbox.spooler import Spooler

log = logging.getLogger(__name__)

DISK_FILE = "outbox.db"
MEMORY_FILE_SYSTEMS = ("tmpfs", "ramfs")
_MOUNTS = Path("/proc/self/mountinfo")


def open_outbox(
    mqtt: MqttSettings, settings: OutboxSettings, state_dir: Path, tell: AlarmCallback
) -> tuple[Outbox, Spooler]:
    """Return the outbox of a daemon, and the thread, not started yet, that moves what waits to the disk and back."""
    outbox = Outbox(mqtt.queue_messages, open_journal(state_dir))
    path = state_dir / DISK_FILE
    shelf = Spool(path, settings.max_mb, settings.max_age_s, settings.sync) if settings.max_mb else None
    return outbox, Spooler(outbox, shelf, settings.memory_s, settings.commit_s, tell)


def open_journal(state_dir: Path) -> Journal | None:
    """Open the journal that belongs to a state directory; where there is no place for it, say so once."""
    key = hashlib.sha256(os.fsencode(state_dir.resolve())).hexdigest()[:16]
    refusals = list[str]()
    for folder in _folders():
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if refusal := _refusal(folder):
                refusals.append(refusal)
                continue
            return Journal(folder / f"outbox-{key}.journal")
        except OSError as error:
            refusals.append(f"{folder}: {error.strerror or error}")
    log.warning(
        "what waits in memory is lost where the process is killed, as there is no place for its copy (%s); "
        "wanted a runtime directory of its own in memory (tmpfs)",
        "; ".join(refusals),
    )
    return None


def _folders() -> Iterator[Path]:
    """Yield where the journal may lie, the best first."""
    if under_systemd := os.environ.get("RUNTIME_DIRECTORY"):
        yield Path(under_systemd.split(":")[0])
    if of_the_user := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(of_the_user) / "edge"
    yield Path(f"/dev/shm/edge-{os.getuid()}")  # noqa: S108 -- anybody may write there, so the folder's owner is asked


def _refusal(folder: Path) -> str | None:
    """Tell what speaks against a folder: it must be ours alone, and in memory, where writing wears nothing out."""
    found = folder.lstat()
    if not folder.is_dir() or folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o022:
        return f"{folder} is not a folder that we alone may write to"
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
