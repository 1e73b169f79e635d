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

import numpy as np

from edge.core.errors import EngineError, ModelError
from edge.inference.decode.contract import NO_BOXES, NOTHING, Exact, Options, Outputs, Raw
from edge.inference.decode.guard import OutputGuard

_SHOWN_CHARACTERS = 300
_numbers = itertools.count()


class CustomReader:
    """A custom decoder, with its options and a check of what it returns."""

    def __init__(self, name: str, folder: Path, options: Options, *, boxed: bool) -> None:
        """Import the decoder; raise ModelError where there is none."""
        self._name = name
        self._function = load_decoder(name, folder)
        self._options = options
        self._boxed = boxed
        whole = options.get("whole_outputs", False)
        if type(whole) is not bool:
            raise ModelError(f"[output] whole_outputs: found {whole!r}, wanted true or false")
        self.is_single = whole

    def is_whole(self, output: str) -> bool:  # noqa: ARG002 -- one key for all outputs
        """Return whether outputs are given as they come, with the batch axis that they may have."""
        return self.is_single

    def read(self, outputs: Outputs, threshold: float, guard: OutputGuard | None = None) -> Exact:
        """Return boxes, scores and classes; raise what the decoder raises, and EngineError for a wrong result."""
        is_set = threshold == self._options["score_threshold"]
        options = self._options if is_set else {**self._options, "score_threshold": threshold}
        found = checked(self._function(outputs, options), self._name, boxed=self._boxed)
        if guard is not None:
            guard.see_scores(found[1])
        return found


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


def checked(found: object, name: str, *, boxed: bool) -> Exact:
    """Check a decoder's result and convert it to the exact dtypes; without `boxed`, boxes are ignored."""
    if not isinstance(found, tuple) or len(found) != len(NOTHING):
        raise EngineError(f"decoder {name!r} returned {type(found).__name__}, wanted a tuple: boxes, scores, class ids")
    boxes, scores, class_ids = (np.asarray(each) for each in (found if boxed else (NO_BOXES, *found[1:])))
    if not (boxes.size or scores.size or class_ids.size):
        return NOTHING  # an array of an empty list has neither the shape nor the dtype
    shapes_fit = scores.ndim == 1 and class_ids.shape == scores.shape and (not boxed or boxes.shape == (len(scores), 4))
    if not shapes_fit or boxes.dtype.kind not in "fiu" or scores.dtype.kind != "f" or class_ids.dtype.kind not in "iu":
        described = ", ".join(f"{each.dtype} {'×'.join(map(str, each.shape))}" for each in (boxes, scores, class_ids))
        raise EngineError(
            f"decoder {name!r} returned {described}; wanted boxes float32 N×4, scores float32 N, class ids int64 N"
        )
    return (
        boxes.astype(np.float32, copy=False),
        scores.astype(np.float32, copy=False),
        class_ids.astype(np.int64, copy=False),
    )
