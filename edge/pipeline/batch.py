"""Frames of many streams → batches, by size, waiting time and frame age.

Each stream has its own waiting room, so that a fast stream cannot starve a slow one: rooms take turns, and a turn is
one frame. A room's policy when full has a name: `live` keeps the newest frame and drops the other, `every` lets the
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
    """One stream's waiting room, at which its camera hands in frames."""

    def __init__(self, batcher: Batcher, places: int, max_age_ns: int, *, every: bool) -> None:
        self.places = places
        self.max_age_ns = max_age_ns  # 0: no bound
        self.every = every
        self.frames: deque[Frame] = deque()
        self.open = True  # frames may still come
        self.next_ticket = 0
        self._batcher = batcher

    def put(self, frame: Frame) -> None:
        """Hand in a frame; on `every`, wait until there is a place for it or the room is closed."""
        turned_away = self._batcher.admit(self, frame)
        if turned_away is not None:
            dropped, cause = turned_away
            dropped.owner.drop(dropped, cause)

    def end(self) -> None:
        """Close the room: what waits in it is still served."""
        self._batcher.close_room(self)

    def remove(self) -> None:
        """Close the room and drop what waits in it."""
        self._batcher.close_room(self)
        for frame in self._batcher.empty_room(self):
            frame.owner.drop(frame, "stopped")


class Batcher:
    """The meeting point of one model's cameras, which put, and its lanes, which take."""

    def __init__(self, max_batch: int, max_wait_ms: float) -> None:
        self._largest_batch = self._max_batch = max_batch
        self._max_wait_ns = int(max_wait_ms * 1e6)
        self._open_rooms: set[StreamQueue] = set()
        self._turns: deque[StreamQueue] = deque()  # rooms that hold frames, in the order of their turns
        self._waiting = 0  # frames in all rooms
        self._closed = False
        self._dismissed: set[object] = set()
        lock = threading.Lock()
        self._frame_came = threading.Condition(lock)
        self._place_freed = threading.Condition(lock)

    def add_stream(self, *, every: bool, max_age_ms: float) -> StreamQueue:
        """Make a waiting room; frames that are dropped go to their owner's `drop`, without a lock held."""
        places = EVERY_BATCHES_AHEAD * self._largest_batch if every else 1
        room = StreamQueue(self, places, 0 if every else int(max_age_ms * 1e6), every=every)
        with self._frame_came:
            self._open_rooms.add(room)
        return room

    def admit(self, room: StreamQueue, frame: Frame) -> tuple[Frame, DropCause] | None:
        """Let a frame in; return the frame that had no place, with the cause."""
        with self._frame_came:
            while room.every and room.open and len(room.frames) >= room.places:
                self._place_freed.wait()
            if not room.open:
                return frame, "stopped"
            overrun = room.frames.popleft() if len(room.frames) >= room.places else None
            room.frames.append(frame)
            if overrun is not None:
                return overrun, "overrun"  # the room keeps its turn
            self._waiting += 1
            if len(room.frames) == 1:
                self._turns.append(room)
            self._frame_came.notify()
            return None

    def limit(self, max_batch: int, max_wait_ms: float) -> None:
        """Let batches be at most so large, and wait so long for company, from now on."""
        with self._frame_came:
            self._max_batch = min(max_batch, self._largest_batch)
            self._max_wait_ns = int(max_wait_ms * 1e6)
            self._frame_came.notify_all()

    @property
    def is_idle(self) -> bool:
        """Tell whether no frame waits."""
        return self._waiting == 0

    def close_room(self, room: StreamQueue) -> None:
        """No frame comes any more; batches stop waiting for this stream."""
        with self._frame_came:
            room.open = False
            self._open_rooms.discard(room)
            self._place_freed.notify_all()
            self._frame_came.notify_all()

    def empty_room(self, room: StreamQueue) -> list[Frame]:
        """Take all frames out of a room."""
        with self._frame_came:
            frames = list(room.frames)
            room.frames.clear()
            self._waiting -= len(frames)
            if room in self._turns:
                self._turns.remove(room)
            return frames

    def take(self, taker: object = None) -> Batch | None:
        """Wait for the next batch; None when the batcher is closed and nothing is left, or the taker is dismissed."""
        while True:
            batch, stale = self._take(taker)
            for frame in stale:
                frame.owner.drop(frame, "stale")
            if batch is None or batch.frames:
                return batch

    def close(self) -> None:
        """Let the lanes go once nothing waits any more."""
        with self._frame_came:
            self._closed = True
            self._frame_came.notify_all()

    def dismiss(self, takers: Iterable[object]) -> None:
        """Let these takers go, others take what waits."""
        with self._frame_came:
            self._dismissed.update(takers)
            self._frame_came.notify_all()

    def _take(self, taker: object) -> tuple[Batch | None, list[Frame]]:
        with self._frame_came:
            while not self._turns and taker not in self._dismissed:
                if self._closed:
                    return None, []
                self._frame_came.wait()
            while self._turns and taker not in self._dismissed and (wait_ns := self._wait_left_ns()) > 0:
                self._frame_came.wait(wait_ns / 1e9)
            if taker in self._dismissed:
                self._dismissed.remove(taker)
                self._frame_came.notify()  # the frame that woke this one is another's
                return None, []
            batch, stale = self._form(now_ns())
            self._place_freed.notify_all()
            return batch, stale

    def _wait_left_ns(self) -> int:
        """Return how long the batch may still wait for company; 0 when it leaves."""
        full = self._waiting >= self._max_batch
        if self._closed or full or not self._max_wait_ns or self._open_rooms <= set(self._turns):
            return 0
        oldest_ns = min(room.frames[0].captured_ns for room in self._turns)
        return max(0, oldest_ns + self._max_wait_ns - now_ns())

    def _form(self, formed_ns: int) -> tuple[Batch, list[Frame]]:
        """Take one frame a turn until the batch is full; frames past their age are set aside."""
        batch = Batch([], formed_ns)
        stale: list[Frame] = []
        while self._turns and len(batch.frames) < self._max_batch:
            room = self._turns.popleft()
            frame = room.frames.popleft()
            self._waiting -= 1
            if room.frames:
                self._turns.append(room)
            if room.max_age_ns and formed_ns - frame.captured_ns > room.max_age_ns:
                stale.append(frame)
                continue
            frame.ticket = room.next_ticket
            room.next_ticket += 1
            batch.frames.append(frame)
        return batch, stale
