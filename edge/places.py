"""Where this device keeps its state: plans, timing caches, derived models, measured speeds."""

from __future__ import annotations

import os
from pathlib import Path


def default_state_dir(configured: str | None = None) -> Path:
    """Return the configured folder, else what systemd gives us, else the user's."""
    if configured:
        return Path(configured).expanduser()
    if under_systemd := os.environ.get("STATE_DIRECTORY"):
        return Path(under_systemd.split(":")[0])
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state") / "edge"
