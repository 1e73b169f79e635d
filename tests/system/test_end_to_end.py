"""Real video in, a real model, a real broker: what a subscriber gets."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edge.capture.scene.conveyor import LABELS
from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt, write_config
from tests.support.process import Child, StartEdge, run_edge
from tests.support.project import real_data
from tests.support.rtsp import RtspServer
from tests.support.scene_video import FPS, FRAMES, SIZE_PX, scene, scene_truths
from tests.support.subscriber import Received, Subscriber, subscribed

pytestmark = pytest.mark.broker

PERSON_FRAMES = 1394
OUTAGE_S = 10.0


class Reference:
    """YOLOX-Nano straight on ONNX Runtime, written from the model's description alone."""

    def __init__(self, onnx: Path) -> None:
        self._session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
        grids = [(n, np.stack(np.meshgrid(np.arange(n), np.arange(n)), -1).reshape(-1, 2)) for n in (52, 26, 13)]
        self._grid = np.concatenate([grid for _, grid in grids])
        self._stride = np.concatenate([np.full((n * n, 1), 416 // n) for n, _ in grids])

    def persons(self, picture: NDArray[np.uint8], score_threshold: float) -> list[tuple[float, list[float]]]:
        """Return score and box (x, y, width, height) of each person."""
        height, width = picture.shape[:2]
        ratio = min(416 / height, 416 / width)
        resized = cv2.resize(picture, (round(width * ratio), round(height * ratio)), interpolation=cv2.INTER_LINEAR)
        canvas = np.full((416, 416, 3), 114, np.uint8)
        canvas[: resized.shape[0], : resized.shape[1]] = resized
        (output,) = self._session.run(None, {"images": canvas.transpose(2, 0, 1)[None].astype(np.float32)})
        rows = output[0]
        centers, sizes = (rows[:, :2] + self._grid) * self._stride, np.exp(rows[:, 2:4]) * self._stride
        boxes = np.concatenate([centers - sizes / 2, sizes], 1) / ratio
        scores = rows[:, 4] * rows[:, 5]
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), score_threshold, 0.45)
        return [(float(scores[index]), boxes[index].tolist()) for index in np.array(kept).reshape(-1)]


def overlap(first: list[float], second: list[float]) -> float:
    """Return the intersection over union of two boxes x, y, width, height."""
    (ax, ay, aw, ah), (bx, by, bw, bh) = first, second
    width = max(0.0, min(ax + aw, bx + bw) - max(ax, bx))
    height = max(0.0, min(ay + ah, by + bh) - max(ay, by))
    return width * height / (aw * ah + bw * bh - width * height)


def within(box: list[float], size: tuple[int, int]) -> list[float]:
    """Return the box clipped to the picture."""
    x1, y1 = max(0.0, box[0]), max(0.0, box[1])
    return [x1, y1, min(size[0], box[0] + box[2]) - x1, min(size[1], box[1] + box[3]) - y1]


def sampled_frames(video: Path, step: int) -> dict[int, NDArray[np.uint8]]:
    capture = cv2.VideoCapture(str(video))
    frames: dict[int, NDArray[np.uint8]] = {}
    number = 0
    while capture.grab():
        if number % step == 0:
            frames[number] = np.asarray(capture.retrieve()[1], np.uint8)
        number += 1
    return frames


def assert_agrees(result: Json, reference: Reference, picture: NDArray[np.uint8]) -> None:
    """Each clear person of either side is one of the other; near the threshold of 0.35 either may leave one out."""
    published = [(each["score"], each["box"]) for each in result["detections"] if each["label"] == "person"]
    expected = [(score, within(box, (768, 432))) for score, box in reference.persons(picture, 0.3)]
    for ours, theirs in ((published, expected), (expected, published)):
        for score, box in ours:
            match = max(theirs, key=lambda each: overlap(box, each[1]), default=None)
            clear = score >= 0.4
            assert not clear or match is not None, f"frame {result['frame']}: {box} stands alone"
            if clear and match is not None:
                assert overlap(box, match[1]) > 0.95, f"frame {result['frame']}: {box} against {match[1]}"
                assert abs(score - match[0]) < 0.02


def results_of_whole(daemon: Child, subscriber: Subscriber, frames: int) -> list[Json]:
    """Return the results of stream `door`, once all its frames were published, each once and in order."""
    assert daemon.wait(timeout_s=300) == 0
    subscriber.wait_for_state("stopped")
    results = subscriber.results("door")
    assert [result["seq"] for result in results] == list(range(frames))
    assert [result["frame"] for result in results] == list(range(frames))
    assert subscriber.states() == ["online", "stopped"]
    assert subscriber.states("door") == ["running", "ended"]
    last = subscriber.telemetry()[-1]["streams"]["door"]
    assert (last["frames"], last["results"], last["in_flight"]) == (frames, frames, 0)
    assert json.loads(daemon.output)["streams"]["door"]["results"] == frames
    return results


def is_found(label: str, corners: NDArray[np.float32], result: Json) -> bool:
    x1, y1, x2, y2 = corners.tolist()
    boxes = [each["box"] for each in result["detections"] if each["label"] == label]
    return any(overlap(box, [x1, y1, x2 - x1, y2 - y1]) > 0.7 for box in boxes)


def test_each_frame_of_a_video_is_published_once_in_order_with_the_parts_in_it(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, scene_video: Path
) -> None:
    door = {"source": str(scene_video), "model": "conveyor", "delivery": "every"}
    results = results_of_whole(start_edge(configure({"streams.door": door})), subscriber, FRAMES)
    whole_parts = [
        is_found(LABELS[class_id], corners, result)
        for truth, result in zip(scene_truths(), results, strict=True)
        for corners, class_id, visible in zip(truth.boxes, truth.class_ids, truth.visible, strict=True)
        if visible == 1
    ]
    assert len(whole_parts) > FRAMES
    assert np.mean(whole_parts) > 0.95


def test_each_frame_of_a_video_is_published_once_in_order_with_the_persons_in_it(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, yolox: Path
) -> None:
    video = real_data("person.mp4")
    door = {"source": str(video), "model": "detector", "delivery": "every"}
    daemon = start_edge(configure({"models.detector": {"path": str(yolox)}, "streams.door": door}))
    results = results_of_whole(daemon, subscriber, PERSON_FRAMES)
    with_person = [any(each["label"] == "person" for each in result["detections"]) for result in results]
    assert 100 < sum(with_person) < PERSON_FRAMES - 100
    reference = Reference(yolox / "yolox_nano.onnx")
    for number, picture in sampled_frames(video, step=58).items():
        assert_agrees(results[number], reference, picture)


def test_a_file_and_a_folder_that_come_later_are_waited_for_while_the_others_run(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    (tmp_path / "inbox").mkdir()
    late = {"model": "conveyor", "delivery": "every"}
    config = configure(
        {
            "streams.stick": late | {"source": str(tmp_path / "stick/a.png")},
            "streams.inbox": late | {"source": str(tmp_path / "inbox")},
            "streams.belt": belt(fps=10),
        }
    )
    daemon = start_edge(config)
    for name, told in (("stick", "does not exist"), ("inbox", "contains no pictures")):
        assert told in subscriber.wait_for_state("reconnecting", name).body["reason"]
    subscriber.wait_for_results("belt", 5)
    picture = np.zeros((240, 320, 3), np.uint8)
    for place in ("new", "stick"):
        (tmp_path / place).mkdir()
    for name, folder in (("stick", "stick"), ("inbox", "inbox")):
        assert cv2.imwrite(str(tmp_path / "new/a.png"), picture)
        (tmp_path / "new/a.png").rename(tmp_path / folder / "a.png")
        subscriber.wait_for_results(name, 1)
        subscriber.wait_for_state("ended", name)
    assert daemon.end() == 0
    assert subscriber.states("belt") == ["running", "off"]


def gives_no_secret(secrets: list[str], messages: list[Received], log: str) -> bool:
    return not any(secret in log or any(secret.encode() in m.raw for m in messages) for secret in secrets)


@pytest.mark.rtsp
def test_a_camera_that_dies_for_a_while_is_reconnected_and_stops_no_other_stream(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, rtsp_server: RtspServer
) -> None:
    door = {"source": rtsp_server.secret_url, "model": "conveyor"}
    daemon = start_edge(configure({"streams.door": door, "streams.belt": belt(fps=10)}))
    subscriber.wait_for_results("door", 20)
    at_death = len(subscriber.messages)  # before it, so that the first thing said of it is not missed
    rtsp_server.kill()
    lost = subscriber.wait_for_state("reconnecting", "door", after=at_death)
    time.sleep(OUTAGE_S)
    subscriber.wait_for_results("belt", int(OUTAGE_S), after=at_death)
    rtsp_server.start()
    subscriber.wait_for_state("running", "door", after=at_death)
    subscriber.wait_for_results("door", 20, after=subscriber.messages.index(lost))
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert "ended or disconnected" in lost.body["reason"]
    assert subscriber.states("belt") == ["running", "off"]
    for stream in ("door", "belt"):
        assert subscriber.seqs(stream) == list(range(len(subscriber.seqs(stream))))
    assert gives_no_secret(["viewer-name", "pass-word"], subscriber.messages, daemon.log)
    assert lost.body["source"] == rtsp_server.url.removesuffix("/main"), "scheme, host and port"
    warnings = [line for line in daemon.log.splitlines() if line.startswith("WARNING")]
    assert any("password_file" in line for line in warnings), "a password in the configuration itself is warned about"


@pytest.mark.rtsp
def test_a_camera_that_freezes_is_reopened_and_its_password_file_shows_nowhere(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, rtsp_server: RtspServer
) -> None:
    (tmp_path / "password.txt").write_text("pass-word\n", encoding="utf-8")
    (tmp_path / "password.txt").chmod(0o600)
    door = {
        "source": rtsp_server.url,
        "username": "viewer-name",
        "password_file": "password.txt",
        "model": "conveyor",
        "stall_s": 4,
    }
    daemon = start_edge(configure({"streams.door": door}))
    subscriber.wait_for_results("door", 5)
    rtsp_server.send(signal.SIGSTOP)
    frozen = subscriber.wait_for_state("reconnecting", "door")
    rtsp_server.send(signal.SIGCONT)
    subscriber.wait_for_state("running", "door", after=subscriber.messages.index(frozen))
    subscriber.wait_for_results("door", 5, after=subscriber.messages.index(frozen))
    assert daemon.end() == 0
    assert "delivered no frame for 4 s" in frozen.body["reason"]
    assert gives_no_secret(["viewer-name", "pass-word"], subscriber.messages, daemon.log)


@pytest.mark.rtsp
def test_a_camera_that_refuses_the_password_says_so_without_telling_it(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, rtsp_server: RtspServer
) -> None:
    door = {"source": rtsp_server.url.replace("//", "//viewer-name:wrong-word@"), "model": "conveyor"}
    daemon = start_edge(configure({"streams.door": door}))
    refused = subscriber.wait_for_state("reconnecting", "door")
    assert daemon.end() == 0
    assert "user name and password" in refused.body["reason"]
    assert gives_no_secret(["viewer-name", "wrong-word"], subscriber.messages, daemon.log)


# What six streams wish of the same 60 frames.
WISHES: dict[str, Json] = {
    "plain": {},
    "labelled": {"labels": ["nut", "gear"]},
    "sure": {"score_threshold": 0.9},
    "large": {"min_size": 36},
    "masked": {"masks": [[[0, 0], [319, 0], [319, 239], [0, 239]]]},
    "unsecured": {"qos": 0},
    "slowed": {"fps": 10},
}
WISH_FRAMES = 60
WISHED = pytest.mark.xdist_group("wished")  # one process makes the run


@pytest.fixture(scope="module")
def wished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subscriber]:
    """Give the messages of one run of all wishes."""
    folder = tmp_path_factory.mktemp("wished")
    scene = belt(frames=WISH_FRAMES, seed=3, delivery="every")
    broker = Mosquitto(folder)
    broker.start()
    config = write_config(
        folder / "edge.toml", broker.url, {f"streams.{name}": scene | keys for name, keys in WISHES.items()}
    )
    try:
        with subscribed(broker.port) as collector:
            done = run_edge("run", config, "--state-dir", folder / "state", folder=folder)
            assert done.returncode == 0, done.stderr
            collector.wait_for_state("stopped")
            yield collector
    finally:
        broker.kill()


def found(subscriber: Subscriber, stream: str) -> list[list[Json]]:
    """Return what was found in each frame of a stream."""
    return [result["detections"] for result in subscriber.results(stream)]


@WISHED
def test_streams_of_one_scene_find_the_same_in_every_frame(wished: Subscriber) -> None:
    plain = found(wished, "plain")
    assert len(plain) == WISH_FRAMES
    assert sum(map(len, plain)) > WISH_FRAMES
    for stream in set(WISHES) - {"slowed"}:
        assert wished.seqs(stream) == list(range(WISH_FRAMES))


@WISHED
def test_labels_choose_what_is_published(wished: Subscriber) -> None:
    plain, chosen = found(wished, "plain"), found(wished, "labelled")
    assert chosen == [[each for each in frame if each["label"] in ("nut", "gear")] for frame in plain]
    assert 0 < sum(map(len, chosen)) < sum(map(len, plain))


@WISHED
def test_a_score_threshold_chooses_what_is_published(wished: Subscriber) -> None:
    plain, sure = found(wished, "plain"), found(wished, "sure")
    assert sure == [[each for each in frame if each["score"] >= 0.9] for frame in plain]
    assert 0 < sum(map(len, sure)) < sum(map(len, plain))


@WISHED
def test_a_least_size_chooses_what_is_published(wished: Subscriber) -> None:
    plain, large = found(wished, "plain"), found(wished, "large")
    # A published box is rounded to 0.1 of a pixel, so one at the bound itself may stand on either side.
    assert all(min(each["box"][2:]) > 35.8 for frame in large for each in frame)
    assert all(
        each in kept for frame, kept in zip(plain, large, strict=True) for each in frame if min(each["box"][2:]) > 36.2
    )
    assert 0 < sum(map(len, large)) < sum(map(len, plain))


@WISHED
def test_behind_a_mask_nothing_is_found(wished: Subscriber) -> None:
    assert found(wished, "masked") == [[]] * WISH_FRAMES


@WISHED
def test_fps_keeps_every_third_frame_and_counts_no_other(wished: Subscriber) -> None:
    assert found(wished, "slowed") == found(wished, "plain")[::3]
    assert [result["frame"] for result in wished.results("slowed")] == list(range(WISH_FRAMES // 3))
    assert wished.telemetry()[-1]["streams"]["slowed"]["frames"] == WISH_FRAMES // 3


def captured_within_s(results: list[Json]) -> float:
    """Return the time from the first result's capture to the last one's."""
    first, last = (datetime.fromisoformat(result["captured_at"].rstrip("Z")) for result in (results[0], results[-1]))
    return (last - first).total_seconds()


def test_a_file_played_live_keeps_its_own_pace(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, scene_video: Path
) -> None:
    daemon = start_edge(configure({"streams.door": {"source": str(scene_video), "model": "conveyor"}}))
    subscriber.wait_for_results("door", 15)
    assert daemon.end() == 0
    results = subscriber.results("door")
    frames = results[-1]["frame"] - results[0]["frame"]
    # The machine may be late on the first frame or the last; never early.
    assert captured_within_s(results) > (frames - 1) / FPS


def test_pictures_that_loop_keep_their_pace_and_tell_once_that_they_run(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), np.zeros((48, 64, 3), np.uint8))
    daemon = start_edge(configure({"streams.round": {"source": "pictures", "model": "conveyor", "loop": True}}))
    subscriber.wait_for_results("round", 15)
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    results = subscriber.results("round")
    assert subscriber.states("round") == ["running", "off"]
    assert subscriber.seqs("round") == list(range(len(results)))
    assert captured_within_s(results) > (results[-1]["frame"] - 2) / 10


def lines_of(text: str) -> list[Json]:
    return [json.loads(line) for line in text.splitlines()]


def detected(model: str | Path, picture: Path, folder: Path) -> Json:
    """Return the line that is printed for a picture, which is saved with boxes."""
    done = run_edge("detect", model, picture, "--save", "out.png", folder=folder)
    assert done.returncode == 0, done.stderr
    original, saved = cv2.imread(str(picture)), cv2.imread(str(folder / "out.png"))
    assert original is not None
    assert saved is not None
    assert original.shape == saved.shape
    assert np.any(original != saved)
    (line,) = lines_of(done.stdout)
    return line


def test_detect_prints_what_is_in_a_picture_and_saves_it_with_boxes(tmp_path: Path) -> None:
    picture = np.empty((SIZE_PX[1], SIZE_PX[0], 3), np.uint8)
    truth = scene().render(40, picture)
    assert cv2.imwrite(str(tmp_path / "belt.png"), picture)
    line = detected("conveyor", tmp_path / "belt.png", tmp_path)
    assert len(truth.boxes) > 3
    assert all(is_found(LABELS[each], box, line) for box, each in zip(truth.boxes, truth.class_ids, strict=True))


def test_detect_finds_the_dog_the_bicycle_and_the_car(tmp_path: Path, yolox: Path) -> None:
    line = detected(yolox, real_data("dog.jpg"), tmp_path)
    scores = {each["label"]: each["score"] for each in reversed(line["detections"])}
    for label, score in (("dog", 0.86), ("bicycle", 0.80), ("car", 0.80)):
        assert scores[label] == pytest.approx(score, abs=0.02)


def test_detect_saves_a_video_with_as_many_frames_as_it_was_asked_for(tmp_path: Path, scene_video: Path) -> None:
    done = run_edge("detect", "conveyor", scene_video, "--frames", "12", "--save", "out.mp4", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert [line["frame"] for line in lines_of(done.stdout)] == list(range(12))
    saved = cv2.VideoCapture(str(tmp_path / "out.mp4"))
    assert sum(saved.grab() for _ in range(20)) == 12
    assert saved.get(cv2.CAP_PROP_FRAME_WIDTH) == SIZE_PX[0]
    assert saved.get(cv2.CAP_PROP_FPS) == pytest.approx(FPS)


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["conveyor", "missing.jpg"], 2, "missing.jpg does not exist"),
        (["nothing", "picture.png"], 2, "model 'nothing'"),
        (["conveyor", "ftp://host/x"], 2, "scheme 'ftp' is not known"),
        (["conveyor", "picture.png", "--save", "missing/out.png"], 2, "missing does not exist"),
        (["conveyor", "picture.png", "--save", "out.txt"], 2, "found suffix '.txt'"),
        (["conveyor", "two", "--save", "out.png"], 2, "takes one picture"),
        (["conveyor", "text.mp4"], 1, "cannot be opened"),
    ],
)
def test_detect_says_in_one_sentence_why_it_cannot(
    tmp_path: Path, arguments: list[str], code: int, sentence: str
) -> None:
    blank = np.zeros((48, 64, 3), np.uint8)
    (tmp_path / "two").mkdir()
    for name in ("picture.png", "two/a.png", "two/b.png"):
        cv2.imwrite(str(tmp_path / name), blank)
    (tmp_path / "text.mp4").write_text("no video", encoding="utf-8")
    done = run_edge("detect", *arguments, "--log-level", "warning", folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
