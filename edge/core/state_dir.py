"""State directory of this device: plans, timing caches, derived models, measurements."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge.core.errors import ConfigError, EdgeError


def default_state_dir(configured: str | None = None) -> Path:
    """Return the configured folder, else the one from systemd, else the user's."""
    if configured:
        return Path(configured).expanduser()
    if under_systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edge"


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock that keeps a second daemon or benchmark off this board; raise EdgeError if it is taken."""
    path = state_dir / "lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise ConfigError(
            f"state directory {state_dir} cannot be used ({error.strerror}); wanted a writable one: "
            "set it with --state-dir or [device] state_dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EdgeError(f"another edge process holds {path}; stop it first, or use another --state-dir") from None
        yield
