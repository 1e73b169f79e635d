"""The model repository: one folder a model, `model.toml` beside its files."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from edge.core.errors import ConfigError, EdgeError, ModelError
from edge.core.manifest import built_in_models, read_labels, read_manifest
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.ort import OrtEngine

_BOX_COLUMNS = 4
_END_TO_END_COLUMNS = 6  # x1, y1, x2, y2, score, class
_CHANNELS = (1, 3)


@dataclass(frozen=True)
class ListedModel:
    """One model of the repository; `problem` says why it cannot be used."""

    name: str
    folder: str
    task: str | None = None
    decoder: str | None = None
    labels: int | None = None
    size_mb: float | None = None  # of the ONNX file, 10⁶ bytes
    problem: str | None = None


def entries() -> list[ListedModel]:
    """Return the models under `engines/` here, and those that come with the package."""
    here = sorted(path.parent for path in Path("engines").glob("*/model.toml"))
    return [_entry(folder) for folder in dict.fromkeys(each.resolve() for each in here + built_in_models())]


def _entry(folder: Path) -> ListedModel:
    try:
        manifest = read_manifest(folder)
        labels = len(read_labels(folder, manifest))
        onnx = folder / manifest.onnx
        problem = None if onnx.is_file() else f"{onnx} does not exist"
    except ModelError as error:
        return ListedModel(folder.name, str(folder), problem=str(error))
    size_mb = None if problem else round(onnx.stat().st_size / 1e6, 2)
    return ListedModel(folder.name, str(folder), manifest.task, manifest.output.decoder, labels, size_mb, problem)


def show(*, as_json: bool) -> int:
    """Print the repository as a table or as JSON."""
    found = entries()
    if as_json:
        print(json.dumps([asdict(entry) for entry in found]))  # noqa: T201 -- the command's output
        return 0
    table = Table("model", "task", "decoder", "labels", "MB", "folder", title="Models")
    for entry in found:
        cells = [entry.task, entry.decoder, entry.labels, entry.size_mb]
        texts = ["-" if cell is None else str(cell) for cell in cells]
        table.add_row(entry.name, *texts, entry.problem or entry.folder, style="red" if entry.problem else None)
    Console().print(table)
    return 0


def add(onnx: Path, name: str | None, labels: Path | None, *, as_json: bool) -> int:
    """Make `engines/NAME` with a copy of the ONNX file and a drafted model.toml."""
    for path in (onnx, *([labels] if labels else [])):
        if not path.is_file():
            raise ConfigError(f"{path} does not exist; wanted an existing file")
    folder = Path("engines") / (name or onnx.stem)
    if (folder / "model.toml").exists():
        raise ConfigError(f"{folder}/model.toml exists already; wanted a free name: give one with --name, or edit that")
    engine = OrtEngine(onnx, threads=1)
    text, guesses = draft(engine.inputs, engine.outputs, onnx.name, labels.name if labels else None)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in (onnx, *([labels] if labels else [])):
            shutil.copyfile(path, folder / path.name)
        (folder / "model.toml").write_text(text, encoding="utf-8")
    except OSError as error:
        raise EdgeError(f"{folder} cannot be written ({error.strerror}); run this where you may write") from None
    if as_json:
        print(json.dumps({"folder": str(folder), "guesses": guesses}))  # noqa: T201 -- the command's output
        return 0
    console = Console()
    console.print(f"{folder}/model.toml is drafted; look these guesses over before you use it:")
    for guess in guesses:
        console.print(f"  • {guess}", markup=False)
    console.print(f"then try it: edge detect {folder} PICTURE --save out.jpg")
    return 0


def draft(
    inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], onnx: str, labels: str | None
) -> tuple[str, list[str]]:
    """Return a model.toml for a model with these tensors, and what in it is guessed."""
    task, decoder, why = _guess_decoder(outputs)
    gray = _is_gray(inputs)
    settings = _input_settings(decoder, gray=gray)
    lines = [
        f'task = "{task}"',
        f'onnx = "{onnx}"',
        f'labels = "{labels}"' if labels else '# labels = "labels.txt"   # one a line; without it classes are numbers',
        "",
        "[input]",
        *(f"{key} = {_toml(value)}" for key, value in settings.items()),
        "",
        "[output]",
        f'decoder = "{decoder}"',
        *(["score_threshold = 0.35", "iou_threshold = 0.45"] if task == "detect" else []),
    ]
    guessed_input = (
        f"input: {settings['color']}, {settings['resize']}, scale {settings['scale']:.6g}, mean {settings['mean']}: "
        "what models with this output mostly take; see how yours was trained"
    )
    return "\n".join(lines) + "\n", [why, guessed_input]


def _guess_decoder(outputs: tuple[TensorSpec, ...]) -> tuple[str, str, str]:
    """Guess task and decoder by the outputs' shapes; the reason is for people."""
    shapes = ", ".join(f"{spec.name} {spec.shape_text}" for spec in outputs)
    last = [spec.shape[-1] for spec in outputs]
    if len(outputs) == 2 and _BOX_COLUMNS in last:  # noqa: PLR2004 -- boxes and scores
        decoder = "detr" if any("logit" in spec.name for spec in outputs) else "ssd"
        return "detect", decoder, f"decoder {decoder!r}: boxes and scores in two outputs ({shapes})"
    shape = outputs[0].shape
    if len(outputs) == 1 and len(shape) == 2:  # noqa: PLR2004 -- batch and classes
        return "classify", "topk", f"decoder 'topk': one row of scores ({shapes})"
    if len(outputs) == 1 and len(shape) == 3:  # noqa: PLR2004 -- batch and two more
        _, rows, columns = shape
        if columns == _END_TO_END_COLUMNS:
            return "detect", "yolov10", f"decoder 'yolov10': rows of 6 numbers ({shapes})"
        if rows is not None and (columns is None or rows < columns):
            return "detect", "yolov8", f"decoder 'yolov8': few rows, many columns ({shapes})"
        return "detect", "yolox", f"decoder 'yolox': many rows, few columns ({shapes})"
    own = "decoder:decode"
    return "detect", own, f"decoder: no built-in one fits ({shapes}); write decode() in decoder.py beside it"


def _is_gray(inputs: tuple[TensorSpec, ...]) -> bool:
    channels = [size for size in inputs[0].shape[1:] if size in _CHANNELS]
    return bool(inputs) and channels[:1] == [1]


def _input_settings(decoder: str, *, gray: bool) -> dict[str, Any]:
    """Return the preprocessing that models with this decoder are mostly trained with."""
    channels = 1 if gray else 3
    plain = {"mean": [0] * channels, "std": [1] * channels}
    unit = 1 / 255
    color = "gray" if gray else "rgb"
    if decoder == "yolox":
        color = "gray" if gray else "bgr"
        return {"color": color, "resize": "letterbox", "anchor": "top-left", "pad": 114, "scale": 1.0, **plain}
    if decoder == "topk":
        imagenet = {"mean": [123.675, 116.28, 103.53], "std": [0.229, 0.224, 0.225]}
        return {"color": color, "resize": "crop", "scale": unit, **(plain if gray else imagenet)}
    if decoder in ("ssd", "detr"):
        scale = {"mean": [127] * channels, "std": [128] * channels} if decoder == "ssd" else plain
        return {"color": color, "resize": "stretch", "scale": 1.0 if decoder == "ssd" else unit, **scale}
    return {"color": color, "resize": "letterbox", "anchor": "center", "pad": 114, "scale": unit, **plain}


def _toml(value: Any) -> str:
    return json.dumps(value)  # strings, numbers and lists are written alike in both
