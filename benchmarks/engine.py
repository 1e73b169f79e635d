"""Cost of our Python per call of a TensorRT engine: `.venv/bin/python benchmarks/engine.py [--json OUT]`.

It runs on the emulation in host memory, with an engine that does nothing and tiny tensors, so that only our code and
the emulation's are measured. Blocks of calls for each kind of memory are interleaved; a figure is the median of its
blocks' medians.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from rich.console import Console  # noqa: E402 -- likewise
from rich.table import Table  # noqa: E402 -- likewise

from tests.support.emulated_engines import build_and_load, emulated_gpu  # noqa: E402 -- after the path to it
from tests.support.small_models import identity  # noqa: E402 -- likewise

DEVICES = {"orin-nano": "mapped", "thor": "registered", "discrete": "pinned"}
CALLS = 2000  # per block
TARGET_US = 60.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="OUT")
    options = parser.parse_args()
    blocks_us: dict[str, list[float]] = {device: [] for device in DEVICES}
    for _ in range(options.rounds):
        for device, medians_us in blocks_us.items():
            medians_us.append(call_us(device))
    table = Table(
        "memory",
        "µs per call, batch 1",
        "least",
        "most",
        "target",
        title="TrtContext.infer on an idle engine",
    )
    for device, medians_us in blocks_us.items():
        cells = (statistics.median(medians_us), min(medians_us), max(medians_us))
        table.add_row(DEVICES[device], *(f"{each:.1f}" for each in cells), f"≤ {TARGET_US:g}")
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps({"blocks_us": blocks_us, "calls": CALLS}, indent=1) + "\n", encoding="utf-8")
    return 0


def call_us(device: str) -> float:
    """Return the median of one block of calls in microseconds."""
    with tempfile.TemporaryDirectory() as folder, emulated_gpu(device=device, zero_cost=True):
        engine = build_and_load(identity(Path(folder)), Path(folder), 1)
        with engine.make_context(1) as context:
            times_ns = []
            for _ in range(CALLS):
                start_ns = time.perf_counter_ns()
                context.infer(1)
                times_ns.append(time.perf_counter_ns() - start_ns)
        engine.close()
    return statistics.median(times_ns) / 1000


if __name__ == "__main__":
    sys.exit(main())
