"""Plot files, drawn with matplotlib, an optional package."""

from __future__ import annotations

import importlib.util
import io
import sys
from pathlib import Path
from typing import Any

from edge.core.errors import ConfigError, EdgeError
from edge.core.files import write_atomic
from edge.core.installation import install_advice

PLOT_SUFFIXES = (".png", ".svg")


def can_draw() -> bool:
    """Return whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_plot(path: Path) -> None:
    """Raise ConfigError, before anything is measured, if the plot could not be written."""
    if path.suffix.lower() not in PLOT_SUFFIXES:
        raise ConfigError(f"--plot {path}: found suffix {path.suffix!r}, wanted one of {', '.join(PLOT_SUFFIXES)}")
    if not path.parent.is_dir():
        raise ConfigError(f"--plot {path}: folder {path.parent} does not exist; create it first")
    if not can_draw():
        raise ConfigError(f"--plot {path} needs matplotlib; {install_advice()}")


def save(figure: Any, path: Path, dpi: int) -> None:
    """Write a matplotlib figure in the format of the path's suffix; raise EdgeError on failure."""
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=dpi, format=path.suffix[1:].lower())
    write_output(path, drawn.getvalue(), "--plot")


def write_output(path: Path, data: bytes, option: str) -> None:
    """Write a file atomically; raise EdgeError, naming the option, on failure."""
    # An existing path that is no regular file, such as a device, is written to rather than replaced.
    try:
        if path.is_file() or not path.exists():
            write_atomic(path, data, durable=False)
        else:
            path.write_bytes(data)
    except OSError as error:
        raise EdgeError(
            f"{option} {path} cannot be written ({error.strerror}); check the folder's permissions and the free space"
        ) from None
    print(f"written to {path}", file=sys.stderr)  # noqa: T201 -- for the user of the command
