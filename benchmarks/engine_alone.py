"""`edge bench --engine-only` beside ONNX Runtime's own bare loop: `python benchmarks/engine_alone.py [MODEL]`.

Short blocks of both take turns, so that what else runs here falls on both alike. The ratio is the median of the rounds'
ratios of mean latencies; 1 says that the load generator and our engine context cost nothing.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

from edge.backends.ort import OrtEngine, import_onnxruntime
from edge.benching.engine_alone import EngineAlone, fill_gaussian
from edge.benching.scenario import ClosedLoop, Length, Query
from edge.clock import now_ns
from edge.manifest import find_model, read_manifest
from edge.model import model_file, usable_cores

WITHIN = 0.03


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", default="conveyor", help="a folder with model.toml, or a name")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--seconds", type=float, default=0.15, help="of a block")
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    folder = find_model(options.model)
    onnx = model_file(folder, read_manifest(folder))
    ours_ms, bare_ms = blocks(onnx, options.batch, options.rounds, options.seconds)
    ratio = statistics.median(ours / bare for ours, bare in zip(ours_ms, bare_ms, strict=True))
    ours, bare = statistics.median(ours_ms), statistics.median(bare_ms)
    print(
        f"{folder.name} batch {options.batch}: engine alone {ours:.3f} ms, bare loop {bare:.3f} ms, ratio {ratio:.4f}"
    )
    if options.json:
        told = {"model": folder.name, "batch": options.batch, "ours_ms": ours_ms, "bare_ms": bare_ms, "ratio": ratio}
        options.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return 0 if abs(ratio - 1) <= WITHIN else 4


def blocks(onnx: Path, batch: int, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return the mean latency of each block in ms: of the engine alone, and of the library's bare loop."""
    engine = OrtEngine(onnx, threads=usable_cores())
    ours_ms: list[float] = []
    bare_ms: list[float] = []
    with EngineAlone(engine, batch, 1, seed=1, in_caller=True) as alone:
        loop, bare = ClosedLoop(alone, "single-stream"), BareLoop(onnx, batch)
        for _ in range(rounds + 1):
            taken: list[Query] = []
            loop.run(Length(seconds), taken, now_ns())
            ours_ms.append(statistics.fmean(query.latency_ms for query in taken))
            bare_ms.append(bare.mean_ms(seconds))
    return ours_ms[1:], bare_ms[1:]  # the first round warms both up


class BareLoop:
    """ONNX Runtime as its own documentation shows it, on the same numbers and as many threads."""

    def __init__(self, onnx: Path, batch: int) -> None:
        onnxruntime = import_onnxruntime()
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = usable_cores()
        settings.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(onnx), settings, providers=["CPUExecutionProvider"])
        with OrtEngine(onnx, threads=1).make_context(batch) as context:
            fill_gaussian(context, seed=1)
            self._inputs = {name: array.copy() for name, array in context.inputs.items()}

    def mean_ms(self, seconds: float) -> float:
        """Run for some seconds; return the mean time of a run."""
        start_s = end_s = time.perf_counter()
        runs = 0
        while end_s - start_s < seconds:
            self._session.run(None, self._inputs)
            end_s = time.perf_counter()
            runs += 1
        return (end_s - start_s) / runs * 1e3


if __name__ == "__main__":
    sys.exit(main())
