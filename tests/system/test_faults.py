"""Bad input and bad brokers: one sentence each, the right exit code, and nothing else is lost."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from paho.mqtt.enums import MQTTProtocolVersion

from tests.support.broker import Mosquitto
from tests.support.configuration import Configure, Json, belt, write_config
from tests.support.process import Server, StartEdge, run_edge
from tests.support.project import CONVEYOR, program
from tests.support.scene_video import FRAMES
from tests.support.subscriber import Subscriber, subscribed
from tests.support.tiny_model import tiny_model
from tests.support.waiting import free_port

# Fails on every third picture.
FAILING = """
import numpy as np

calls = 0

def decode(outputs, options):
    global calls
    calls += 1
    if calls % 3 == 0:
        raise ZeroDivisionError("third picture")
    return np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64)
"""

GOOD_FRAMES = 40
STREAM = '[streams.belt]\nsource = "synthetic://conveyor?frames=1"\nmodel = "conveyor"\n'


def refusal(folder: Path, config: Path) -> str:
    """Run the daemon with a configuration that cannot be used; return its one sentence."""
    done = run_edge("run", config, "--log-level", "warning", "--state-dir", folder / "state", folder=folder)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("edge: ")
    return done.stderr


WRONG_CONFIGS = [
    (STREAM + "colour = 1\n", "[streams.belt] colour: unknown key"),
    (STREAM + "dilivery = 'live'\n", "did you mean 'delivery'?"),
    (STREAM + "fps = 'fast'\n", "[streams.belt] fps: found 'fast', wanted"),
    (STREAM + STREAM, "is not valid TOML"),
    (STREAM + "labels = ['cat']\n", "found 'cat'"),
    (STREAM.replace('model = "conveyor"', 'model = "detector"'), "found 'detector', wanted one of the models"),
    (STREAM.replace("synthetic://conveyor?frames=1", "ftp://host/video"), "scheme 'ftp' is not known"),
    (
        STREAM.replace("synthetic://conveyor?frames=1", "missing.mp4") + "required = true\n",
        "missing.mp4 does not exist and is required",
    ),
    (STREAM.replace("?frames=1", "?size=8192x8192"), "found pictures of 8192×8192 (67 Mpx), wanted at most 50 Mpx"),
    (
        STREAM.replace("?frames=1", "?size=1920x1080") + "[device]\npicture_memory_mb = 100\n",
        "wanted at most 100 MB for all of them",
    ),
    (STREAM.replace("synthetic://conveyor?frames=1", "rtsp://user:pass-word@host:x/"), "no valid host and port"),
    (STREAM.replace("synthetic://conveyor?frames=1", "rtsp://user:12#pass-word@host/"), "[streams.belt] source"),
    (STREAM.replace("synthetic://conveyor?frames=1", "rtsp://user:12/pass-word@host/"), "[streams.belt] source"),
    (STREAM + '[models.other]\npath = "missing"\n', "missing does not exist"),
    (STREAM + '[mqtt]\nurl = "http://127.0.0.1"\n', "wanted mqtt://HOST"),
    (STREAM + '[mqtt]\npassword_file = "missing"\n', "contains no file of this name"),
    (STREAM + "[telemetry]\nperiod_s = 0\n", "[telemetry] period_s: found 0"),
    (
        STREAM + "password_file = 'edge.toml'\ndelivery = 'sometimes'\n",
        "[streams.belt] delivery: found 'sometimes'",
    ),
]


@pytest.mark.parametrize(("text", "sentence"), WRONG_CONFIGS, ids=[sentence for _, sentence in WRONG_CONFIGS])
def test_a_configuration_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, text: str, sentence: str
) -> None:
    config = tmp_path / "edge.toml"
    config.write_text(f'{text}\n[models.conveyor]\npath = "{CONVEYOR}"\n', encoding="utf-8")
    told = refusal(tmp_path, config)
    assert sentence in told
    assert "edge.toml" in told or "[streams.belt]" in told
    assert "pass-word" not in told


def test_a_configuration_that_is_not_there_or_no_text_is_refused(tmp_path: Path) -> None:
    assert "cannot be read" in refusal(tmp_path, tmp_path / "missing.toml")
    (tmp_path / "edge.toml").write_bytes(b"\xff\xfe\x00")
    assert "not UTF-8" in refusal(tmp_path, tmp_path / "edge.toml")


@pytest.mark.parametrize("content", [b"no model at all", None], ids=["text", "truncated"])
def test_a_file_that_is_no_whole_onnx_model_is_refused(tmp_path: Path, content: bytes | None) -> None:
    folder = tiny_model(tmp_path / "tiny")
    half = (CONVEYOR / "conveyor.onnx").read_bytes()[:500_000]
    (folder / "tiny.onnx").write_bytes(half if content is None else content)
    config = write_config(
        tmp_path / "edge.toml",
        "mqtt://127.0.0.1:1",
        {"models.tiny": {"path": str(folder)}, "streams.belt": belt(frames=1) | {"model": "tiny"}},
    )
    told = refusal(tmp_path, config)
    assert "model 'tiny'" in told
    assert "wanted a complete ONNX file" in told


def cut_video(video: Path, folder: Path, suffix: str, *options: str) -> Path:
    """Return a video in another container, cut off in the middle of its bytes."""
    whole, half = folder / f"whole{suffix}", folder / f"half{suffix}"
    command = [program("ffmpeg", "ffmpeg"), "-v", "error", "-i", str(video), "-c", "copy", *options]
    subprocess.run([*command, str(whole)], check=True)
    content = whole.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    return half


def readable_frames(video: Path) -> int:
    capture = cv2.VideoCapture(str(video))
    frames = 0
    while capture.grab():
        frames += 1
    return frames


@pytest.fixture
def tiny(tmp_path: Path) -> Json:
    """Give the tables of a model that costs nothing and of a stream on it that must lose nothing."""
    folder = tiny_model(tmp_path / "tiny")
    good = belt(frames=GOOD_FRAMES, delivery="every") | {"model": "tiny"}
    return {"models.tiny": {"path": str(folder)}, "streams.good": good}


def every(source: Path) -> Json:
    return {"source": str(source), "model": "tiny", "delivery": "every"}


def assert_good_stream_is_whole(subscriber: Subscriber) -> None:
    assert subscriber.seqs("good") == list(range(GOOD_FRAMES))
    assert subscriber.states("good") == ["running", "ended"]


@pytest.mark.broker
def test_of_a_video_cut_in_half_the_frames_before_the_cut_count(
    tmp_path: Path,
    configure: Configure,
    start_edge: StartEdge,
    subscriber: Subscriber,
    tiny: Json,
    scene_video: Path,
) -> None:
    stream = cut_video(scene_video, tmp_path, ".ts")
    fast_start = cut_video(scene_video, tmp_path, ".mp4", "-movflags", "+faststart")
    daemon = start_edge(configure(tiny | {"streams.ts": every(stream), "streams.mp4": every(fast_start)}))
    assert daemon.wait() == 0
    subscriber.wait_for_state("stopped")
    for name, video in (("ts", stream), ("mp4", fast_start)):
        frames = len(subscriber.seqs(name))
        assert 0.35 * FRAMES < frames < 0.65 * FRAMES
        assert abs(frames - readable_frames(video)) <= 1, "the last one may be damaged"
        assert subscriber.seqs(name) == list(range(frames))
        assert subscriber.states(name) == ["running", "ended"]
    assert "truncated or damaged" in subscriber.wait_for_state("ended", "mp4").body["reason"]
    assert_good_stream_is_whole(subscriber)


@pytest.mark.broker
def test_a_video_that_is_no_video_fails_alone(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, tiny: Json
) -> None:
    (tmp_path / "text.mp4").write_text("this is no video\n" * 100, encoding="utf-8")
    (tmp_path / "empty.mp4").touch()
    bad = {f"streams.{path.stem}": every(path) for path in map(tmp_path.joinpath, ("text.mp4", "empty.mp4"))}
    daemon = start_edge(configure(tiny | bad))
    assert daemon.wait() == 1
    subscriber.wait_for_state("stopped")
    for name, told in (("text", "cannot be opened"), ("empty", "is empty; wanted a video")):
        assert subscriber.states(name) == ["failed"]
        assert told in subscriber.wait_for_state("failed", name).body["reason"]
    assert "Traceback" not in daemon.log
    assert_good_stream_is_whole(subscriber)


@pytest.mark.broker
def test_cameras_that_are_not_there_are_tried_again_and_stop_no_other_stream(
    configure: Configure, start_edge: StartEdge, subscriber: Subscriber, tiny: Json
) -> None:
    nobody = {"source": f"rtsp://127.0.0.1:{free_port()}/main?password=pass-word", "model": "tiny"}
    missing = {"source": "v4l2:///dev/video99", "model": "tiny"}
    daemon = start_edge(configure(tiny | {"streams.nobody": nobody, "streams.missing": missing}))
    away = subscriber.wait_for_state("reconnecting", "nobody").body
    assert "wanted a reachable server" in away["reason"]
    assert "/dev/video99 cannot be opened" in subscriber.wait_for_state("reconnecting", "missing").body["reason"]
    subscriber.wait_for_state("ended", "good")
    assert daemon.end() == 0
    subscriber.wait_for_state("stopped")
    assert_good_stream_is_whole(subscriber)
    assert not any(b"pass-word" in message.raw for message in subscriber.messages)
    assert "pass-word" not in daemon.log
    assert "WARN:" not in daemon.log, "the libraries' own words may hold an address with its password"


@pytest.mark.broker
def test_pictures_of_any_size_are_taken_and_broken_ones_left_out(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, tiny: Json
) -> None:
    for name, size in {"dot.png": (1, 1), "huge.png": (6000, 8000), "a.png": (48, 64), "c.png": (64, 48)}.items():
        cv2.imwrite(str(tmp_path / name), np.zeros((*size, 3), np.uint8))
    album = tmp_path / "album"
    album.mkdir()
    (album / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    (album / "notes.txt").write_text("no picture", encoding="utf-8")
    for name in ("a.png", "c.png"):
        (tmp_path / name).rename(album / name)
    sources = {"dot": tmp_path / "dot.png", "huge": tmp_path / "huge.png", "album": album}
    daemon = start_edge(configure(tiny | {f"streams.{name}": every(path) for name, path in sources.items()}))
    assert daemon.wait() == 0
    subscriber.wait_for_state("stopped")
    sizes = {name: [result["size"] for result in subscriber.results(name)] for name in sources}
    assert sizes == {"dot": [[1, 1]], "huge": [[8000, 6000]], "album": [[64, 48], [48, 64]]}
    assert "1 of 3 pictures" in subscriber.wait_for_state("ended", "album").body["reason"]
    # The tiny model's box covers the upper left quarter of its input, which is letterboxed around the centre.
    for name in sources:
        for result in subscriber.results(name):
            width, height = result["size"]
            assert all(x + w <= width and y + h <= height for x, y, w, h in (d["box"] for d in result["detections"]))
    assert_good_stream_is_whole(subscriber)


@pytest.mark.broker
def test_a_picture_that_the_decoder_fails_on_is_counted_and_costs_no_other(
    tmp_path: Path, configure: Configure, start_edge: StartEdge, subscriber: Subscriber, tiny: Json
) -> None:
    folder = tiny_model(tmp_path / "failing", FAILING)
    failing = belt(frames=30, delivery="every") | {"model": "failing"}
    config = configure(tiny | {"models.failing": {"path": str(folder), "lanes": 1}, "streams.failing": failing})
    assert start_edge(config).wait() == 0
    subscriber.wait_for_state("stopped")
    assert subscriber.seqs("failing") == list(range(20))
    assert [result["frame"] for result in subscriber.results("failing")] == [n for n in range(30) if n % 3 != 2]
    last = subscriber.telemetry()[-1]["streams"]["failing"]
    assert (last["frames"], last["results"], last["dropped"]["error"]) == (30, 20, 10)
    assert_good_stream_is_whole(subscriber)


@pytest.mark.broker
def test_a_broker_that_refuses_does_not_stop_the_daemon(tmp_path: Path, start_edge: StartEdge) -> None:
    closed_broker = Mosquitto(tmp_path, "allow_anonymous false", name="closed")
    closed_broker.start()
    try:
        daemon = start_edge(write_config(tmp_path / "edge.toml", closed_broker.url, {"streams.belt": belt()}))
        daemon.await_log("refused the connection")
        daemon.await_log("stream belt is running")
        assert daemon.end() == 0
    finally:
        closed_broker.kill()
    assert "user name, password" in daemon.log
    assert "messages were not acknowledged" in daemon.log


@pytest.fixture
def old_broker(tmp_path: Path) -> Iterator[Server]:
    """Give amqtt, which speaks MQTT 3.1.1 only."""
    pytest.importorskip("amqtt", reason="amqtt is not installed: pip install '.[demo]'")
    port = free_port()
    settings = tmp_path / "amqtt.yaml"
    settings.write_text(
        f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
        "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n",
        encoding="utf-8",
    )
    server = Server([sys.executable, "-m", "amqtt.scripts.broker_script", "-c", settings], tmp_path, "amqtt", port)
    server.start()
    yield server
    server.kill()


def test_a_broker_that_speaks_only_mqtt_3_gets_every_result(
    tmp_path: Path, start_edge: StartEdge, old_broker: Server
) -> None:
    url = f"mqtt://127.0.0.1:{old_broker.port}"
    config = write_config(tmp_path / "edge.toml", url, {"streams.belt": belt(frames=100, delivery="every")})
    with subscribed(old_broker.port, MQTTProtocolVersion.MQTTv311) as collector:
        daemon = start_edge(config)
        assert daemon.wait() == 0
        collector.wait_for_state("stopped")
        assert collector.seqs("belt") == list(range(100))
        assert collector.states()[-1] == "stopped"


class ThreeOneOneOnly:
    """Answers CONNECT of version 5 as version 3.1.1 has it, with return code 1, and then hangs up."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.levels: list[int] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while 4 not in self.levels:
            connection, _ = self._listener.accept()
            with connection:
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        packet = connection.recv(4096)
        level = packet[packet.index(b"MQTT") + 4]
        self.levels.append(level)
        connection.sendall(b"\x20\x02\x00\x00" if level == 4 else b"\x20\x02\x00\x01")
        while level == 4 and connection.recv(4096):
            pass


def test_a_broker_that_answers_with_return_code_1_is_spoken_to_in_mqtt_3(tmp_path: Path, start_edge: StartEdge) -> None:
    server = ThreeOneOneOnly()
    url = f"mqtt://127.0.0.1:{server.port}"
    daemon = start_edge(write_config(tmp_path / "edge.toml", url, {"streams.belt": belt()}))
    daemon.await_log("connected to MQTT broker")
    assert server.levels == [5, 4]
    assert daemon.end() == 0
