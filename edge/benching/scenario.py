"""The load generator: how queries come, in the words of MLPerf's loadgen, on any system under test.

single-stream  one query at a time, each of one batch; the next comes when the last has ended
multi-stream   one query at a time, each of at least QUERY_IMAGES images, in whole batches
offline        every lane has a batch in work and another one waiting
server         queries of one image, at random times that do not wait for anybody (a Poisson process)

A query's latency counts from the moment at which it was due, whenever the system took it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue
from typing import Literal, Protocol

from edge.clock import elapsed_ms, now_ns
from edge.errors import EdgeError

Scenario = Literal["single-stream", "multi-stream", "server", "offline"]
SCENARIOS: tuple[Scenario, ...] = ("single-stream", "multi-stream", "server", "offline")

QUERY_IMAGES = 8  # of a multi-stream query, as loadgen has it
LEAST_QUERIES = 5  # of a run: as many blocks of samples are wanted
LONGEST_QUERY_S = 600.0  # a large network with a large batch takes half a minute on a small CPU
_POLL_S = 0.1


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

    def is_reached(self, queries: int, images: int, elapsed_ns: int) -> bool:
        if queries < self.least_queries:
            return False
        return elapsed_ns >= self.seconds * 1e9 if self.images is None else images >= self.images


class ClosedLoop:
    """Keeps a number of queries in work: a new one comes when one has ended."""

    def __init__(self, system: System, scenario: Scenario) -> None:
        """Take any scenario but server."""
        self._system = system
        self._most = 2 * system.lanes if scenario == "offline" else 1
        batches = math.ceil(QUERY_IMAGES / system.batch) if scenario == "multi-stream" else 1
        self._images = batches * system.batch
        self._in_work = 0
        self._ended: SimpleQueue[Query] = SimpleQueue()

    def run(
        self, length: Length, taken: list[Query], start_ns: int, is_hopeless: Callable[[Query], bool] | None = None
    ) -> None:
        """Add the queries that end from `start_ns` on to `taken` until the run is long enough.

        It ends with the end of a query, so that two runs follow one another without a gap. What `is_hopeless`, which is
        shown each query, need not have more queries than any run. Raises the system's failure.
        """
        images, is_patient = 0, True
        while True:
            while self._in_work < self._most:
                self._issue()
            query = self._await_end()
            if query.end_ns < start_ns:
                continue  # of the run before
            taken.append(query)
            images += query.images
            if is_hopeless is not None and is_hopeless(query) and is_patient:
                is_patient, length = False, replace(length, least_queries=LEAST_QUERIES)
            if length.is_reached(len(taken), images, query.end_ns - start_ns):
                return

    def drain(self) -> None:
        """Wait for what is still in work."""
        while self._in_work:
            self._await_end()

    def _await_end(self) -> Query:
        query = await_end(self._ended, self._system)
        self._in_work -= 1
        return query

    def _issue(self) -> None:
        due_ns, images = now_ns(), self._images
        self._in_work += 1
        self._system.issue(images, lambda: self._ended.put(Query(due_ns, now_ns(), images)))


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
    while len(taken) < issued:
        taken.append(await_end(ended, system))


def _finish(ended: SimpleQueue[Query], due_ns: int) -> Callable[[], None]:
    return lambda: ended.put(Query(due_ns, now_ns(), 1))


def await_end(ended: SimpleQueue[Query], system: System) -> Query:
    """Wait for the next query that ends; raise the system's failure, or EdgeError where none ends in time."""
    for _ in itertools.repeat(None, int(LONGEST_QUERY_S / _POLL_S)):
        try:
            return ended.get(timeout=_POLL_S)
        except Empty:
            if system.failure is not None:
                raise system.failure from None
    raise EdgeError(f"no query ended within {LONGEST_QUERY_S:g} s; see --log-level info, or take a smaller --batch")
