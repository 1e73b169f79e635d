"""Decode time of one picture: `.venv/bin/python benchmarks/decode.py [--against CHECKOUT] [--json OUT]`.

Outputs of usual sizes with 20 objects in them, medians of many calls. With `--against`, the decoders of another
checkout are measured in turn with these, each round in a process of its own. `guard` is what the guard of outputs
adds to each frame: its look at the scores and boxes, and a hundredth of the check of all rows.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent
CALLS = 2000
ROUNDS = 5
OBJECTS = 20
Arrays = dict[str, NDArray[np.float32]]


def grid_rows(rows: int, columns: int, first_class: int) -> NDArray[np.float32]:
    """Return rows of low scores, with a few objects in them."""
    random = np.random.default_rng(0)
    array: NDArray[np.float32] = random.random((rows, columns), np.float32) * np.float32(0.05)
    places = random.choice(rows, OBJECTS, replace=False)
    array[places, 4] = 0.9
    array[places, first_class + places % 80] = 0.9
    return array


def yolox_nano() -> tuple[str, tuple[int, int], Arrays]:
    rows = grid_rows(3549, 85, 5)
    rows[:, 2:4] = 1
    return "yolox", (416, 416), {"output": rows}


def yolov8() -> tuple[str, tuple[int, int], Arrays]:
    rows = grid_rows(8400, 84, 4)
    rows[:, :4] *= 6000
    return "yolov8", (640, 640), {"output0": np.ascontiguousarray(rows.T)}


def yolov10() -> tuple[str, tuple[int, int], Arrays]:
    rows = np.zeros((300, 6), np.float32)
    rows[:OBJECTS] = [1, 2, 50, 60, 0.9, 3]
    return "yolov10", (640, 640), {"output0": rows}


def ssd() -> tuple[str, tuple[int, int], Arrays]:
    scores = np.full((3000, 81), 0.01, np.float32)
    scores[:OBJECTS, 5] = 0.9
    boxes = np.tile(np.array([0.1, 0.1, 0.3, 0.3], np.float32), (3000, 1))
    return "ssd", (300, 300), {"scores": scores, "boxes": boxes}


def detr() -> tuple[str, tuple[int, int], Arrays]:
    logits = np.random.default_rng(0).normal(-5, 1, (300, 80)).astype(np.float32)
    logits[:OBJECTS, 3] = 3
    return "detr", (640, 640), {"logits": logits, "pred_boxes": np.full((300, 4), 0.3, np.float32)}


CASES: dict[str, Callable[[], tuple[str, tuple[int, int], Arrays]]] = {
    "YOLOX-Nano, 416": yolox_nano,
    "YOLOv8, 640": yolov8,
    "YOLOv10, 640": yolov10,
    "SSD, 3000 boxes of 80 classes": ssd,
    "RT-DETR, 300 queries": detr,
}


def open_decoder(name: str, input_px: tuple[int, int], arrays: Arrays) -> tuple[Any, tuple[int, int], Arrays]:
    from edge.core.manifest import Manifest  # noqa: PLC0415 -- as in `measure`
    from edge.inference.backends.engine import TensorSpec  # noqa: PLC0415
    from edge.inference.decode import Decoder  # noqa: PLC0415

    output = {"decoder": name, "score_threshold": 0.35}
    manifest = Manifest.model_validate({"task": "detect", "onnx": "m.onnx", "output": output})
    specs = [TensorSpec(key, (1, *array.shape), array.dtype) for key, array in arrays.items()]
    return Decoder(manifest, [str(number) for number in range(80)], specs, input_px, Path()), input_px, arrays


def measure() -> dict[str, float]:
    """Return the median of each case in microseconds, by the package that is imported."""
    from edge.core.records import Geometry  # noqa: PLC0415 -- a worker imports the package of its own checkout

    medians = {}
    for name, make in CASES.items():
        decoder, input_px, arrays = open_decoder(*make())
        geometry = Geometry(input_px, 1.0, 1.0, 0.0, 0.0)
        medians[name] = median_us(partial(decoder.decode, arrays, geometry))
    return medians


def median_us(call: Callable[[], Any], calls: int = CALLS) -> float:
    times_ns = []
    for _ in range(calls):
        start_ns = perf_counter_ns()
        call()
        times_ns.append(perf_counter_ns() - start_ns)
    return statistics.median(times_ns) / 1000


def guard_cost() -> dict[str, float]:
    """Return what the guard adds to a frame of each case, in microseconds."""
    from edge.core.records import Geometry  # noqa: PLC0415 -- as in `measure`
    from edge.inference.predictor import CHECKED_RUNS  # noqa: PLC0415
    from edge.inference.proof.service_proof import implausibility  # noqa: PLC0415

    added = {}
    for name, make in CASES.items():
        decoder, input_px, arrays = open_decoder(*make())
        geometry = Geometry(input_px, 1.0, 1.0, 0.0, 0.0)
        plain, guarded = partial(decoder.decode, arrays, geometry), partial(decode_guarded, decoder, arrays, geometry)
        pairs = [(median_us(guarded), median_us(plain)) for _ in range(ROUNDS)]
        seen = statistics.median(one - other for one, other in pairs)
        added[name] = seen + median_us(partial(implausibility, decoder.reader, arrays), CHECKED_RUNS) / CHECKED_RUNS
    return added


def decode_guarded(decoder: Any, arrays: Arrays, geometry: Any) -> None:
    from edge.inference.decode.guard import OutputGuard  # noqa: PLC0415

    decoder.decode(arrays, geometry, None, OutputGuard())


def run_worker(checkout: Path) -> dict[str, float]:
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    command = [sys.executable, "-P", __file__, "--worker"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    medians: dict[str, float] = json.loads(done.stdout)
    return medians


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--against", type=Path, metavar="CHECKOUT", help="another checkout of this project")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(measure()))
        return
    checkouts = {"this": ROOT} | ({"against": options.against.resolve()} if options.against else {})
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for _ in range(options.rounds):
        for name, path in checkouts.items():
            rounds[name].append(run_worker(path))
    report = {
        case: {name: round(statistics.median(each[case] for each in found), 1) for name, found in rounds.items()}
        for case in CASES
    }
    if not options.against:
        for case, added in guard_cost().items():
            report[case]["guard"] = round(added, 1)
    for case, figures in report.items():
        print(f"{case:32}" + "".join(f"  {name} {figure:6.1f} µs" for name, figure in figures.items()))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
