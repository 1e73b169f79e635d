"""Speed of preprocessing on the GPU: `.venv/bin/python benchmarks/letterbox.py [--json OUT]`.

By default, eight BGR images of 1920×1080 become 640×640 in float16, N×C×H×W, in one launch. The figure is the bytes per
second that must move (the source rows with a weight, once each, and the whole input), as a fraction of those that the
GPU's own copy moves (read and written). It needs an NVIDIA GPU and pycuda, and says so without them.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from edge.inference.backends.tensorrt.letterbox_kernel import (
    FORMATS,
    PICTURE,
    TARGET,
    TargetSettings,
    kernel_file,
    launch_shape,
    picture_record,
    target_record,
)

TARGET_SHARE = 0.7
SOURCE_PX = (1920, 1080)
PLACE = (0, 140, 640, 360)
BATCH = 8
COPY_BYTES = 256 << 20
CALLS_A_ROUND = 10  # one after another, which hides the cost of each launch
UNCOUNTED_ROUNDS = 10
CACHES = 4  # size of all sets together ÷ the GPU's L2 cache
INPUT = TargetSettings(
    width=640,
    height=640,
    channels=3,
    planar=True,
    dtype=np.dtype(np.float16),
    color="rgb",
    scale=(1 / 255,) * 3,
    bias=(0.0,) * 3,
    pad=114,
)
# Bytes per pixel of a row of the first plane, and of the plane that two rows of pixels share.
ROW_BYTES = {"bgr": (3, 0), "rgb": (3, 0), "gray": (1, 0), "yuyv": (2, 0), "nv12": (1, 1)}


def open_gpu() -> Any:
    """Return pycuda's driver with a context on the first GPU; exit with a message if there is none."""
    try:
        import pycuda.driver as cuda  # noqa: PLC0415 -- only a machine with a GPU has it
    except ImportError as error:
        sys.exit(
            f"nothing was measured: pycuda cannot be imported ({error}); install it on a machine with an NVIDIA GPU"
        )
    try:
        cuda.init()
        cuda.Device(0).retain_primary_context().push()
    except cuda.Error as error:
        sys.exit(f"nothing was measured: no NVIDIA GPU is usable here ({error})")
    return cuda


def measured_ms(cuda: Any, queue: Callable[[int], None], rounds: int) -> list[float]:
    """Return the GPU's time per call in each round after the warm-up rounds; calls are numbered."""
    marks = [(cuda.Event(), cuda.Event()) for _ in range(UNCOUNTED_ROUNDS + rounds)]
    for start, end in marks:
        start.record()
        for number in range(CALLS_A_ROUND):
            queue(number)
        end.record()
    cuda.Context.synchronize()
    return [end.time_since(start) / CALLS_A_ROUND for start, end in marks[UNCOUNTED_ROUNDS:]]


def measure_copy(cuda: Any, rounds: int) -> list[float]:
    """Return the bytes per second, read and written, of copies within the GPU's memory."""
    size = min(COPY_BYTES, cuda.mem_get_info()[0] // 8)
    source, copy = cuda.mem_alloc(size), cuda.mem_alloc(size)
    times_ms = measured_ms(cuda, lambda _: cuda.memcpy_dtod_async(copy, source, size, None), rounds)
    return [2 * size / (time_ms / 1000) for time_ms in times_ms]


def weighted_rows(source: int, wanted: int) -> int:
    """Count the source rows with a weight in any output row."""
    rows: set[int] = set()
    for row in range(wanted):
        before, rest = divmod((2 * row + 1) * source - wanted, 2 * wanted)
        rows |= {max(before, 0), min(before + (rest > 0), source - 1)}
    return len(rows)


def bytes_needed(pixel_format: str) -> int:
    """Return the minimum of bytes that one launch must move."""
    width, height = SOURCE_PX
    first, second = ROW_BYTES[pixel_format]
    rows = weighted_rows(height, PLACE[3])
    picture = width * (first * rows + second * min(rows, height // 2))
    made = INPUT.width * INPUT.height * INPUT.channels * INPUT.dtype.itemsize
    return BATCH * (picture + made)


def make_launch(cuda: Any, pixel_format: str) -> Callable[[int], None]:
    """Prepare sets of noise images that are launched in turn, so that none is in a cache."""
    device = cuda.Context.get_device()
    width, height = SOURCE_PX
    first, second = ROW_BYTES[pixel_format]
    row_bytes = first * width
    picture_bytes = height * row_bytes + second * width * height // 2
    cache_bytes = device.get_attribute(cuda.device_attribute.L2_CACHE_SIZE)
    sets = max(2, -(-CACHES * cache_bytes // (BATCH * picture_bytes)))
    noise = np.random.default_rng(1).integers(0, 256, picture_bytes, np.uint8)
    major, minor = device.compute_capability()
    function = cuda.module_from_file(str(kernel_file(f"sm_{major}{minor}"))).get_function("letterbox")
    function.prepare("PP")
    rows = cuda.mem_alloc(BATCH * INPUT.width * INPUT.height * INPUT.channels * INPUT.dtype.itemsize)
    target = cuda.to_device(np.array([target_record(INPUT, int(rows))], TARGET))
    pictures = [[cuda.to_device(noise) for _ in range(BATCH)] for _ in range(sets)]
    boxes: Any = {"pitch_bytes": row_bytes, "region": (0, 0, width, height), "place": PLACE}
    records = [[picture_record(int(each), pixel_format, SOURCE_PX, **boxes) for each in batch] for batch in pictures]
    on_gpu = [cuda.to_device(np.array(batch, PICTURE)) for batch in records]
    grid, block = launch_shape(INPUT.width, INPUT.height, BATCH)
    memory = (pictures, on_gpu, rows, target)  # lives as long as the returned function

    def launch(number: int) -> None:
        _, records, _, target = memory
        function.prepared_async_call(grid, block, None, int(records[number % sets]), int(target))

    return launch


def measure(pixel_format: str, rounds: int) -> dict[str, Any]:
    cuda = open_gpu()
    device = cuda.Context.get_device()
    copy = measure_copy(cuda, rounds)
    times_ms = measured_ms(cuda, make_launch(cuda, pixel_format), rounds)
    needed = bytes_needed(pixel_format)
    bandwidth = needed / (statistics.median(times_ms) / 1000)
    return {
        "gpu": device.name(),
        "kernel": kernel_file("sm_{}{}".format(*device.compute_capability())).name,
        "driver_cuda": cuda.get_driver_version(),
        "machine": platform.machine(),
        "pictures": f"{BATCH} of {SOURCE_PX[0]}×{SOURCE_PX[1]} {pixel_format}",
        "input": f"{INPUT.width}×{INPUT.height} {INPUT.dtype.name} N×C×H×W",
        "needed_bytes": needed,
        "copy_bytes_per_s": statistics.median(copy),
        "kernel_bytes_per_s": bandwidth,
        "share_of_copy": bandwidth / statistics.median(copy),
        "target_share": TARGET_SHARE,
        "kernel_ms": times_ms,
        "copy_bytes_per_s_each": copy,
    }


def show(figures: dict[str, Any]) -> None:
    table = Table(title=f"{figures['gpu']}: {figures['pictures']} → {figures['input']} ({figures['kernel']})")
    for column in ("figure", "median", "least to most"):
        table.add_column(column)
    copy, times = figures["copy_bytes_per_s_each"], figures["kernel_ms"]
    table.add_row(
        "copy, GB/s", f"{figures['copy_bytes_per_s'] / 1e9:.1f}", f"{min(copy) / 1e9:.1f} to {max(copy) / 1e9:.1f}"
    )
    table.add_row("kernel, ms", f"{statistics.median(times):.4f}", f"{min(times):.4f} to {max(times):.4f}")
    table.add_row("kernel, GB/s", f"{figures['kernel_bytes_per_s'] / 1e9:.1f}", "")
    share = figures["share_of_copy"]
    table.add_row(
        "fraction of the copy", f"{share:.2f}", "" if share >= TARGET_SHARE else f"target {TARGET_SHARE}: missed"
    )
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--format", choices=sorted(FORMATS), default="bgr")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--json", type=Path, metavar="OUT", help="write the figures, including each round's")
    arguments = parser.parse_args()
    figures = measure(arguments.format, arguments.rounds)
    show(figures)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
