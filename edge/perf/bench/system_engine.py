"""Engine alone as the system under test, with seeded Gaussian input already in its buffers."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Collection
from types import TracebackType

import numpy as np

from edge.core.errors import EdgeError, EngineError
from edge.inference.backends.engine import Context, Engine
from edge.inference.infer import Inference

STOP_S = 60.0  # for the batches in progress: a large one takes half a minute on a small CPU


class _EngineQuery:
    """Query with the number of its unfinished images."""

    __slots__ = ("finish", "left")

    def __init__(self, images: int, finish: Callable[[], None]) -> None:
        self.left = images
        self.finish = finish


class EngineAlone:
    """Context manager around an engine's contexts, one per lane.

    With `in_caller`, the only lane is the caller's thread, and a query has ended when `issue` returns. Otherwise each
    lane is a thread that takes the waiting images, at most a whole batch.
    """

    def __init__(self, engine: Engine, batch: int, lanes: int, seed: int, *, in_caller: bool) -> None:
        self.batch = batch
        self.lanes = 1 if in_caller else lanes
        self.failure: EdgeError | None = None
        self._engine = engine
        self._seed = seed
        self._in_caller = in_caller
        self._waiting: deque[_EngineQuery] = deque()  # one entry per image
        self._came = threading.Condition()
        self._stopped = False
        self._threads: list[threading.Thread] = []
        self._open = contextlib.ExitStack()

    def __enter__(self) -> EngineAlone:
        if self._in_caller:
            self._inference = self._make(self._open)
            return self
        ready = threading.Barrier(self.lanes + 1)
        self._threads = [
            threading.Thread(target=self._run, args=(ready,), name=f"bench-lane-{number}", daemon=True)
            for number in range(self.lanes)
        ]
        for thread in self._threads:
            thread.start()
        ready.wait(STOP_S)
        if self.failure is not None:
            self.__exit__(None, None, None)
            raise self.failure
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._came:
            self._stopped = True
            self._came.notify_all()
        for thread in self._threads:
            thread.join(STOP_S)
        self._open.close()
        if not any(thread.is_alive() for thread in self._threads):
            self._engine.close()

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        if self._in_caller:
            for first in range(0, images, self.batch):
                self._inference.run(min(self.batch, images - first))
            finish()
            return
        query = _EngineQuery(images, finish)
        with self._came:
            self._waiting.extend([query] * images)
            self._came.notify(-(-images // self.batch))

    def _make(self, opened: contextlib.ExitStack) -> Inference:
        context = opened.enter_context(self._engine.make_context(self.batch))
        fill_gaussian(context, self._seed, (self._engine.inputs[0].name,))
        return Inference(context, self._engine, self.batch)

    def _run(self, ready: threading.Barrier) -> None:
        with contextlib.ExitStack() as opened:
            try:
                inference = self._make(opened)
            # Top of a thread: whatever keeps a context from opening must reach the caller that waits for it.
            except Exception as error:  # noqa: BLE001
                self._fail(error)
                inference = None
            ready.wait(STOP_S)
            while inference is not None and (queries := self._pop()):
                try:
                    inference.run(len(queries))
                except Exception as error:  # noqa: BLE001 -- likewise
                    self._fail(error)
                    return
                self._finish(queries)

    def _pop(self) -> list[_EngineQuery]:
        """Wait for images and return their queries; empty at the end."""
        with self._came:
            while not self._waiting and not self._stopped:
                self._came.wait()
            if self._stopped:
                return []
            return [self._waiting.popleft() for _ in range(min(self.batch, len(self._waiting)))]

    def _finish(self, queries: list[_EngineQuery]) -> None:
        with self._came:
            for query in queries:
                query.left -= 1
            ended = [query for query in dict.fromkeys(queries) if not query.left]
        for query in ended:
            query.finish()

    def _fail(self, error: Exception) -> None:
        self.failure = error if isinstance(error, EdgeError) else EngineError(f"the engine failed: {error}")


def fill_gaussian(context: Context, seed: int, names: Collection[str] = ()) -> None:
    """Fill inputs, all by default, with Gaussian numbers of mean 0 and deviation 1, rounded for integer types."""
    random = np.random.default_rng(seed)
    for name in sorted(names or context.inputs):
        array = context.inputs[name]
        numbers = random.standard_normal(array.shape, np.float32)
        array[...] = numbers if array.dtype.kind == "f" else np.abs(np.rint(numbers)).astype(array.dtype)
