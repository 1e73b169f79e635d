"""Files that matplotlib, an optional package, draws."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path
from typing import Any

from edge.core.errors import ConfigError, EdgeError
from edge.core.files import write_atomic

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
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format=path.suffix[1:].lower())
    write_whole(path, drawn.getvalue(), "--plot")


def write_whole(path: Path, data: bytes, option: str) -> None:
    """Write a file, whole or not at all; raise EdgeError, naming the option, where that cannot be done."""
    # What is there and no file, as a device, is written to and not replaced.
    try:
        if path.is_file() or not path.exists():
            write_atomic(path, data, durable=False)
        else:
            path.write_bytes(data)
    except OSError as error:
        told = f"{option} {path} cannot be written ({error.strerror})"
        raise EdgeError(f"{told}; see the folder's rights and the space left") from None
