"""Access to the TensorRT library, whichever version is installed.

`tensorrt` comes with JetPack. Without it, TensorRT-RTX (the extra `rtx`) is used: the same parser and builder, for
workstations and tests. Our code uses no enum values or version checks: it looks members up by name.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import re
import sys
from collections import deque
from functools import lru_cache
from typing import Any

from edge.core.errors import EngineError

log = logging.getLogger(__name__)

MODULES = ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings")
_MISSING = (
    "TensorRT is not installed (no Python module `tensorrt`); on a Jetson it comes with JetPack: create the "
    "virtual environment with --system-site-packages (docs/jetson.md)"
)
_LINES_KEPT = 20  # error lines kept to explain a failure
# TensorRT logs that memory is short, and raises nothing.
_OUT_OF_MEMORY = re.compile(r"out.?of.?memory|could not be allocated|bad_alloc", re.IGNORECASE)


def check_installed() -> None:
    """Raise EngineError if there is no Python module of TensorRT; import nothing, as it takes 100 MB of memory."""
    if not any(_is_installed(name) for name in MODULES):
        raise EngineError(_MISSING)


def _is_installed(name: str) -> bool:
    return sys.modules[name] is not None if name in sys.modules else importlib.util.find_spec(name) is not None


def load_tensorrt() -> Any:
    """Import TensorRT's Python module; raise EngineError if there is none."""
    for name in MODULES:
        try:
            return importlib.import_module(name)
        except ImportError as error:
            if error.name != name:  # it is installed, but one of its dependencies is not
                log.debug("%s cannot be imported", name, exc_info=True)
    raise EngineError(_MISSING)


def library_name(trt: Any) -> str:
    """Return which of the two libraries this is; they cannot load each other's plans."""
    return "tensorrt-rtx" if "rtx" in trt.__name__ else "tensorrt"


def is_out_of_memory(reason: str) -> bool:
    """Return whether TensorRT's errors mean that memory ran out."""
    return _OUT_OF_MEMORY.search(reason) is not None


def bits(enum: Any, *names: str) -> int:
    """Return the flag word of these members, without those that this version lacks.

    Flags have other values in TensorRT 10 than in 11, so none is written as a number.
    """
    members = enum.__members__
    return sum(1 << int(members[name]) for name in names if name in members)


@lru_cache(maxsize=4)
def _logger_class(trt: Any) -> Any:
    """Define the logger's class, whose base exists only once the library is loaded."""

    class Logger(trt.ILogger):  # type: ignore[misc]  # the base is Any
        """Forwards TensorRT's lines to our log and keeps the errors: its calls report only that they failed."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=_LINES_KEPT)

        def log(self, severity: Any, text: str) -> None:
            level = _LEVELS.get(getattr(severity, "name", ""), logging.DEBUG)
            if level >= logging.ERROR:
                self.errors.append(text.strip())
            log.log(min(level, logging.INFO), "TensorRT: %s", text)

        def pop_errors(self) -> str:
            """Return the errors since the last call, in one line."""
            text = "; ".join(dict.fromkeys(self.errors)) or "TensorRT gave no reason"
            self.errors.clear()
            return text

    return Logger


# Users see a failure as our own sentence, which quotes the errors; TensorRT's own lines are for debugging.
_LEVELS = {
    "INTERNAL_ERROR": logging.ERROR,
    "ERROR": logging.ERROR,
    "WARNING": logging.DEBUG,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG - 1,
}


def make_logger(trt: Any) -> Any:
    """Make a logger for one builder or runtime, which it must outlive."""
    return _logger_class(trt)()
