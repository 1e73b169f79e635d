"""Files that matplotlib, an optional package, draws."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

from edge.errors import ConfigError, EdgeError

PLOT_SUFFIXES = (".png", ".svg")


def can_draw() -> bool:
    """Return whether matplotlib is here."""
    return importlib.util.find_spec("matplotlib") is not None


def check_plot(path: Path) -> None:
    """Raise ConfigError, before anything is measured, where the plot could not be written."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"--plot {path}: found suffix {path.suffix!r}, wanted one of {', '.join(PLOT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: folder {path.parent} does not exist; make it first")
    if not can_draw():
        raise ConfigError(f"--plot {path} needs matplotlib; install it: pip install 'edge-runtime[plot]'")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write a matplotlib figure as what the path's suffix says; raise EdgeError where that cannot be done."""
    try:
        figure.savefig(path, dpi=dpi)
    except OSError as error:
        raise EdgeError(f"--plot {path} cannot be written ({error.strerror}); see the folder's rights") from None
