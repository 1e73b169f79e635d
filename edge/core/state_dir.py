"""Where this device keeps its state: plans, timing caches, derived models, measured speeds."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from edge.core.errors import ConfigError, EdgeError


def default_state_dir(configured: str | None = None) -> Path:
    """Return the configured folder, else what systemd gives us, else the user's."""
    if configured:
        return Path(configured).expanduser()
    if under_systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edge"


@contextlib.contextmanager
def state_lock(state_dir: Path) -> Iterator[None]:
    """Keep a second daemon, or a benchmark, from the same board."""
    path = state_dir / "lock"
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        lock = path.open("w")
    except OSError as error:
        raise ConfigError(
            f"state directory {state_dir} cannot be used ({error.strerror}); wanted one that can be written: "
            "name it with --state-dir or [device] state_dir"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise EdgeError(
                f"another edge process holds {path}; stop it first, or give this one a --state-dir of its own"
            ) from None
        yield
