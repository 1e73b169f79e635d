"""Cost of the runtime besides its engine: `.venv/bin/python benchmarks/pipeline.py --data FOLDER [--json OUT]`.

FOLDER holds `models/yolox_nano.onnx`, `models/coco.names` and `person.mp4`. In each round, all parts run in turn, each
in a process of its own, publishing to a Mosquitto started for it; ratios are within a round, and their medians are
printed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import paho.mqtt.client as mqtt
from configuration import write_config
from onnx import TensorProto, helper
from paho.mqtt.enums import CallbackAPIVersion
from rich.console import Console
from rich.table import Table

from edge.core.process import usable_cores
from edge.host.board import board_name

VIDEO_FRAMES = 1394
IDENTITY_FRAMES = 20_000
IDENTITY_PX = 8
LIVE_FPS = 10
LIVE_FRAMES = 300

YOLOX = """
task = "detect"
onnx = "yolox_nano.onnx"
labels = "coco.names"
[input]
color = "bgr"
resize = "letterbox"
anchor = "top-left"
pad = 114
scale = 1.0
mean = [0, 0, 0]
std = [1, 1, 1]
[output]
decoder = "yolox"
score_threshold = 0.35
iou_threshold = 0.45
"""
IDENTITY = """
task = "detect"
onnx = "identity.onnx"
[input]
resize = "stretch"
[output]
decoder = "decoder:decode"
nms = false
"""
IDENTITY_DECODER = """
import numpy as np

BOX = np.array([[1, 1, 5, 5]], np.float32), np.array([0.9], np.float32), np.array([0])


def decode(outputs, options):
    return BOX
"""


class Bench:
    """Folders and processes of one benchmark."""

    def __init__(self, data: Path, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self.video = str(data / "person.mp4")
        self.onnx = str(data / "models" / "yolox_nano.onnx")
        self.yolox = folder / "yolox"
        self.identity = write_identity(folder / "identity")
        self.yolox.mkdir()
        for name in ("yolox_nano.onnx", "coco.names"):
            (self.yolox / name).symlink_to(data / "models" / name)
        (self.yolox / "model.toml").write_text(YOLOX, encoding="utf-8")

    def config(self, model: Path, lanes: int, threads: int, source: str, delivery: str = "every") -> str:
        path = write_config(
            self._folder / "config.toml",
            self._port,
            {"path": str(model), "max_batch": 1, "lanes": lanes, "threads": threads},
            {"stream": {"source": source, "delivery": delivery}},
            {"telemetry": {"period_s": 5}},
        )
        return str(path)

    def measure(self, part: str, **arguments: Any) -> dict[str, Any]:
        """Run one part in a process of its own."""
        command = [sys.executable, str(Path(__file__).with_name("measured.py")), part, json.dumps(arguments)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        measured: dict[str, Any] = json.loads(done.stdout)
        return measured

    def first_result_s(self) -> float:
        """Return the time from the start of `edge run` to its first result at a subscriber."""
        came: list[float] = []
        client = mqtt.Client(CallbackAPIVersion.VERSION2)
        client.on_message = lambda *_: came.append(time.perf_counter())
        client.connect("127.0.0.1", self._port)
        client.subscribe("edge/bench/streams/+/results")
        client.loop_start()
        config = self.config(self.yolox, 2, 1, self.video)
        start_s = time.perf_counter()
        command = [sys.executable, "-m", "edge", "run", config, "--state-dir", str(self._folder / "state")]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not came and process.poll() is None:
                time.sleep(0.005)
            process.terminate()
        client.loop_stop()
        return came[0] - start_s


def write_identity(folder: Path) -> Path:
    """Write the folder of a model that does nothing, unless it exists, and return it."""
    if not folder.exists():
        folder.mkdir()
        (folder / "model.toml").write_text(IDENTITY, encoding="utf-8")
        (folder / "decoder.py").write_text(IDENTITY_DECODER, encoding="utf-8")
        _write_identity_onnx(folder / "identity.onnx")
    return folder


def _write_identity_onnx(path: Path) -> None:
    shape: list[str | int | None] = ["batch", 3, IDENTITY_PX, IDENTITY_PX]
    tensors = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "identity", tensors[:1], tensors[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def run_round(bench: Bench, cores: int) -> dict[str, float]:
    """Measure everything once, with ratios within this round."""
    bare = bench.measure("bare", onnx=bench.onnx, lanes=cores, threads=1, seconds=5)["frames_per_s"]
    in_memory = bench.measure(
        "serve",
        config=bench.config(bench.yolox, cores, 1, bench.video),
        pictures_of=bench.video,
        frames=VIDEO_FRAMES,
    )["frames_per_s"]
    bare_again = bench.measure("bare", onnx=bench.onnx, lanes=cores, threads=1, seconds=5)["frames_per_s"]
    video = bench.measure("serve", config=bench.config(bench.yolox, cores, 1, bench.video))["frames_per_s"]
    one_lane = bench.measure("serve", config=bench.config(bench.yolox, 1, cores, bench.video))["frames_per_s"]
    parts = bench.measure("parts", model=str(bench.yolox), video=bench.video, frames=400)
    around_ms = parts["preprocess_ms"] + parts["decode_ms"]
    mean_bare = (bare + bare_again) / 2
    return {
        "bare_frames_per_s": mean_bare,
        "in_memory_frames_per_s": in_memory,
        "video_frames_per_s": video,
        "one_lane_frames_per_s": one_lane,
        "in_memory_to_bare": in_memory / mean_bare,
        "in_memory_limit": parts["infer_ms"] / (parts["infer_ms"] + around_ms),
        "video_to_bare": video / mean_bare,
        "video_limit": parts["infer_ms"] / (parts["infer_ms"] + around_ms + parts["video_ms"]),
        "lanes_to_one_lane": video / one_lane,
        **{f"cpu_{name}": value for name, value in parts.items()},
        **_runtime_round(bench, cores),
    }


def _runtime_round(bench: Bench, cores: int) -> dict[str, float]:
    identity = bench.measure(
        "serve",
        config=bench.config(bench.identity, cores, 1, bench.video),
        blank_px=IDENTITY_PX,
        frames=IDENTITY_FRAMES,
    )
    live = bench.measure(
        "serve",
        config=bench.config(bench.yolox, cores, 1, bench.video, "live"),
        pictures_of=bench.video,
        frames=LIVE_FRAMES,
        period_s=1 / LIVE_FPS,
    )["beside_engine_ms"]
    return {
        "runtime_cpu_ms_per_frame": identity["cpu_ms_per_frame"],
        "runtime_frames_per_s": identity["frames_per_s"],
        "live_beside_engine_p50_ms": statistics.median(live),
        "live_beside_engine_p99_ms": statistics.quantiles(live, n=100)[98],
        "first_result_s": bench.first_result_s(),
    }


TARGETS = {
    "in_memory_to_bare": "≥ 0.93",
    "video_to_bare": "≥ 0.88",
    "lanes_to_one_lane": "≥ 1.2",
    "runtime_cpu_ms_per_frame": "≤ 0.5",
    "live_beside_engine_p50_ms": "≤ 3",
    "live_beside_engine_p99_ms": "≤ 10",
    "first_result_s": "≤ 2",
}


@contextlib.contextmanager
def mosquitto() -> Iterator[int]:
    """Run a Mosquitto on a free port."""
    program = shutil.which("mosquitto", path=os.environ.get("PATH", "") + ":/usr/sbin")
    if program is None:
        sys.exit("mosquitto is not installed; install it: apt-get install mosquitto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    with subprocess.Popen([program, "-p", str(port)], stderr=subprocess.DEVNULL) as broker:
        time.sleep(0.5)
        try:
            yield port
        finally:
            broker.terminate()


def report(rounds: list[dict[str, float]], console: Console) -> dict[str, Any]:
    """Print the medians, and return them with the raw rounds and the machine as JSON."""
    medians = {key: statistics.median(each[key] for each in rounds) for key in rounds[0]}
    table = Table("figure", "median", "least", "most", "target", title=f"edge and its engine, {len(rounds)} rounds")
    for key, median in medians.items():
        values = [each[key] for each in rounds]
        table.add_row(key, f"{median:.3f}", f"{min(values):.3f}", f"{max(values):.3f}", TARGETS.get(key, ""))
    console.print(table)
    machine = {
        "board": board_name(),
        "cores": usable_cores(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("onnxruntime", "opencv-python-headless", "paho-mqtt")},
    }
    return {"machine": machine, "medians": medians, "rounds": rounds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the model and the video")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write figures and raw rounds to this file")
    options = parser.parse_args()
    console = Console(stderr=True)
    rounds = []
    with mosquitto() as port, tempfile.TemporaryDirectory() as folder:
        bench = Bench(options.data.resolve(), Path(folder), port)
        for number in range(options.rounds):
            rounds.append(run_round(bench, usable_cores()))
            console.print(f"round {number + 1} of {options.rounds} done")
    document = json.dumps(report(rounds, console), indent=1)
    print(document)
    if options.json is not None:
        options.json.write_text(document + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
