"""Comparison of `edge bench --engine-only` with ONNX Runtime's bare loop: `python benchmarks/engine_alone.py [MODEL]`.

Short blocks of both are interleaved, in alternating order, so that other work on the machine affects both alike. The
ratio is the median of the rounds' ratios of mean latencies; 1 means that the load generator and our engine context
cost nothing. It has an interval of 95 % confidence: one that extends beyond 3 % is inconclusive, on a busy machine,
and only one that lies beyond 3 % as a whole is a difference (exit code 4).
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from pathlib import Path

from edge.core.clock import now_ns
from edge.core.manifest import find_model, model_file, read_manifest
from edge.core.process import usable_cores
from edge.inference.backends.ort import OrtEngine, import_onnxruntime
from edge.perf.bench.load_generator import ClosedLoop, Length, Query
from edge.perf.bench.system_engine import EngineAlone, fill_gaussian

WITHIN = 0.03
AGREES, DIFFERS, UNCLEAR = "agrees", "differs", "unclear"


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
    ratios = sorted(ours / bare for ours, bare in zip(ours_ms, bare_ms, strict=True))
    ratio, (low, high) = statistics.median(ratios), interval(ratios)
    ours, bare = statistics.median(ours_ms), statistics.median(bare_ms)
    print(
        f"{folder.name} batch {options.batch}: engine alone {ours:.3f} ms, bare loop {bare:.3f} ms, "
        f"ratio {ratio:.4f} ({low:.4f} to {high:.4f}): {verdict(low, high)}"
    )
    if options.json:
        figures = {"model": folder.name, "batch": options.batch, "ours_ms": ours_ms, "bare_ms": bare_ms, "ratio": ratio}
        figures |= {"low": low, "high": high, "verdict": verdict(low, high)}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return 4 if verdict(low, high) == DIFFERS else 0


def verdict(low: float, high: float) -> str:
    """Return the verdict on the interval of a ratio."""
    if low > 1 + WITHIN or high < 1 - WITHIN:
        return DIFFERS
    return AGREES if low >= 1 - WITHIN and high <= 1 + WITHIN else UNCLEAR


def blocks(onnx: Path, batch: int, rounds: int, seconds: float) -> tuple[list[float], list[float]]:
    """Return the mean latency of each block in ms: of the engine alone, and of the library's bare loop."""
    engine = OrtEngine(onnx, threads=usable_cores())
    ours_ms: list[float] = []
    bare_ms: list[float] = []
    with EngineAlone(engine, batch, 1, seed=1, in_caller=True) as alone:
        loop, bare = ClosedLoop(alone, "single-stream"), BareLoop(onnx, batch)
        for number in range(rounds + 1):
            if number % 2:
                bare_ms.append(bare.mean_ms(seconds))
            taken: list[Query] = []
            loop.run(Length(seconds), taken, now_ns())
            ours_ms.append(statistics.fmean(query.latency_ms for query in taken))
            if not number % 2:
                bare_ms.append(bare.mean_ms(seconds))
    return ours_ms[1:], bare_ms[1:]  # the first round is a warm-up of both


def interval(ordered: list[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, by the sign test, for any distribution."""
    count = len(ordered)
    place = max(int((count - 1.96 * math.sqrt(count)) / 2), 0)
    return ordered[place], ordered[count - 1 - place]


class BareLoop:
    """Loop over ONNX Runtime as in its documentation, on the same input and as many threads."""

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
        """Run for some seconds, and return the mean time of a run."""
        start_s = end_s = time.perf_counter()
        runs = 0
        while end_s - start_s < seconds:
            self._session.run(None, self._inputs)
            end_s = time.perf_counter()
            runs += 1
        return (end_s - start_s) / runs * 1e3


if __name__ == "__main__":
    sys.exit(main())
