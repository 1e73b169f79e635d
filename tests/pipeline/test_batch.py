"""Frames of many streams → batches: nothing lost in silence, nobody starved, nothing out of order."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.core.clock import now_ns
from edge.core.records import Batch, DropCause, Frame, Result
from edge.pipeline.batch import EVERY_BATCHES_AHEAD, Batcher, StreamQueue

PICTURE = np.zeros((1, 1, 3), np.uint8)
LONG_S = 10.0  # a wait that only a hanging test reaches
NEVER_MS = 600_000.0


@dataclass
class Camera:
    """The owner of one stream's frames: makes them and remembers what became of them."""

    name: str
    score_threshold: float | None = None
    made: int = 0
    dropped: list[tuple[int, DropCause]] = field(default_factory=list)

    def frame(self, age_s: float = 0.0) -> Frame:
        self.made += 1
        return Frame(self, self.made - 1, PICTURE, now_ns() - int(age_s * 1e9), 0)

    def drop(self, frame: Frame, cause: DropCause) -> None:
        self.dropped.append((frame.number, cause))

    def finish(self, frame: Frame, result: Result) -> None:
        raise NotImplementedError


def stream(
    batcher: Batcher, name: str = "s", *, every: bool = False, max_age_ms: float = 0.0
) -> tuple[Camera, StreamQueue]:
    return Camera(name), batcher.add_stream(every=every, max_age_ms=max_age_ms)


def numbers(batch: Batch | None) -> list[tuple[str, int]]:
    assert batch is not None
    return [(frame.owner.name, frame.number) for frame in batch.frames]


def in_background(action: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=action, daemon=True)
    thread.start()
    return thread


def has_ended(thread: threading.Thread) -> bool:
    thread.join(LONG_S)
    return not thread.is_alive()


def test_a_frame_leaves_at_once_when_nothing_is_to_be_waited_for() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher)
    stream(batcher, "silent")
    queue.put(camera.frame())
    assert numbers(batcher.pop()) == [("s", 0)]


def test_a_batch_tells_when_it_was_formed() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher)
    frame = camera.frame()
    queue.put(frame)
    batch = batcher.pop()
    assert batch is not None
    assert frame.captured_ns <= batch.formed_ns <= now_ns()


def test_live_keeps_the_newest_and_counts_the_other() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher)
    for _ in range(3):
        queue.put(camera.frame())
    assert numbers(batcher.pop()) == [("s", 2)]
    assert camera.dropped == [(0, "overrun"), (1, "overrun")]


def test_every_waits_for_a_place_and_loses_nothing() -> None:
    batcher = Batcher(1, 0)
    camera, queue = stream(batcher, every=True)
    for _ in range(EVERY_BATCHES_AHEAD):
        queue.put(camera.frame())
    late = in_background(lambda: queue.put(camera.frame()))
    late.join(0.05)
    assert late.is_alive()
    assert numbers(batcher.pop()) == [("s", 0)]
    assert has_ended(late)
    assert [numbers(batcher.pop()) for _ in range(2)] == [[("s", 1)], [("s", 2)]]
    assert camera.dropped == []


def test_a_camera_that_waits_for_a_place_is_let_go_when_its_queue_closes() -> None:
    batcher = Batcher(1, 0)
    camera, queue = stream(batcher, every=True)
    for _ in range(EVERY_BATCHES_AHEAD):
        queue.put(camera.frame())
    late = in_background(lambda: queue.put(camera.frame()))
    queue.close()
    assert has_ended(late)
    assert camera.dropped == [(EVERY_BATCHES_AHEAD, "stopped")]


def test_what_waits_in_a_closed_queue_is_still_served() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher)
    queue.put(camera.frame())
    queue.close()
    assert numbers(batcher.pop()) == [("s", 0)]


def test_a_frame_for_a_closed_queue_is_dropped() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher)
    queue.close()
    queue.put(camera.frame())
    assert camera.dropped == [(0, "stopped")]


def test_a_discarded_queue_drops_what_waits_in_it_and_no_other() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher, "gone", every=True)
    other, other_queue = stream(batcher, "stays")
    queue.put(camera.frame())
    queue.put(camera.frame())
    other_queue.put(other.frame())
    queue.discard()
    assert camera.dropped == [(0, "stopped"), (1, "stopped")]
    assert numbers(batcher.pop()) == [("stays", 0)]


def test_a_fast_stream_does_not_starve_a_slow_one() -> None:
    batcher = Batcher(2, 0)
    fast, fast_queue = stream(batcher, "fast", every=True)
    slow, slow_queue = stream(batcher, "slow")
    for _ in range(2 * EVERY_BATCHES_AHEAD):
        fast_queue.put(fast.frame())
    slow_queue.put(slow.frame())
    assert numbers(batcher.pop()) == [("fast", 0), ("slow", 0)]


def test_frames_of_a_discarded_queue_do_not_fill_a_batch() -> None:
    batcher = Batcher(2, NEVER_MS)
    gone, gone_queue = stream(batcher, "gone")
    _, silent_queue = stream(batcher, "silent")
    camera, queue = stream(batcher)
    gone_queue.put(gone.frame())
    gone_queue.discard()
    queue.put(camera.frame())
    lane = in_background(batcher.pop)
    lane.join(0.05)
    assert lane.is_alive()
    silent_queue.close()
    assert has_ended(lane)


def test_a_frame_past_its_age_is_dropped_before_it_costs_anything() -> None:
    batcher = Batcher(4, 0)
    old, old_queue = stream(batcher, "old", max_age_ms=60_000)
    young, young_queue = stream(batcher, "young", max_age_ms=60_000)
    old_queue.put(old.frame(age_s=61))
    young_queue.put(young.frame(age_s=1))
    assert numbers(batcher.pop()) == [("young", 0)]
    assert old.dropped == [(0, "stale")]


def test_a_stale_frame_spends_no_ticket_and_does_not_make_a_lane_leave() -> None:
    batcher = Batcher(1, 0)
    camera, queue = stream(batcher, max_age_ms=60_000)
    queue.put(camera.frame(age_s=61))
    batches: list[Batch | None] = []
    lane = in_background(lambda: batches.append(batcher.pop()))
    lane.join(0.05)
    queue.put(camera.frame())
    assert has_ended(lane)
    assert batches[0] is not None
    assert [frame.ticket for frame in batches[0].frames] == [0]


def test_age_does_not_count_where_every_frame_is_wanted() -> None:
    batcher = Batcher(4, 0)
    camera, queue = stream(batcher, every=True, max_age_ms=1)
    queue.put(camera.frame(age_s=60))
    assert numbers(batcher.pop()) == [("s", 0)]


def test_a_batch_that_may_wait_leaves_when_every_stream_is_in_it() -> None:
    batcher = Batcher(4, NEVER_MS)
    cameras = [stream(batcher, name) for name in "ab"]
    batches: list[Batch | None] = []
    lane = in_background(lambda: batches.append(batcher.pop()))
    for camera, queue in cameras:
        lane.join(0.02)
        assert lane.is_alive()
        queue.put(camera.frame())
    assert has_ended(lane)
    assert numbers(batches[0]) == [("a", 0), ("b", 0)]


def test_a_batch_that_may_wait_leaves_when_it_is_full() -> None:
    batcher = Batcher(2, NEVER_MS)
    stream(batcher, "silent")
    camera, queue = stream(batcher, every=True)
    queue.put(camera.frame())
    queue.put(camera.frame())
    batches: list[Batch | None] = []
    assert has_ended(in_background(lambda: batches.append(batcher.pop())))
    assert numbers(batches[0]) == [("s", 0), ("s", 1)]


def test_a_batch_does_not_wait_for_a_stream_that_has_ended() -> None:
    batcher = Batcher(4, NEVER_MS)
    _, silent = stream(batcher, "silent")
    camera, queue = stream(batcher)
    queue.put(camera.frame())
    lane = in_background(batcher.pop)
    lane.join(0.02)
    assert lane.is_alive()
    silent.close()
    assert has_ended(lane)


def test_a_batch_leaves_when_its_oldest_frame_has_waited_long_enough() -> None:
    batcher = Batcher(4, 20)
    stream(batcher, "silent")
    camera, queue = stream(batcher)
    queue.put(camera.frame())
    batch = batcher.pop()
    assert batch is not None
    assert batch.formed_ns - batch.frames[0].captured_ns >= 20e6


def test_a_closed_batcher_serves_what_waits_and_then_lets_its_lanes_go() -> None:
    batcher = Batcher(1, NEVER_MS)
    stream(batcher, "silent")
    camera, queue = stream(batcher)
    queue.put(camera.frame())
    batcher.close()
    assert numbers(batcher.pop()) == [("s", 0)]
    assert batcher.pop() is None


def test_closing_wakes_a_lane_that_waits() -> None:
    batcher = Batcher(1, 0)
    batches: list[Batch | None] = []
    lane = in_background(lambda: batches.append(batcher.pop()))
    lane.join(0.02)
    batcher.close()
    assert has_ended(lane)
    assert batches == [None]


@pytest.mark.parametrize("max_wait_ms", [0.0, 1.0])
def test_cameras_and_lanes_on_threads_lose_nothing(max_wait_ms: float) -> None:
    batcher = Batcher(3, max_wait_ms)
    streams = [stream(batcher, name, every=True) for name in "abcd"]
    served: list[list[Frame]] = [[], [], []]

    def film(camera: Camera, queue: StreamQueue) -> None:
        for _ in range(200):
            queue.put(camera.frame())
        queue.close()

    def serve(frames: list[Frame]) -> None:
        while (batch := batcher.pop()) is not None:
            assert 1 <= len(batch.frames) <= 3
            frames += batch.frames

    cameras = [in_background(lambda each=each: film(*each)) for each in streams]  # type: ignore[misc]
    lanes = [in_background(lambda frames=frames: serve(frames)) for frames in served]  # type: ignore[misc]
    assert all(map(has_ended, cameras))
    batcher.close()
    assert all(map(has_ended, lanes))
    for camera, _ in streams:
        own = [[frame for frame in lane if frame.owner is camera] for lane in served]
        assert all(lane == sorted(lane, key=lambda frame: frame.ticket) for lane in own)
        assert sorted(frame.ticket for lane in own for frame in lane) == list(range(200))
        assert all(frame.ticket == frame.number for lane in own for frame in lane)
        assert camera.dropped == []


ROOMS = st.lists(st.sampled_from(["live", "live, aged", "every"]), min_size=1, max_size=4)
STEPS = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put old", "take", "end", "remove"]), st.integers(0, 3)),
    min_size=20,
    max_size=80,
)


@given(kinds=ROOMS, max_batch=st.integers(1, 5), steps=STEPS)
def test_whatever_happens_each_frame_comes_out_once(
    kinds: list[str], max_batch: int, steps: list[tuple[str, int]]
) -> None:
    shop = _Shop(kinds, max_batch)
    for action, which in steps:
        shop.step(action, which % len(kinds))
    shop.close()
    shop.check()


class _Shop:
    """A batcher with its streams on one thread, and what a plain model of it says should happen."""

    def __init__(self, kinds: list[str], max_batch: int) -> None:
        self.max_batch = max_batch
        self.batcher = Batcher(max_batch, 0)
        self.cameras = [Camera(str(number)) for number in range(len(kinds))]
        self.every = [kind == "every" for kind in kinds]
        self.aged = [kind == "live, aged" for kind in kinds]
        ages_ms = [60_000.0 if kind == "live, aged" else 0.0 for kind in kinds]
        self.queues = [
            self.batcher.add_stream(every=every, max_age_ms=age) for every, age in zip(self.every, ages_ms, strict=True)
        ]
        self.open = [True] * len(kinds)
        self.waiting: list[deque[Frame]] = [deque() for _ in kinds]
        self.drops: list[Counter[DropCause]] = [Counter() for _ in kinds]
        self.served: list[list[Frame]] = [[] for _ in kinds]
        self.passed_over = [0] * len(kinds)

    def step(self, action: str, which: int) -> None:
        if action.startswith("put"):
            self.put(which, old=action == "put old")
        elif action == "take":
            self.take()
        elif action == "end":
            self.queues[which].close()
            self.open[which] = False
        else:
            self.queues[which].discard()
            self.open[which] = False
            self.drops[which]["stopped"] += len(self.waiting[which])
            self.waiting[which].clear()

    def put(self, which: int, *, old: bool) -> None:
        places = EVERY_BATCHES_AHEAD * self.max_batch if self.every[which] else 1
        full = len(self.waiting[which]) >= places
        if full and self.every[which] and self.open[which]:
            return  # it would wait, and nobody else is here
        frame = self.cameras[which].frame(age_s=120 if old else 0)
        self.queues[which].put(frame)
        if not self.open[which]:
            self.drops[which]["stopped"] += 1
            return
        if full:
            self.waiting[which].popleft()
            self.drops[which]["overrun"] += 1
        self.waiting[which].append(frame)

    def take(self) -> None:
        """Take a batch where one can be had without waiting, and check its make-up."""
        fresh = [f for which, frames in enumerate(self.waiting) for f in frames if not self.is_stale(which, f)]
        if not fresh:
            return
        batch = self.batcher.pop()
        assert batch is not None
        assert 1 <= len(batch.frames) <= self.max_batch
        self.forget_stale_drops()
        for frame in batch.frames:
            which = self.cameras.index(frame.owner)  # type: ignore[arg-type]  # the owners here are cameras
            assert self.waiting[which].popleft() is frame
            assert frame.ticket == len(self.served[which])
            self.served[which].append(frame)
            self.pass_turn(which)

    def is_stale(self, which: int, frame: Frame) -> bool:
        return self.aged[which] and now_ns() - frame.captured_ns > 60e9

    def forget_stale_drops(self) -> None:
        """Follow the drops of stale frames, which a take may make on its way."""
        for which, camera in enumerate(self.cameras):
            told = Counter(cause for _, cause in camera.dropped)["stale"]
            while self.drops[which]["stale"] < told:
                assert self.is_stale(which, self.waiting[which].popleft())
                self.drops[which]["stale"] += 1
                self.passed_over[which] = 0

    def pass_turn(self, served: int) -> None:
        """Follow the turns: a stream that waits is passed over by each other stream at most once."""
        self.passed_over[served] = 0
        for which, frames in enumerate(self.waiting):
            self.passed_over[which] = self.passed_over[which] + 1 if frames and which != served else 0
            assert self.passed_over[which] < len(self.queues)

    def close(self) -> None:
        for which in range(len(self.queues)):
            self.step("end", which)
        self.batcher.close()
        while any(self.waiting):
            before = sum(map(len, self.waiting))
            self.take()
            if sum(map(len, self.waiting)) == before:
                assert self.batcher.pop() is None  # only stale frames are left, and they go now
                self.forget_stale_drops()

    def check(self) -> None:
        for which, camera in enumerate(self.cameras):
            assert Counter(cause for _, cause in camera.dropped) == +self.drops[which]
            came_out = [frame.number for frame in self.served[which]] + [number for number, _ in camera.dropped]
            assert sorted(came_out) == list(range(camera.made))


def test_a_lane_that_is_dismissed_goes_and_the_others_serve_on() -> None:
    batcher = Batcher(1, 0)
    camera, queue = stream(batcher)
    stays: list[Batch | None] = []
    goes: list[Batch | None] = []
    leaver = in_background(lambda: goes.append(batcher.pop("leaver")))
    batcher.dismiss(["leaver"])
    assert has_ended(leaver)
    assert goes == [None]
    stayer = in_background(lambda: stays.append(batcher.pop("stayer")))
    queue.put(camera.frame())
    assert has_ended(stayer)
    assert numbers(stays[0]) == [("s", 0)]


def test_a_lane_that_is_dismissed_while_its_batch_waits_for_company_leaves_it_to_others() -> None:
    batcher = Batcher(2, NEVER_MS)
    camera, queue = stream(batcher)
    _, other_queue = stream(batcher, "silent")
    goes: list[Batch | None] = []
    queue.put(camera.frame())
    leaver = in_background(lambda: goes.append(batcher.pop("leaver")))
    batcher.dismiss(["leaver"])
    assert has_ended(leaver)
    assert goes == [None]
    other_queue.close()
    assert numbers(batcher.pop("stayer")) == [("s", 0)]


def test_frames_of_many_lanes_that_come_and_go_are_each_taken_once() -> None:
    batcher = Batcher(3, 0)
    camera, queue = stream(batcher, every=True)
    taken: list[list[tuple[str, int]]] = []

    def serve(lane: int) -> None:
        while (batch := batcher.pop(lane)) is not None:
            taken.append(numbers(batch))

    threads = [in_background(partial(serve, lane)) for lane in (0, 1)]
    for number in range(300):
        queue.put(camera.frame())
        if number % 10 == 0:
            batcher.dismiss([len(threads) - 2])
            threads.append(in_background(partial(serve, len(threads))))
    queue.close()
    batcher.close()
    assert all(has_ended(thread) for thread in threads)
    assert sorted(number for batch in taken for _, number in batch) == list(range(300))
