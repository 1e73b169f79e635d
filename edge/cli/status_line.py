"""Status line of `edge run`: the last line of the terminal, below the log."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
import time
from collections.abc import Callable, Iterator

_CLEAR = "\r\x1b[K"  # the line of the terminal


@contextlib.contextmanager
def status_line() -> Iterator[Callable[[str], None] | None]:
    """Yield a function that shows a text in place of the one before; None where standard error is no terminal."""
    if not sys.stderr.isatty():
        yield None
        return

    def clear(_record: logging.LogRecord) -> bool:
        sys.stderr.write(_CLEAR)
        return True

    def show(text: str) -> None:
        columns = shutil.get_terminal_size().columns
        sys.stderr.write(_CLEAR + f"{time.strftime('%H:%M:%S')} {text}"[: columns - 1])
        sys.stderr.flush()

    handlers = logging.getLogger().handlers
    for handler in handlers:
        handler.addFilter(clear)
    try:
        yield show
    finally:
        for handler in handlers:
            handler.removeFilter(clear)
        sys.stderr.write(_CLEAR)
