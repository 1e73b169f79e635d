"""Stands for cuda.bindings.runtime in tests."""

from emulation.cudart import *  # noqa: F403 -- its names are all that the module has
