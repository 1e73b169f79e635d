"""Fixtures of this room's tests."""

from tests.support.emulated_boards.emulated_power import emulate

__all__ = ["emulate"]
