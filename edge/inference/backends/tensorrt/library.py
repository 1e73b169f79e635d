"""The TensorRT library: found, imported and asked in one way, whichever of its versions is there.

`tensorrt` comes with JetPack. Where it is absent, TensorRT-RTX (the extra `rtx`) serves: the same parser and builder,
for workstations and tests. Our code names neither enum values nor versions: it asks for members by name.
"""

from __future__ import annotations

import importlib
import logging
from collections import deque
from functools import lru_cache
from typing import Any

from edge.core.errors import EngineError

log = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_LINES_KEPT = 20  # error lines that may explain one failure


def load_tensorrt() -> Any:
    """Import TensorRT's Python module; raise EngineError where there is none."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if error.name != name:  # it is there, and something that it needs is not
                log.debug("%s cannot be imported", name, exc_info=True)
    raise EngineError(
        "TensorRT is not installed (no Python module `tensorrt`); on a Jetson it comes with JetPack: make the virtual "
        "environment with --system-site-packages (docs/jetson.md)"
    )


def library_name(trt: Any) -> str:
    """Return which of the two libraries this is; their plans never fit each other."""
    return "tensorrt-rtx" if "rtx" in trt.__name__ else "tensorrt"


def bits(enum: Any, *names: str) -> int:
    """Return the flag word of these members; those that this version lacks are left out.

    The positions of flags differ between TensorRT 10 and 11, so none is ever written as a number.
    """
    members = enum.__members__
    return sum(1 << int(members[name]) for name in names if name in members)


@lru_cache(maxsize=4)
def _logger_class(trt: Any) -> Any:
    """Define the logger's class, whose base is known only once the library is loaded."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is Any
        """Hands TensorRT's lines to our log, and keeps the errors: TensorRT itself tells only that it failed."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_LINES_KEPT)

        def log(self, severity: Any, text: str) -> None:
            level = _LEVELS.get(getattr(severity, "name", ""), logging.DEBUG)
            if level >= logging.ERROR:
                self.errors.append(text.strip())
            log.log(min(level, logging.INFO), "TensorRT: %s", text)

        def take_errors(self) -> str:
            """Return what has gone wrong since the last call, in one line."""
            told = "; ".join(dict.fromkeys(self.errors)) or "TensorRT gave no reason"
            self.errors.clear()
            return told

    return Logger


# A failure reaches users as our own sentence, which quotes the errors; TensorRT's lines by themselves are for those
# who debug.
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.DEBUG,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG - 1,
}


def make_logger(trt: Any) -> Any:
    """Make a logger for one builder or runtime; it must live as long as that."""
    return _logger_class(trt)()
