"""NVIDIA's TensorRT library, where it is installed."""

from __future__ import annotations

from typing import Any

import pytest

from edge.core.errors import EngineError
from edge.inference.backends.tensorrt import builder as build_module
from edge.inference.backends.tensorrt.library import load_tensorrt, make_logger


def real_tensorrt() -> Any:
    """Return the library; skip the test where it is not installed."""
    try:
        return load_tensorrt()
    except EngineError as error:
        pytest.skip(str(error))


def building_tensorrt() -> Any:
    """Return the library; skip the test where it is not installed, or cannot build here."""
    library = real_tensorrt()
    try:
        build_module._make_builder(library, make_logger(library))
    except EngineError as error:
        pytest.skip(str(error))
    return library
