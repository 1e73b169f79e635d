"""One stream's thread: its pace, its masks, its buffers, and how it stops, fails and comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

import edge.capture.camera
from edge.capture.camera import Camera, CameraSettings
from edge.capture.picture_memory import PictureMemory
from edge.capture.scene.conveyor import Conveyor
from edge.capture.source import SourceLimits
from edge.core.clock import now_ns, wall_ns
from edge.core.errors import SourceError
from edge.core.records import DropCause, Frame, Result, StreamState
from edge.core.source_address import SourceAddress, parse_address
from edge.pipeline.batch import EVERY_BATCHES_AHEAD, Batcher

LONG_S = 15.0  # a wait that only a failing test reaches
SIZE = (64, 48)


class Stage:
    """The other end of a camera: takes its frames and remembers what it was told."""

    name = "door"
    score_threshold: float | None = None

    def __init__(self, deliver: Callable[[Frame], None] | None = None) -> None:
        self.frames: list[Frame] = []
        self.levels: list[int] = []  # mean brightness of each picture when it came
        self.states: list[tuple[StreamState, str | None]] = []
        self.dropped: list[tuple[int, DropCause]] = []
        self.captured = 0
        self.over = threading.Event()
        self._deliver = deliver or self.deliver

    def camera(
        self, source: str, folder: Path = Path(), memory: PictureMemory | None = None, **settings: Any
    ) -> Camera:
        address = parse_address(source, folder)
        capture = CameraSettings("door", address, **settings)
        return Camera(capture, self, self._deliver, self.count, self.tell, memory)

    def play(self, source: str, folder: Path = Path(), **settings: Any) -> None:
        """Run a camera to its end."""
        camera = self.camera(source, folder, **settings)
        camera.start()
        assert self.over.wait(LONG_S)
        assert camera.join(LONG_S)

    def deliver(self, frame: Frame) -> None:
        self.frames.append(frame)
        self.levels.append(round(float(frame.image.mean())))
        frame.release()

    def count(self) -> int:
        self.captured += 1
        return self.captured - 1

    def tell(self, state: StreamState, reason: str | None) -> None:
        self.states.append((state, reason))
        if state in ("ended", "failed", "off"):
            self.over.set()

    def drop(self, frame: Frame, cause: DropCause) -> None:
        self.dropped.append((frame.number, cause))

    def finish(self, frame: Frame, result: Result) -> None:
        raise NotImplementedError


def write_video(path: Path, frames: int, fps: float) -> None:
    """Write pictures whose brightness is twice their number."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), fps, SIZE)
    for number in range(frames):
        video.write(np.full((SIZE[1], SIZE[0], 3), 2 * number, np.uint8))
    video.release()


def has_become(condition: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + LONG_S
    while not condition() and time.monotonic() < until_s:
        time.sleep(0.005)
    return condition()


def test_every_frame_of_a_file_comes_once_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 60, fps=2)
    stage = Stage()
    before_ns, before_at_ns = now_ns(), wall_ns()
    stage.play("a.avi", tmp_path, every=True)
    assert [frame.number for frame in stage.frames] == list(range(60))
    assert stage.levels == pytest.approx([2 * number for number in range(60)], abs=3)
    stamps_ns = [before_ns, *(frame.captured_ns for frame in stage.frames), now_ns()]
    assert stamps_ns == sorted(stamps_ns)
    assert all(before_at_ns <= frame.captured_at_ns <= wall_ns() for frame in stage.frames)
    assert stage.states == [("running", None), ("ended", None)]


def test_a_picture_of_several_pages_is_not_called_damaged_before_its_end(tmp_path: Path) -> None:
    assert cv2.imwritemulti(str(tmp_path / "a.tiff"), [np.full((48, 64, 3), shade, np.uint8) for shade in (10, 20, 30)])
    stage = Stage()
    stage.play("a.tiff", tmp_path, every=True)
    assert stage.levels == [10, 20, 30]
    assert stage.states == [("running", None), ("ended", None)]


def test_a_file_played_live_gives_no_frame_before_its_time(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 12, fps=20)
    stage = Stage()
    start_ns = now_ns()
    stage.play("a.avi", tmp_path)
    assert len(stage.frames) == 12
    for number, frame in enumerate(stage.frames):
        assert (frame.captured_ns - start_ns) / 1e9 >= number / 20 - 0.001


@pytest.mark.parametrize(
    ("source_fps", "fps", "kept"),
    [
        (30, 10, [0, 3, 6, 9, 12, 15, 18, 21, 24, 27]),
        (30, 15, list(range(0, 30, 2))),
        (30, 1, [0]),
        (30, 30, list(range(30))),
        (30, 60, list(range(30))),
        (30, 0, list(range(30))),
    ],
)
def test_fps_keeps_the_frames_of_an_even_grid(tmp_path: Path, source_fps: float, fps: float, kept: list[int]) -> None:
    write_video(tmp_path / "a.avi", 30, source_fps)
    stage = Stage()
    stage.play("a.avi", tmp_path, every=True, fps=fps)
    assert stage.levels == pytest.approx([2 * number for number in kept], abs=3)
    assert [frame.number for frame in stage.frames] == list(range(len(kept)))


@pytest.mark.parametrize(("source_fps", "fps"), [(25, 10), (30, 7), (30, 24), (24, 23)])
def test_fps_keeps_the_mean_rate_where_the_rates_do_not_divide(tmp_path: Path, source_fps: float, fps: float) -> None:
    write_video(tmp_path / "a.avi", 100, source_fps)
    stage = Stage()
    stage.play("a.avi", tmp_path, every=True, fps=fps)
    assert len(stage.frames) == pytest.approx(100 * fps / source_fps, abs=1)


def test_a_file_that_loops_starts_again_and_counts_on(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 5, fps=30)
    stage = Stage()
    camera = stage.camera("a.avi", tmp_path, every=True, loop=True)
    camera.start()
    assert has_become(lambda: len(stage.frames) >= 12)
    camera.stop()
    assert camera.join(LONG_S)
    assert stage.levels[:12] == pytest.approx([0, 2, 4, 6, 8, 0, 2, 4, 6, 8, 0, 2], abs=3)
    assert [frame.number for frame in stage.frames] == list(range(len(stage.frames)))
    assert stage.states[-1] == ("off", "stopped")


def test_masks_are_black_and_all_else_is_untouched(tmp_path: Path) -> None:
    picture = np.random.default_rng(1).integers(1, 256, (48, 64, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), picture)
    pictures: list[NDArray[np.uint8]] = []
    stage = Stage(lambda frame: pictures.append(frame.image.copy()))
    masks = (((0, 0), (9, 0), (9, 9), (0, 9)), ((30, 20), (200, 20), (200, 30), (30, 30)))
    stage.play("a.png", tmp_path, every=True, masks=masks)
    expected = picture.copy()
    expected[:10, :10] = expected[20:31, 30:] = 0
    assert np.array_equal(pictures[0], expected)


def test_memory_is_used_again_once_it_is_given_back() -> None:
    stage = Stage()
    stage.play("synthetic://conveyor?size=320x240&frames=50", every=True)
    assert len({frame.image.ctypes.data for frame in stage.frames}) == 1


def test_memory_in_use_is_never_written_to() -> None:
    kept: list[tuple[Frame, NDArray[np.uint8]]] = []

    def keep_three(frame: Frame) -> None:
        kept.append((frame, frame.image.copy()))
        if len(kept) > 3:
            oldest, copy = kept.pop(0)
            assert np.array_equal(oldest.image, copy)
            oldest.release()

    stage = Stage(keep_three)
    stage.play("synthetic://conveyor?size=320x240&frames=40", every=True)
    assert stage.states[-1] == ("ended", None)
    assert all(np.array_equal(frame.image, copy) for frame, copy in kept)


def test_giving_back_twice_lends_the_memory_once() -> None:
    twice: list[Frame] = []

    def release_twice(frame: Frame) -> None:
        frame.release()
        frame.release()
        twice.append(frame)

    buffers: list[int] = []
    stage = Stage(lambda frame: release_twice(frame) if len(twice) < 1 else buffers.append(frame.image.ctypes.data))
    stage.play("synthetic://conveyor?size=320x240&frames=3", every=True)
    assert len(set(buffers)) == 2


def test_stopping_ends_a_camera_that_waits_for_a_place() -> None:
    batcher = Batcher(1, 0)
    queue = batcher.add_stream(every=True, max_age_ms=0)
    stage = Stage(queue.put)
    camera = stage.camera("synthetic://conveyor?size=320x240", every=True)
    camera.start()
    assert has_become(lambda: stage.captured == EVERY_BATCHES_AHEAD + 1)
    camera.stop()
    queue.close()
    assert camera.join(LONG_S)
    assert stage.dropped == [(EVERY_BATCHES_AHEAD, "stopped")]
    assert stage.states[-1] == ("off", "stopped")


def test_stopping_ends_a_file_that_waits_for_the_time_of_its_next_frame(tmp_path: Path) -> None:
    write_video(tmp_path / "a.avi", 3, fps=0.02)
    stage = Stage()
    camera = stage.camera("a.avi", tmp_path)
    camera.start()
    assert has_become(lambda: len(stage.frames) == 1)
    camera.stop()
    assert camera.join(LONG_S)
    assert stage.states[-1] == ("off", "stopped")


def test_a_source_that_cannot_be_played_fails_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video", encoding="utf-8")
    stage = Stage()
    stage.play("a.mp4", tmp_path)
    ((state, reason),) = stage.states
    assert state == "failed"
    assert reason is not None
    assert "cannot be opened; wanted a video" in reason


def test_a_failure_that_nobody_thought_of_fails_this_stream_only(caplog: pytest.LogCaptureFixture) -> None:
    def explode(frame: Frame) -> None:
        raise ZeroDivisionError("by chance")

    stage = Stage(explode)
    stage.play("synthetic://conveyor?size=320x240", every=True)
    state, reason = stage.states[-1]
    assert state == "failed"
    assert "ZeroDivisionError" in str(reason)
    assert "Traceback" in caplog.text


class Scripted:
    """A camera that gives so many frames and then fails, ends or falls silent."""

    def __init__(self, frames: int, then: Exception | None) -> None:
        self.left = frames
        self.then = then
        self.closed = False

    def grab(self) -> float | None:
        if self.left == 0 and self.then is not None:
            time.sleep(0.01)
            raise self.then
        self.left -= 1
        return 0.0 if self.left >= 0 else None

    def retrieve(self, buffer: NDArray[np.uint8] | None) -> NDArray[np.uint8]:
        return np.zeros((4, 4, 3), np.uint8) if buffer is None else buffer

    def ending(self) -> str | None:
        return None

    def close(self) -> None:
        self.closed = True


GONE = SourceError("rtsp://cam/main ended or disconnected")


def opening(monkeypatch: pytest.MonkeyPatch, *sources: Scripted | SourceError) -> None:
    """Let the camera find these, one after the other, at its address."""
    coming = iter(sources)

    def open_next(_address: SourceAddress, _limits: SourceLimits) -> Scripted:
        source = next(coming)
        if isinstance(source, SourceError):
            raise source
        return source

    monkeypatch.setattr(edge.capture.camera, "open_source", open_next)
    monkeypatch.setattr(edge.capture.camera, "FIRST_RETRY_S", 0.01)


def test_a_camera_that_went_away_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = Scripted(2, GONE), Scripted(3, None)
    opening(monkeypatch, first, SourceError("not yet"), second)
    stage = Stage()
    stage.play("rtsp://cam/main")
    assert stage.states == [
        ("running", None),
        ("reconnecting", str(GONE)),
        ("reconnecting", "not yet"),
        ("running", None),
        ("ended", None),
    ]
    assert [frame.number for frame in stage.frames] == list(range(5))
    assert first.closed
    assert second.closed


def test_a_failure_for_good_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, SourceError("no such folder", permanent=True))
    stage = Stage()
    stage.play("rtsp://cam/main")
    assert stage.states == [("failed", "no such folder")]


def test_a_camera_that_falls_silent_is_opened_again_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    silent, good = Scripted(1, TimeoutError()), Scripted(1, None)
    opening(monkeypatch, silent, good)
    stage = Stage()
    stage.play("rtsp://cam/main", stall_s=0.1)
    assert stage.states[1] == ("reconnecting", "rtsp://cam delivered no frame for 0.1 s")
    assert silent.closed
    assert len(stage.frames) == 2


def test_what_a_user_should_know_is_said_while_the_source_runs_and_at_each_loop(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((8, 8, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "c.png"), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "b.png").touch()
    stage = Stage()
    camera = stage.camera(".", tmp_path, every=True, loop=True)
    camera.start()
    assert has_become(lambda: len(stage.frames) >= 6)
    camera.stop()
    assert camera.join(LONG_S)
    fault = "1 of 3 pictures could not be decoded: b.png is no picture: the file is empty"
    assert stage.states[:3] == [("running", None), ("running", fault), ("running", fault)]


def test_a_file_that_comes_later_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge.capture.camera, "FIRST_RETRY_S", 0.01)
    monkeypatch.setattr(edge.capture.camera, "LONGEST_RETRY_S", 0.01)
    stage = Stage()
    camera = stage.camera("stick/a.avi", tmp_path, every=True)
    camera.start()
    assert has_become(lambda: len(stage.states) > 1)
    state, reason = stage.states[0]
    assert state == "reconnecting"
    assert "does not exist" in str(reason)
    (tmp_path / "new").mkdir()
    write_video(tmp_path / "new" / "a.avi", 4, 10)
    (tmp_path / "new").rename(tmp_path / "stick")
    assert stage.over.wait(LONG_S)
    assert camera.join(LONG_S)
    assert len(stage.frames) == 4
    assert stage.states[-2:] == [("running", None), ("ended", None)]


def test_a_synthetic_frame_that_nobody_looks_at_is_not_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []
    draw = Conveyor.draw

    def counted(self: Conveyor, index: int, out: NDArray[np.uint8]) -> None:
        drawn.append(index)
        draw(self, index, out)

    monkeypatch.setattr(Conveyor, "draw", counted)
    frames: list[Frame] = []
    stage = Stage(frames.append)
    stage.play("synthetic://conveyor?size=320x240&frames=20&fps=1000", masks=(((0, 0), (9, 0), (9, 9), (0, 9)),))
    assert drawn == []
    assert len(frames) == 20
    picture = frames[7].image
    assert drawn == [7]
    assert (picture[:10, :10] == 0).all()
    assert picture.any()
    assert frames[7].image is picture
    for frame in frames:
        frame.release()
    assert drawn == [7]


def test_a_picture_that_does_not_fit_the_memory_of_all_streams_waits_and_says_so(tmp_path: Path) -> None:
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((480, 640, 3), np.uint8))
    memory = PictureMemory(16)
    memory.reserve("another", "another camera", 15 * 10**6)
    stage = Stage()
    camera = stage.camera("a.png", tmp_path, every=True, memory=memory)
    camera.start()
    assert has_become(lambda: bool(stage.states))
    assert stage.captured == 0
    assert stage.states[0][0] == "reconnecting"
    assert "wanted at most 16 MB for all of them" in str(stage.states[0][1])
    memory.release("another")
    assert stage.over.wait(LONG_S)
    assert len(stage.frames) == 1
    memory.reserve("another", "another camera", 16 * 10**6)  # what the camera had is given back


def test_an_encrypted_camera_without_an_authority_is_warned_about_at_the_start(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    opening(monkeypatch, Scripted(0, None))
    Stage().play("rtsps://viewer:S3cret@cam/main")
    assert "the certificate of rtsps://cam is not verified" in caplog.text
    assert "S3cret" not in caplog.text


def test_stopping_ends_the_pause_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    opening(monkeypatch, GONE)
    monkeypatch.setattr(edge.capture.camera, "FIRST_RETRY_S", 600)
    monkeypatch.setattr(edge.capture.camera, "LONGEST_RETRY_S", 600)
    stage = Stage()
    camera = stage.camera("rtsp://cam/main")
    camera.start()
    assert has_become(lambda: bool(stage.states))
    camera.stop()
    assert camera.join(LONG_S)
    assert stage.states == [("reconnecting", str(GONE)), ("off", "stopped")]
