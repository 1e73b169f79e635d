"""Stands for pycuda.driver in tests; `emulation` holds what a test sets."""

import emulation
from emulation.driver import *  # noqa: F403 -- its names are all that the module has

__all__ = ["emulation"]  # and all that is above
