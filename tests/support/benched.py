"""Systems under test whose speed is known, and pieces of rows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue

from edge.core.errors import EdgeError
from edge.perf.bench.load_generator import Scenario
from edge.perf.bench.stretch import RowSetting

Stall = tuple[int, float]  # at which query, for how many seconds


def setting(scenario: Scenario = "single-stream", batch: int = 1) -> RowSetting:
    return RowSetting("board", "MAXQ", "fp32", "net", batch, 1, scenario)


class Known:
    """A system of some lanes, each of which takes so long for a query, and once for longer."""

    def __init__(self, seconds: float, *, batch: int = 1, lanes: int = 1, stall: Stall | None = None) -> None:
        self.batch, self.lanes = batch, lanes
        self.failure: EdgeError | None = None
        self.sizes: list[int] = []
        self.most_in_work = 0
        self._in_work = 0
        self._seconds = seconds
        self._stall = stall
        self._came: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(lanes)]

    def __enter__(self) -> Known:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        for _thread in self._threads:
            self._came.put(None)

    def issue(self, images: int, finish: Callable[[], None]) -> None:
        with self._lock:
            self.sizes.append(images)
            self._in_work += 1
            self.most_in_work = max(self.most_in_work, self._in_work)
        self._came.put(finish)

    def _serve(self) -> None:
        served = 0
        while (finish := self._came.get()) is not None:
            time.sleep(self._stall[1] if self._stall and self._stall[0] == served else self._seconds)
            served += 1
            with self._lock:
                self._in_work -= 1
            finish()
