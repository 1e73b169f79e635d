"""Custom decoders, `package.module:function`, in the model's folder or on `sys.path`."""

from __future__ import annotations

import importlib
import itertools
import sys
import threading
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import cast

from edge.core.errors import ModelError
from edge.inference.decode.builtin import Options, Outputs, Raw

_SHOWN_CHARACTERS = 300
_numbers = itertools.count()


def is_interrupt(error: BaseException) -> bool:
    """Return whether an exception is a person's Ctrl-C, which Python raises on the main thread alone."""
    return isinstance(error, KeyboardInterrupt) and threading.current_thread() is threading.main_thread()


def describe(error: BaseException) -> str:
    """Return an exception's type and message for a sentence; the message is the user's: long, or itself a failure."""
    try:
        text = str(error)
    except BaseException:  # noqa: BLE001 -- a custom decoder may raise what cannot even be shown
        text = "its message cannot be shown"
    text = text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def load_decoder(name: str, folder: Path) -> Callable[[Outputs, Options], Raw]:
    """Import a custom decoder, `package.module:function`, from the model's folder, else from `sys.path`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = _import(module_name, folder)
    except BaseException as error:  # a module's own code may raise anything, `sys.exit()` too
        if is_interrupt(error):
            raise
        raise ModelError(
            f"decoder {name!r} cannot be imported ({describe(error)}); "
            f"wanted a module {module_name!r} in {folder} or on sys.path"
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        found = "nothing" if function is None else type(function).__name__
        raise ModelError(f"decoder {name!r}: found {found} named {function_name!r} in {module_name}, wanted a function")
    return cast("Callable[[Outputs, Options], Raw]", function)


def _import(module_name: str, folder: Path) -> ModuleType:
    importlib.invalidate_caches()
    if PathFinder.find_spec(module_name.partition(".")[0], [str(folder)]) is None:
        return importlib.import_module(module_name)
    # A package of this model alone, so that each model's `decoder.py` is a module of its own.
    package = ModuleType(f"edge_model_{next(_numbers)}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.{module_name}")
