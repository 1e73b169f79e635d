"""When the queries of the server scenario are meant to arrive."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator


def poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    """Yield without end the arrival times, in seconds from 0, of a Poisson process; a seed always gives the same.

    The gaps are independent and exponential, as in MLPerf's server scenario. Raise ValueError where the rate is no
    finite number above 0.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ValueError(f"arrival rate: found {rate_per_s} a second, wanted a finite number above 0")
    return _arrivals(rate_per_s, random.Random(seed))  # noqa: S311 -- no secret hangs on it


def _arrivals(rate_per_s: float, numbers: random.Random) -> Iterator[float]:
    at_s = 0.0
    while True:
        at_s += numbers.expovariate(rate_per_s)
        yield at_s
