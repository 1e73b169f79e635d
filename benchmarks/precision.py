"""Accuracy of FP16 and INT8: `.venv/bin/python benchmarks/precision.py [--json OUT] [--markdown]`.

Two networks are scored on ground truth unseen in training: the conveyor detector on scenes of other seeds, and the
digit classifier on the held-out part of scikit-learn's digits (`pip install scikit-learn`). All variants of a network
read each image in turn: the runtime's own preprocessing, ONNX Runtime on one thread, decoding.

On a CPU without FP16 instructions, ONNX Runtime computes an FP16 file in FP32, so a further row has each tensor of the
FP16 file rounded to FP16, which is representative of a GPU.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from rich.console import Console
from rich.progress import track
from rich.table import Table
from rounded import rounded

from edge.capture.scene.conveyor import Conveyor
from edge.core.manifest import model_file, read_labels, read_manifest
from edge.core.records import Detections, Findings, Image
from edge.core.state_dir import default_state_dir
from edge.inference.backends.ort import OrtEngine, import_onnxruntime
from edge.inference.decode import Decoder
from edge.inference.derived_files import source_sha256
from edge.inference.fp16.convert import fp16_file
from edge.inference.infer import Inference
from edge.inference.preprocess import Preprocessor
from edge.precision.average_precision import TrueBoxes, mean_average_precision

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "engines" / "digits"))  # for its images


# As engines/conveyor/train.py evaluates: no training frame is of these seeds.
FIRST_SEED = 900_000
FRAMES_PER_SEED = 20
FRAME_STEP = 97
SIZES_PX = (*((640, 480),) * 7, (1280, 720), (320, 240), (480, 640))
SCORE_FLOOR = 0.01
ROUNDED = "FP16, each tensor rounded"


class Network(Protocol):
    """Model with images of known ground truth."""

    folder: Path
    metric: str
    calibration: str  # commands that make the INT8 variants

    def samples(self) -> Iterator[tuple[Image, Any]]:
        """Yield images (H×W×3, BGR) with their ground truth."""

    def accuracy(self, truths: Sequence[Any], found: Sequence[Findings]) -> float: ...


class Scenes:
    """Conveyor detector on unseen scenes."""

    folder = ROOT / "engines" / "conveyor"
    metric = "mAP50"
    calibration = 'edge engines quantize engines/conveyor --calibration "synthetic://conveyor?seed=10000"'

    def __init__(self, count: int) -> None:
        self._seeds = range(FIRST_SEED, FIRST_SEED + count)

    def samples(self) -> Iterator[tuple[Image, TrueBoxes]]:
        for seed in self._seeds:
            width_px, height_px = SIZES_PX[seed % len(SIZES_PX)]
            scene, frame = Conveyor(width_px, height_px, seed), np.empty((height_px, width_px, 3), np.uint8)
            for index in range(0, FRAMES_PER_SEED * FRAME_STEP, FRAME_STEP):
                truth = scene.render(index, frame)
                crowd = np.zeros(len(truth.class_ids), np.bool_)
                yield frame, TrueBoxes(truth.boxes.astype(np.float64), truth.class_ids, crowd)

    def accuracy(self, truths: Sequence[TrueBoxes], found: Sequence[Findings]) -> float:
        judged = mean_average_precision(truths, [each for each in found if isinstance(each, Detections)])
        if judged is None:
            raise SystemExit("the scenes hold no parts; wanted at least one scene")
        return judged.map50


class Digits:
    """Digit classifier on the held-out part."""

    folder = ROOT / "engines" / "digits"
    metric = "top-1"
    calibration = (
        "python engines/digits/handwriting.py FOLDER; edge engines quantize engines/digits --calibration FOLDER"
    )

    def samples(self) -> Iterator[tuple[Image, int]]:
        from handwriting import read_digits  # noqa: PLC0415 -- found by the path above

        _, held_out = read_digits()
        for picture, digit in zip(held_out.pictures, held_out.classes, strict=True):
            yield np.repeat(picture[..., None], 3, axis=2), int(digit)

    def accuracy(self, truths: Sequence[int], found: Sequence[Findings]) -> float:
        right = sum(int(each.class_ids[0]) == truth for each, truth in zip(found, truths, strict=True))
        return right / len(truths)


class Reader:
    """Opened variant of a model."""

    def __init__(self, folder: Path, onnx: Path) -> None:
        manifest = read_manifest(folder)
        self._engine = OrtEngine(onnx, threads=1)
        self._spec = self._engine.inputs[0]
        self._preprocessor = Preprocessor(self._spec, manifest.input)
        labels = read_labels(folder, manifest)
        self._decoder = Decoder(manifest, labels, self._engine.outputs, self._preprocessor.input_px, folder)
        self._floor = SCORE_FLOOR if manifest.task == "detect" else None
        self._context = self._engine.make_context(1)
        self._inference = Inference(self._context, self._engine, 1)
        self._inference.warm_up()

    def read(self, picture: Image) -> tuple[Findings, float]:
        """Return the findings, and the engine's own time in ms."""
        geometry = self._preprocessor.fill(picture, self._context.inputs[self._spec.name][0])
        times = self._inference.run(1)
        return self._decoder.decode(self._inference.outputs_of(0), geometry, self._floor), times.compute_ms


@dataclass(frozen=True)
class Row:
    """Figures of one variant of a network."""

    network: str
    form: str
    file: str
    metric: str
    accuracy: float | None = None
    difference: float | None = None  # to FP32
    bytes: int | None = None
    ms: float | None = None  # median, batch 1
    lacking: str | None = None  # the reason for no figures


def measure(network: Network, forms: Mapping[str, Path]) -> dict[str, tuple[float, float]]:
    """Return accuracy and median time of each variant, which alternate in reading an image first."""
    readers = {name: Reader(network.folder, path) for name, path in forms.items()}
    found: dict[str, list[Findings]] = {name: [] for name in forms}
    times_ms: dict[str, list[float]] = {name: [] for name in forms}
    truths = []
    order = list(forms)
    for picture, truth in track(network.samples(), network.folder.name, console=Console(stderr=True), transient=True):
        truths.append(truth)
        for name in order:
            findings, time_ms = readers[name].read(picture)
            found[name].append(findings)
            times_ms[name].append(time_ms)
        order = [*order[1:], order[0]]
    return {name: (network.accuracy(truths, found[name]), statistics.median(times_ms[name])) for name in forms}


def rows_of(network: Network, scratch: Path) -> list[Row]:
    """Measure the existing variants of a network; a missing one gets a row with the reason."""
    onnx = model_file(network.folder, read_manifest(network.folder))
    half = fp16_file(onnx, default_state_dir())
    int8 = {
        "INT8 for ONNX Runtime": onnx.with_name(f"{onnx.stem}.int8-cpu.onnx"),
        "INT8 for TensorRT": onnx.with_name(f"{onnx.stem}.int8.onnx"),
    }
    lacking = {form: reason for form, path in int8.items() if (reason := _why_not(path, onnx, network))}
    forms = {"FP32": onnx, "FP16": half, ROUNDED: rounded(half, scratch / half.name)} | int8
    figures = measure(network, {form: path for form, path in forms.items() if form not in lacking})
    return [
        Row(onnx.stem, form, path.name, network.metric, lacking=lacking[form])
        if form in lacking
        else _row(network, form, path, figures)
        for form, path in forms.items()
    ]


def _row(network: Network, form: str, path: Path, figures: Mapping[str, tuple[float, float]]) -> Row:
    accuracy, time_ms = figures[form]
    served = form != ROUNDED
    return Row(
        network.folder.name,
        form,
        path.name,
        network.metric,
        round(accuracy, 5),
        round(accuracy - figures["FP32"][0], 5),
        path.stat().st_size if served else None,
        round(time_ms, 3) if served else None,
    )


def _why_not(path: Path, onnx: Path, network: Network) -> str | None:
    """Return the reason that an INT8 file cannot be measured; None if it can."""
    if not path.is_file():
        return f"make INT8 variants with {network.calibration}"
    made_of_this = source_sha256(onnx).encode() in path.read_bytes()
    return (
        None if made_of_this else f"{path.name} is made from another {onnx.name}; remake it with {network.calibration}"
    )


def cells(row: Row) -> list[str]:
    if row.lacking:
        return [row.network, row.form, row.metric, "not there", "", "", ""]
    size = "" if row.bytes is None else f"{row.bytes:,}"
    difference = "" if row.form == "FP32" else f"{row.difference:+.5f}"
    return [
        row.network,
        row.form,
        row.metric,
        f"{row.accuracy:.4f}",
        difference,
        size,
        f"{'' if row.ms is None else row.ms}",
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", type=int, default=50, help="unseen scenes, of 20 frames each (%(default)s)")
    parser.add_argument("--json", type=Path, metavar="OUT")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    options = parser.parse_args()
    networks: list[Network] = [Scenes(options.scenes), Digits()]
    left_out = None
    if importlib.util.find_spec("sklearn") is None:
        left_out = "digits: scikit-learn, which contains the images, is not installed: pip install scikit-learn"
        networks.pop()
    with tempfile.TemporaryDirectory() as scratch:
        rows = [row for network in networks for row in rows_of(network, Path(scratch))]
    show(rows, markdown=options.markdown)
    for note in dict.fromkeys([*(f"{row.network}: {row.lacking}" for row in rows if row.lacking), left_out or ""]):
        print(note, file=sys.stderr)
    if options.json:
        document = {
            "rows": [asdict(row) for row in rows],
            "left_out": left_out,
            "frames": FRAMES_PER_SEED * options.scenes,
        }
        options.json.write_text(json.dumps(document | machine(), indent=1) + "\n", encoding="utf-8")
    return 0


HEADER = ("network", "form", "metric", "accuracy", "to FP32", "bytes", "ms, batch 1, one thread")


def show(rows: Sequence[Row], *, markdown: bool) -> None:
    if markdown:
        lines = [HEADER, ["---"] * len(HEADER), *(cells(row) for row in rows)]
        print("\n".join(f"| {' | '.join(line)} |" for line in lines))
        return
    table = Table(*HEADER, title="Accuracy by precision")
    for row in rows:
        table.add_row(*cells(row))
    Console().print(table)


def machine() -> dict[str, Any]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "CPU part"))]
    return {
        "processor": f"{platform.machine()} {names[0] if names else ''}".strip(),
        "onnxruntime": import_onnxruntime().__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    sys.exit(main())
