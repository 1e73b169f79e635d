"""Exponential back-off: growing, random pauses between attempts."""

from __future__ import annotations

import random
from collections.abc import Callable

_MAX_DOUBLINGS = 30  # beyond any bound in use


class Backoff:
    """Pauses that double from the first to the longest; each is random, so that many devices do not return at once."""

    def __init__(
        self, first_s: float, longest_s: float, uniform: Callable[[float, float], float] = random.uniform
    ) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._uniform = uniform
        self.failures = 0  # since the last `reset`

    def next_s(self) -> float:
        """Count a failure and return the pause after it: between half the bound and the bound."""
        bound_s = bound_after(self.failures, self._first_s, self._longest_s)
        self.failures += 1
        return self._uniform(bound_s / 2, bound_s)

    def reset(self) -> None:
        """Start again from the first pause, as after a success."""
        self.failures = 0


def bound_after(doublings: int, first_s: float, longest_s: float) -> float:
    """Return the longest pause after so many doublings."""
    return min(first_s * 2.0 ** min(doublings, _MAX_DOUBLINGS), longest_s)
