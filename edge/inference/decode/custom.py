"""Custom decoders, `package.module:function`, in the model's folder or on `sys.path`."""

from __future__ import annotations

import importlib
import itertools
import sys
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import cast

from edge.core.errors import ModelError
from edge.inference.decode.builtin import Options, Outputs, Raw

_numbers = itertools.count()


def load_decoder(name: str, folder: Path) -> Callable[[Outputs, Options], Raw]:
    """Import a custom decoder, `package.module:function`, from the model's folder, else from `sys.path`."""
    module_name, _, function_name = name.partition(":")
    try:
        module = _import(module_name, folder)
    except Exception as error:  # a module's own code may raise anything
        raise ModelError(
            f"decoder {name!r} cannot be imported ({type(error).__name__}: {error}); "
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
