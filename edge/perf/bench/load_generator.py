"""Load generator: the scenarios of MLPerf's loadgen for any system under test.

single-stream  one query at a time, of one batch; the next is issued when it ends
multi-stream   one query at a time, of at least QUERY_IMAGES images in whole batches
offline        every lane has one batch in progress and another waiting
server         queries of one image at random times, independent of completions (a Poisson process)

The latency of a query counts from when it was due, not from when the system took it.
"""

from __future__ import annotations

import math
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from edge.core.clock import elapsed_ms, now_ns
from edge.core.errors import EdgeError

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]

QUERY_IMAGES = 8  # of a multi-stream query, as in loadgen
LEAST_QUERIES = 5  # of a run: the least number of blocks of samples
LONGEST_QUERY_S = 600.0  # a large network with a large batch takes half a minute on a small CPU
_POLL_S = 0.1
_DRAIN_POLL_S = 0.002


class System(Protocol):
    """System under test."""

    batch: int  # the largest that it accepts
    lanes: int

    @property
    def failure(self) -> EdgeError | None:
        """The reason that no more queries will end; None while all is well."""

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        """Start a query; call `finish`, from any thread, once all its images are done."""


@dataclass(frozen=True, slots=True)
class Query:
    """Finished query."""

    due_ns: int  # monotonic, like `end_ns`
    end_ns: int
    images: int

    @property
    def latency_ms(self) -> float:
        return elapsed_ms(self.due_ns, self.end_ns)


@dataclass(frozen=True, slots=True)
class Length:
    """Length of a run: a time or a number of images, and in any case a minimum of queries."""

    seconds: float
    images: int | None = None  # None: by time
    least_queries: int = LEAST_QUERIES

    def part(self, parts: int) -> Length:
        """Return the length of one of `parts` runs that add up to this length."""
        images = None if self.images is None else math.ceil(self.images / parts)
        return Length(self.seconds / parts, images, math.ceil(self.least_queries / parts))

    def is_reached(self, queries: int, images: int, elapsed_ns: int) -> bool:
        if queries < self.least_queries:
            return False
        return elapsed_ns >= self.seconds * 1e9 if self.images is None else images >= self.images


class _ClosedLoopRun:
    """Progress of a closed-loop run: the finished queries, and whether there are enough."""

    def __init__(
        self, length: Length, finished: list[Query], start_ns: int, is_hopeless: Callable[[Query], bool] | None
    ) -> None:
        self.start_ns = start_ns
        self.enough = threading.Event()
        self._length = length
        self._finished = finished
        self._images = 0
        self._is_hopeless = is_hopeless

    def add(self, query: Query) -> None:
        if query.end_ns < self.start_ns or self.enough.is_set():
            return  # from the previous run, or too late for this one
        self._finished.append(query)
        self._images += query.images
        if self._is_hopeless is not None and self._is_hopeless(query):
            least = min(self._length.least_queries, LEAST_QUERIES)
            self._length, self._is_hopeless = replace(self._length, least_queries=least), None
        if self._length.is_reached(len(self._finished), self._images, query.end_ns - self.start_ns):
            self.enough.set()


class ClosedLoop:
    """Closed loop: keeps a number of queries in progress, the next one due as one ends.

    The thread in which a query ends issues the next one, so that no other thread has to be woken.
    """

    def __init__(self, system: System, scenario: Scenario) -> None:
        """Prepare a closed loop for any scenario but server."""
        self._system = system
        batches = math.ceil(QUERY_IMAGES / system.batch) if scenario == "multi-stream" else 1
        self._images = batches * system.batch
        self._most = 2 * system.lanes if scenario == "offline" else 1
        self._free_since_ns = deque([0] * self._most)  # free places for queries
        self._lock = threading.Lock()
        self._run: _ClosedLoopRun | None = None
        self._caller = threading.get_ident()

    def run(
        self, length: Length, finished: list[Query], start_ns: int, is_hopeless: Callable[[Query], bool] | None = None
    ) -> None:
        """Append the queries that end from `start_ns` on to `finished` until the run is long enough.

        It ends at the end of a query, and queries still in progress continue. Once `is_hopeless`, called with each
        query, returns true, the run only needs the minimum of any run. Raises the system's failure.
        """
        self._caller = threading.get_ident()
        run = self._run = _ClosedLoopRun(length, finished, start_ns, is_hopeless)
        try:
            self._top_up()
            stall_guard = StallGuard(self._system)
            while not run.enough.wait(_POLL_S):
                stall_guard.check(len(finished))
        finally:
            with self._lock:
                self._run = None

    def drain(self) -> None:
        """Wait for the queries still in progress."""
        stall_guard = StallGuard(self._system)
        while (free := len(self._free_since_ns)) < self._most:
            stall_guard.check(free)
            time.sleep(_DRAIN_POLL_S)

    def _top_up(self) -> None:
        """Issue a query for each free place while the run lasts."""
        while True:
            with self._lock:
                run = self._run
                if run is None or run.enough.is_set() or not self._free_since_ns:
                    return
                due_ns = max(self._free_since_ns.popleft(), run.start_ns)
            self._system.issue(self._images, partial(self._end, due_ns))

    def _end(self, due_ns: int) -> None:
        end_ns = now_ns()
        with self._lock:
            self._free_since_ns.append(end_ns)
            if self._run is not None:
                self._run.add(Query(due_ns, end_ns, self._images))
        if threading.get_ident() != self._caller:  # otherwise the caller is in `_top_up` already
            self._top_up()


def poisson(rate_per_s: float, seed: int) -> Iterator[float]:
    """Yield endless arrival times of a Poisson process, in seconds from 0, reproducible by seed.

    The gaps are independent and exponential, as in MLPerf's server scenario. Raises ValueError for a rate that is not
    a finite number above 0.
    """
    if not (math.isfinite(rate_per_s) and rate_per_s > 0):
        raise ValueError(f"arrival rate: found {rate_per_s} per second, wanted a finite number above 0")
    return _arrivals(rate_per_s, random.Random(seed))  # noqa: S311 -- no secret hangs on it


def _arrivals(rate_per_s: float, numbers: random.Random) -> Iterator[float]:
    at_s = 0.0
    while True:
        at_s += numbers.expovariate(rate_per_s)
        yield at_s


def serve(
    system: System,
    arrivals_s: Iterable[float],
    length: Length,
    finished: list[Query],
    start_ns: int,
    is_hopeless: Callable[[Query], bool],
) -> None:
    """Issue queries of one image at these times after `start_ns`, and wait for all of them.

    `is_hopeless`, called with each query that ends before the last is issued, may cut the run short. Raises the
    system's failure.
    """
    ended: SimpleQueue[Query] = SimpleQueue()
    issued, cut = 0, False
    for number, at_s in enumerate(arrivals_s):
        if length.is_reached(number, number, int(at_s * 1e9)) or cut:
            break
        due_ns = start_ns + int(at_s * 1e9)
        while (wait_ns := due_ns - now_ns()) > 0:
            time.sleep(min(wait_ns / 1e9, _POLL_S))
        system.issue(1, _finish(ended, due_ns))
        issued += 1
        while not ended.empty():
            finished.append(ended.get())
            cut = is_hopeless(finished[-1]) or cut
    stall_guard = StallGuard(system)
    while len(finished) < issued:
        try:
            finished.append(ended.get(timeout=_POLL_S))
        except Empty:
            stall_guard.check(len(finished))


def _finish(ended: SimpleQueue[Query], due_ns: int) -> Callable[[], None]:
    return lambda: ended.put(Query(due_ns, now_ns(), 1))


class StallGuard:
    """Bound on waiting for queries."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._ended = 0
        self._since_ns = now_ns()

    def check(self, ended: int) -> None:
        """Raise the system's failure, or EdgeError if no query has ended for too long."""
        if self._system.failure is not None:
            raise self._system.failure
        if ended != self._ended:
            self._ended, self._since_ns = ended, now_ns()
        elif now_ns() - self._since_ns > LONGEST_QUERY_S * 1e9:
            raise EdgeError(
                f"no query ended within {LONGEST_QUERY_S:g} s; see --log-level info, or use a smaller --batch"
            )
