"""Frames of many streams → batches, by size, waiting time and frame age.

Each stream has a queue of its own, so that a fast stream cannot starve a slow one: queues take turns, and a turn is
one frame. The policy of a full queue has a name: `live` keeps the newest frame and drops the other, `every` makes the
source wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable

from edge.core.clock import now_ns
from edge.core.records import Batch, DropCause, Frame

# An `every` source may be this many batches ahead, so that a lane that comes back finds its next batch ready.
EVERY_BATCHES_AHEAD = 2


class StreamQueue:
    """Frames of one stream that wait for a lane; its camera puts them here."""

    def __init__(self, batcher: Batcher, capacity: int, max_age_ns: int, *, every: bool) -> None:
        self.capacity = capacity
        self.max_age_ns = max_age_ns  # 0: no bound
        self.every = every
        self.frames: deque[Frame] = deque()
        self.open = True  # frames may still come
        self.next_ticket = 0
        self._batcher = batcher

    def put(self, frame: Frame) -> None:
        """Add a frame; on `every`, wait until there is a place for it or the queue is closed."""
        rejected = self._batcher.add(self, frame)
        if rejected is not None:
            dropped, cause = rejected
            dropped.owner.drop(dropped, cause)

    def close(self) -> None:
        """Accept no more frames; those that wait are still served."""
        self._batcher.close_queue(self)

    def discard(self) -> None:
        """Accept no more frames, and drop those that wait."""
        self._batcher.close_queue(self)
        for frame in self._batcher.drain_queue(self):
            frame.owner.drop(frame, "stopped")


class Batcher:
    """Meeting point of one model's cameras, which put frames, and its lanes, which pop batches."""

    def __init__(self, max_batch: int, max_wait_ms: float) -> None:
        self._largest_batch = self._max_batch = max_batch
        self._max_wait_ns = int(max_wait_ms * 1e6)
        self._open_queues: set[StreamQueue] = set()
        self._turns: deque[StreamQueue] = deque()  # queues that hold frames, in the order of their turns
        self._waiting = 0  # frames in all queues
        self._closed = False
        self._dismissed: set[object] = set()  # lanes
        lock = threading.Lock()
        self._frame_came = threading.Condition(lock)
        self._place_freed = threading.Condition(lock)

    def add_stream(self, *, every: bool, max_age_ms: float) -> StreamQueue:
        """Make a stream's queue; dropped frames go to their owner's `drop`, without a lock held."""
        capacity = EVERY_BATCHES_AHEAD * self._largest_batch if every else 1
        queue = StreamQueue(self, capacity, 0 if every else int(max_age_ms * 1e6), every=every)
        with self._frame_came:
            self._open_queues.add(queue)
        return queue

    def add(self, queue: StreamQueue, frame: Frame) -> tuple[Frame, DropCause] | None:
        """Add a frame to a stream's queue; return the frame that had no place, with the cause."""
        with self._frame_came:
            while queue.every and queue.open and len(queue.frames) >= queue.capacity:
                self._place_freed.wait()
            if not queue.open:
                return frame, "stopped"
            overrun = queue.frames.popleft() if len(queue.frames) >= queue.capacity else None
            queue.frames.append(frame)
            if overrun is not None:
                return overrun, "overrun"  # the queue keeps its turn
            self._waiting += 1
            if len(queue.frames) == 1:
                self._turns.append(queue)
            self._frame_came.notify()
            return None

    def limit(self, max_batch: int, max_wait_ms: float) -> None:
        """Limit the size of batches, and how long a frame waits for others, from now on."""
        with self._frame_came:
            self._max_batch = min(max_batch, self._largest_batch)
            self._max_wait_ns = int(max_wait_ms * 1e6)
            self._frame_came.notify_all()

    @property
    def is_idle(self) -> bool:
        """True where no frame waits."""
        return self._waiting == 0

    def close_queue(self, queue: StreamQueue) -> None:
        """Accept no more frames of a stream; batches stop waiting for it."""
        with self._frame_came:
            queue.open = False
            self._open_queues.discard(queue)
            self._place_freed.notify_all()
            self._frame_came.notify_all()

    def drain_queue(self, queue: StreamQueue) -> list[Frame]:
        """Remove and return all frames of a queue."""
        with self._frame_came:
            frames = list(queue.frames)
            queue.frames.clear()
            self._waiting -= len(frames)
            if queue in self._turns:
                self._turns.remove(queue)
            return frames

    def pop(self, lane: object = None) -> Batch | None:
        """Wait for the next batch; None when the batcher is closed and nothing is left, or the lane is dismissed."""
        while True:
            batch, stale = self._pop(lane)
            for frame in stale:
                frame.owner.drop(frame, "stale")
            if batch is None or batch.frames:
                return batch

    def close(self) -> None:
        """Let the lanes go once no frame waits."""
        with self._frame_came:
            self._closed = True
            self._frame_came.notify_all()

    def dismiss(self, lanes: Iterable[object]) -> None:
        """Let these lanes go; the others take what waits."""
        with self._frame_came:
            self._dismissed.update(lanes)
            self._frame_came.notify_all()

    def _pop(self, lane: object) -> tuple[Batch | None, list[Frame]]:
        with self._frame_came:
            while not self._turns and lane not in self._dismissed:
                if self._closed:
                    return None, []
                self._frame_came.wait()
            while self._turns and lane not in self._dismissed and (wait_ns := self._wait_left_ns()) > 0:
                self._frame_came.wait(wait_ns / 1e9)
            if lane in self._dismissed:
                self._dismissed.remove(lane)
                self._frame_came.notify()  # the frame that woke this one is another's
                return None, []
            batch, stale = self._form(now_ns())
            self._place_freed.notify_all()
            return batch, stale

    def _wait_left_ns(self) -> int:
        """Return how long the batch may still wait for more frames; 0 when it leaves."""
        full = self._waiting >= self._max_batch
        if self._closed or full or not self._max_wait_ns or self._open_queues <= set(self._turns):
            return 0
        oldest_ns = min(queue.frames[0].captured_ns for queue in self._turns)
        return max(0, oldest_ns + self._max_wait_ns - now_ns())

    def _form(self, formed_ns: int) -> tuple[Batch, list[Frame]]:
        """Take one frame per turn until the batch is full; frames past their age are set aside."""
        batch = Batch([], formed_ns)
        stale: list[Frame] = []
        while self._turns and len(batch.frames) < self._max_batch:
            queue = self._turns.popleft()
            frame = queue.frames.popleft()
            self._waiting -= 1
            if queue.frames:
                self._turns.append(queue)
            if queue.max_age_ns and formed_ns - frame.captured_ns > queue.max_age_ns:
                stale.append(frame)
                continue
            frame.ticket = queue.next_ticket
            queue.next_ticket += 1
            batch.frames.append(frame)
        return batch, stale
