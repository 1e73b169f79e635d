"""Stands for tensorrt in tests."""

from emulation.trt import *  # noqa: F403 -- its names are all that the module has
from emulation.trt import __version__

__all__ = ["__version__"]  # and all that is above
