"""The load generator: how queries come, in the words of MLPerf's loadgen, on any system under test.

single-stream  one query at a time, each of one batch; the next comes when the last has ended
multi-stream   one query at a time, each of at least QUERY_IMAGES images, in whole batches
offline        every lane has a batch in work and another one waiting
server         queries of one image, at random times that do not wait for anybody (a Poisson process)

A query's latency counts from the moment at which it was due, whenever the system took it.
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
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "server", "offline")

QUERY_IMAGES = 8  # of a multi-stream query, as loadgen has it
LEAST_QUERIES = 5  # of a run: as many blocks of samples are wanted
LONGEST_QUERY_S = 600.0  # a large network with a large batch takes half a minute on a small CPU
_POLL_S = 0.1
_DRAIN_POLL_S = 0.002


class System(Protocol):
    """What is measured."""

    batch: int  # the largest that it takes at once
    lanes: int

    @property
    def failure(self) -> EdgeError | None:
        """Why no more queries will end; None while all is well."""

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        """Take a query; call `finish`, from any thread, when all its images are done."""


@dataclass(frozen=True, slots=True)
class Query:
    """One that has ended."""

    due_ns: int  # monotonic, as `end_ns`
    end_ns: int
    images: int

    @property
    def latency_ms(self) -> float:
        return elapsed_ms(self.due_ns, self.end_ns)


@dataclass(frozen=True, slots=True)
class Length:
    """When a run is long enough: after some time, or some images, and never before so many queries."""

    seconds: float
    images: int | None = None  # None: by time
    least_queries: int = LEAST_QUERIES

    def part(self, parts: int) -> Length:
        """Return the length of each of so many runs, which together are as long."""
        images = None if self.images is None else math.ceil(self.images / parts)
        return Length(self.seconds / parts, images, math.ceil(self.least_queries / parts))

    def is_reached(self, queries: int, images: int, elapsed_ns: int) -> bool:
        if queries < self.least_queries:
            return False
        return elapsed_ns >= self.seconds * 1e9 if self.images is None else images >= self.images


class _ClosedLoopRun:
    """What a closed loop is at: how many queries have ended, and when there are enough."""

    def __init__(
        self, length: Length, taken: list[Query], start_ns: int, is_hopeless: Callable[[Query], bool] | None
    ) -> None:
        self.start_ns = start_ns
        self.enough = threading.Event()
        self._length = length
        self._taken = taken
        self._images = 0
        self._is_hopeless = is_hopeless

    def take(self, query: Query) -> None:
        if query.end_ns < self.start_ns or self.enough.is_set():
            return  # of the run before, or too late for this one
        self._taken.append(query)
        self._images += query.images
        if self._is_hopeless is not None and self._is_hopeless(query):
            least = min(self._length.least_queries, LEAST_QUERIES)
            self._length, self._is_hopeless = replace(self._length, least_queries=least), None
        if self._length.is_reached(len(self._taken), self._images, query.end_ns - self.start_ns):
            self.enough.set()


class ClosedLoop:
    """Keeps a number of queries in work: the end of one is the moment at which the next is due.

    The next is issued by the thread in which one ends, so that nobody has to be woken for it.
    """

    def __init__(self, system: System, scenario: Scenario) -> None:
        """Take any scenario but server."""
        self._system = system
        batches = math.ceil(QUERY_IMAGES / system.batch) if scenario == "multi-stream" else 1
        self._images = batches * system.batch
        self._most = 2 * system.lanes if scenario == "offline" else 1
        self._free_since_ns = deque([0] * self._most)  # places for queries that are not in work
        self._lock = threading.Lock()
        self._run: _ClosedLoopRun | None = None
        self._caller = threading.get_ident()

    def run(
        self, length: Length, taken: list[Query], start_ns: int, is_hopeless: Callable[[Query], bool] | None = None
    ) -> None:
        """Add the queries that end from `start_ns` on to `taken` until the run is long enough.

        It ends with the end of a query, and what is in work then goes on. A run of which `is_hopeless`, shown each
        query, says so need not have more queries than any. Raises the system's failure.
        """
        self._caller = threading.get_ident()
        run = self._run = _ClosedLoopRun(length, taken, start_ns, is_hopeless)
        try:
            self._top_up()
            patience = Patience(self._system)
            while not run.enough.wait(_POLL_S):
                patience.check(len(taken))
        finally:
            with self._lock:
                self._run = None

    def drain(self) -> None:
        """Wait for what is still in work."""
        patience = Patience(self._system)
        while (free := len(self._free_since_ns)) < self._most:
            patience.check(free)
            time.sleep(_DRAIN_POLL_S)

    def _top_up(self) -> None:
        """Issue a query for each free place, while the run goes on."""
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
                self._run.take(Query(due_ns, end_ns, self._images))
        if threading.get_ident() != self._caller:  # else the caller is in `_top_up` already
            self._top_up()


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


def serve(
    system: System,
    arrivals_s: Iterable[float],
    length: Length,
    taken: list[Query],
    start_ns: int,
    is_hopeless: Callable[[Query], bool],
) -> None:
    """Issue queries of one image at these times from `start_ns` on, and wait for all of them.

    `is_hopeless`, shown each query that ends before the last is issued, may cut the run short. Raises the system's
    failure.
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
            taken.append(ended.get())
            cut = is_hopeless(taken[-1]) or cut
    patience = Patience(system)
    while len(taken) < issued:
        try:
            taken.append(ended.get(timeout=_POLL_S))
        except Empty:
            patience.check(len(taken))


def _finish(ended: SimpleQueue[Query], due_ns: int) -> Callable[[], None]:
    return lambda: ended.put(Query(due_ns, now_ns(), 1))


class Patience:
    """Bounds a wait for queries."""

    def __init__(self, system: System) -> None:
        self._system = system
        self._ended = 0
        self._since_ns = now_ns()

    def check(self, ended: int) -> None:
        """Raise the system's failure, and EdgeError where no more queries have ended for too long."""
        if self._system.failure is not None:
            raise self._system.failure
        if ended != self._ended:
            self._ended, self._since_ns = ended, now_ns()
        elif now_ns() - self._since_ns > LONGEST_QUERY_S * 1e9:
            raise EdgeError(
                f"no query ended within {LONGEST_QUERY_S:g} s; see --log-level info, or take a smaller --batch"
            )
