"""Streams, events and captures: what is queued runs in order when somebody waits for it."""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from emulation.errors import Code, CudaFailure, Misuse

_handles = itertools.count(0x7F0000001000, 0x40)  # look like pointers, and are none
_NO_TIMING = 2


@dataclass
class Operation:
    """One thing for the GPU to do; `check` is asked each time that a graph launches it."""

    run: Callable[[], None]
    what: str
    check: Callable[[], None] = lambda: None
    holds: tuple[Any, ...] = ()  # what must not be used elsewhere at the same time


@dataclass
class Capture:
    """Operations that are recorded instead of queued."""

    thread_local: bool
    thread: int
    operations: list[Operation] = field(default_factory=list)
    valid: bool = True


class Stream:
    """A queue of operations."""

    def __init__(self, on_failure: Callable[[Code], None], is_dead: Callable[[], bool]) -> None:
        self.handle = next(_handles)
        self.capture: Capture | None = None
        self.destroyed = False
        self._on_failure = on_failure
        self._is_dead = is_dead
        self._pending: deque[Operation] = deque()
        self._lock = threading.RLock()  # of the queue
        self._running = threading.RLock()  # held by the one who runs it
        self.queued = 0
        self.done = 0
        # What this stream knows to be over, by other stream: its own work runs after that.
        self.seen: dict[Stream, int] = {}

    def put(self, operation: Operation) -> int:
        """Queue, or record while capturing; return its place in the queue."""
        if self.destroyed:
            raise Misuse(f"{operation.what} on a stream that was destroyed")
        if self.capture is not None:
            if not self.capture.valid:
                raise CudaFailure(Code.CAPTURE_INVALIDATED)
            self.capture.operations.append(operation)
            return self.queued
        with self._lock:
            self._pending.append(operation)
            self.queued += 1
            return self.queued

    def drain(self, until: int | None = None) -> None:
        """Run what is queued, up to a place."""
        target = self.queued if until is None else until
        with self._running:
            while self.done < target:
                with self._lock:
                    operation = self._pending.popleft()
                try:
                    if not self._is_dead():
                        operation.run()
                except CudaFailure as failure:
                    self._on_failure(failure.code)
                finally:
                    self.done += 1

    def try_drain(self, until: int | None = None) -> None:
        """Run it unless another thread is at it."""
        if self._running.acquire(blocking=False):
            try:
                self.drain(until)
            finally:
                self._running.release()

    def pending(self) -> list[tuple[int, Operation]]:
        """Return what is not over yet, with its places."""
        with self._lock:
            return list(enumerate(self._pending, self.queued - len(self._pending) + 1))

    @contextmanager
    def invalidating(self) -> Iterator[None]:
        """A call that a capture forbids: it fails, and spoils the capture."""
        if self.capture is not None:
            self.capture.valid = False
            raise CudaFailure(Code.CAPTURE_UNSUPPORTED)
        yield


@dataclass
class Mark:
    """A place in a stream's queue, stamped when it is reached."""

    stream: Stream
    place: int = 0
    captured: bool = False
    reached_ns: int | None = None
    seen: dict[Stream, int] = field(default_factory=dict)

    def stamp(self) -> None:
        self.reached_ns = time.perf_counter_ns()


class Event:
    """A mark that can be set anew."""

    def __init__(self, flags: int) -> None:
        self.handle = next(_handles)
        self.has_timing = not flags & _NO_TIMING
        self.mark: Mark | None = None

    def record(self, stream: Stream) -> None:
        mark = Mark(stream, captured=stream.capture is not None, seen=dict(stream.seen))
        mark.place = stream.put(Operation(mark.stamp, "an event"))
        self.mark = mark

    def wait(self) -> None:
        """Return when it was reached; an event that was never recorded is no reason to wait."""
        if self.mark is None:
            return
        self._refuse_captured(self.mark)
        self.mark.stream.drain(self.mark.place)

    def is_reached(self) -> bool:
        """Tell, and let the GPU go on: the answer comes from before that."""
        if self.mark is None:
            return True
        self._refuse_captured(self.mark)
        reached = self.mark.reached_ns is not None
        if not reached:
            self.mark.stream.try_drain(self.mark.place)
        return reached

    def hold_up(self, stream: Stream) -> None:
        """Let a stream wait for it."""
        mark = self.mark
        if mark is None:
            return
        if mark.captured or stream.capture is not None:
            if mark.captured and mark.stream is stream:
                return
            raise Misuse("a capture over several streams is not emulated")
        stream.put(Operation(lambda: mark.stream.drain(mark.place), "waiting for an event"))
        with_this = {mark.stream: mark.place}
        for other, place in (mark.seen | with_this).items():
            stream.seen[other] = max(place, stream.seen.get(other, 0))

    def milliseconds_since(self, start: Event) -> float:
        for event in (start, self):
            if not event.has_timing or event.mark is None or event.mark.captured:
                raise CudaFailure(Code.INVALID_HANDLE)
            if event.mark.reached_ns is None:
                raise CudaFailure(Code.NOT_READY)
        assert self.mark is not None
        assert start.mark is not None
        return ((self.mark.reached_ns or 0) - (start.mark.reached_ns or 0)) / 1e6

    @staticmethod
    def _refuse_captured(mark: Mark) -> None:
        if mark.captured:
            if mark.stream.capture is not None:
                mark.stream.capture.valid = False
            raise CudaFailure(Code.CAPTURED_EVENT)


class Graph:
    """What a capture has recorded."""

    def __init__(self, operations: list[Operation]) -> None:
        self.handle = next(_handles)
        self.operations = operations
        self.destroyed = False
