"""Parts that `pipeline.py` measures in a process each: `measured.py PART JSON-ARGUMENTS` prints JSON.

serve   the whole daemon on a configuration; frames from its source or from memory
bare    the engine's session on ready tensors, lanes × threads
parts   processor time of one frame in decoding, preprocessing, decoding of outputs
"""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edge.capture.camera
from edge.capture import Source, open_source
from edge.capture.source import DEFAULT_LIMITS, SourceLimits
from edge.core.config import ModelSettings, load_config
from edge.core.records import Image, Message
from edge.core.source_address import SourceAddress, parse_address
from edge.core.state_dir import default_state_dir
from edge.daemon.daemon import Daemon
from edge.inference.backends.ort import OrtEngine
from edge.pipeline.served_model import ServedModel


class MemorySource:
    """Source that repeats decoded images without a copy."""

    def __init__(self, pictures: list[Image], frames: int, period_s: float) -> None:
        self._pictures = pictures
        self._frames = frames
        self._period_s = period_s
        self._index = -1

    def grab(self) -> float | None:
        self._index += 1
        return None if self._index >= self._frames else self._index * self._period_s

    def retrieve(self, buffer: Image | None) -> Image:  # noqa: ARG002 -- the pictures are there already
        return self._pictures[self._index % len(self._pictures)]

    def ending(self) -> str | None:
        return None

    def close(self) -> None:
        pass


def pictures_of(video: str, count: int) -> list[Image]:
    """Decode the first images of a video."""
    with contextlib.closing(open_source(parse_address(video, Path()))) as source:
        pictures: list[Image] = []
        while len(pictures) < count and source.grab() is not None:
            pictures.append(source.retrieve(None))
    return pictures


class MeasuredDaemon(Daemon):
    """Daemon that records the time of each acknowledgement."""

    def __init__(self, config_path: Path) -> None:
        config = load_config(config_path)
        super().__init__(config_path, config, default_state_dir(config.device.state_dir))
        self.acknowledged: list[tuple[Message, int]] = []

    def _on_acknowledged(self, message: Message, at_ns: int) -> None:
        super()._on_acknowledged(message, at_ns)
        self.acknowledged.append((message, at_ns))


def serve(config: str, pictures: list[Image] | None = None, frames: int = 0, period_s: float = 0.0) -> dict[str, Any]:
    """Run the daemon until its sources have ended."""
    if pictures is not None:
        shown = pictures

        # Whatever the address, the pictures are given.
        def open_memory(address: SourceAddress, limits: SourceLimits = DEFAULT_LIMITS) -> Source:  # noqa: ARG001
            return MemorySource(shown, frames, period_s)

        edge.capture.camera.open_source = open_memory  # type: ignore[attr-defined]  # the only place to inject them
    daemon = MeasuredDaemon(Path(config))
    start_cpu_s = time.process_time()
    code = daemon.run()
    cpu_s = time.process_time() - start_cpu_s
    first_ns = min(message.captured_ns for message, _ in daemon.acknowledged)
    last_ns = max(at_ns for _, at_ns in daemon.acknowledged)
    count = len(daemon.acknowledged)
    return {
        "code": code,
        "frames": count,
        "frames_per_s": count / ((last_ns - first_ns) / 1e9),
        "cpu_ms_per_frame": cpu_s * 1000 / count,
        "beside_engine_ms": [_beside_engine_ms(message, at_ns) for message, at_ns in daemon.acknowledged],
    }


def _beside_engine_ms(message: Message, at_ns: int) -> float:
    """Return the times from capture to acknowledgement, without the engine's own time."""
    infer_ms: float = json.loads(message.body)["latency_ms"]["infer"]
    return (at_ns - message.captured_ns) / 1e6 - infer_ms


def bare(onnx: str, lanes: int, threads: int, seconds: float) -> dict[str, Any]:
    """Run the engine's session on ready tensors from as many threads as there are lanes."""
    engine = OrtEngine(Path(onnx), threads=threads)
    counts = [0] * lanes

    def lane(number: int) -> None:
        with engine.make_context(1) as context:
            for array in context.inputs.values():
                array[:] = np.random.default_rng(0).uniform(0, 255, array.shape)
            context.infer(1)
            barrier.wait()
            until_s = time.perf_counter() + seconds
            while time.perf_counter() < until_s:
                context.infer(1)
                counts[number] += 1
            ended_s[number] = time.perf_counter()

    ended_s = [0.0] * lanes
    barrier = threading.Barrier(lanes + 1)
    threads_ = [threading.Thread(target=lane, args=(number,)) for number in range(lanes)]
    for thread in threads_:
        thread.start()
    barrier.wait()
    start_s = time.perf_counter()
    for thread in threads_:
        thread.join()
    return {"frames_per_s": sum(counts) / (max(ended_s) - start_s)}


def parts(model: str, video: str, frames: int) -> dict[str, Any]:
    """Measure the processor time of each part around the engine on one thread, in ms per frame."""
    cv2.setNumThreads(1)
    opened = ServedModel(
        "model", ModelSettings.model_validate({"path": model, "max_batch": 1, "lanes": 1, "threads": 1})
    )
    spent_s = {"video": 0.0, "preprocess": 0.0, "infer": 0.0, "decode": 0.0}
    count = 0
    with (
        contextlib.closing(open_source(parse_address(video, Path()))) as source,
        opened.predictor.session() as session,
    ):
        session.warm_up()
        picture = None
        while count < frames:
            marks_s = [time.thread_time()]
            if source.grab() is None:
                break
            picture = source.retrieve(picture)
            marks_s.append(time.thread_time())
            session.fill(picture)
            marks_s.append(time.thread_time())
            session.run()
            marks_s.append(time.thread_time())
            session.decode()
            marks_s.append(time.thread_time())
            for part, before_s, after_s in zip(spent_s, marks_s, marks_s[1:], strict=False):
                spent_s[part] += after_s - before_s
            count += 1
    return {f"{part}_ms": seconds * 1000 / count for part, seconds in spent_s.items()}


def main() -> None:
    part, arguments = sys.argv[1], json.loads(sys.argv[2])
    if video := arguments.pop("pictures_of", None):
        arguments["pictures"] = pictures_of(video, 64)
    if size := arguments.pop("blank_px", None):
        arguments["pictures"] = [np.zeros((size, size, 3), np.uint8)]
    measure: dict[str, Callable[..., dict[str, Any]]] = {"serve": serve, "bare": bare, "parts": parts}
    json.dump(measure[part](**arguments), sys.stdout)


if __name__ == "__main__":
    main()
