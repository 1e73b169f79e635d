"""Draft of a model.toml, guessed from the tensors of an ONNX file."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from edge.cli.engines.draft_input import InputDraft
from edge.inference.backends.engine import TensorSpec

_BOX_COLUMNS = 4
_END_TO_END_COLUMNS = 6  # x1, y1, x2, y2, score, class
_COLORS = {1: {"bgr": "gray", "rgb": "gray"}, 4: {"bgr": "bgra", "rgb": "rgba"}}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def draft(
    inputs: InputDraft, outputs: tuple[TensorSpec, ...], files: Mapping[str, str], labels: str | None
) -> tuple[str, list[str]]:
    """Return a model.toml for a model with these tensors, and its guesses; `files` are the keys that name its files."""
    task, decoder, reason = _guess_decoder(outputs)
    settings = _input_settings(decoder, inputs)
    lines = [
        f'task = "{task}"',
        *(f"{key} = {_toml(name)}" for key, name in files.items()),
        f"labels = {_toml(labels)}"
        if labels
        else '# labels = "labels.txt"   # one per line; without it classes are numbers',
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
        "usual for models with this output; check how yours was trained"
    )
    return "\n".join(lines) + "\n", [reason, guessed_input, *inputs.notes]


def _guess_decoder(outputs: tuple[TensorSpec, ...]) -> tuple[str, str, str]:
    """Guess task and decoder from the shapes of the outputs; return them with the reason, for people."""
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
    return "detect", own, f"decoder: no built-in one fits ({shapes}); write decode() in a decoder.py next to it"


def _input_settings(decoder: str, inputs: InputDraft) -> dict[str, Any]:
    """Return the usual preprocessing of models with this decoder, for this input."""
    settings = _usual_input(decoder, is_gray=inputs.channels == 1)
    color = settings["color"]
    settings["color"] = _COLORS.get(inputs.channels, {}).get(color, color)
    if inputs.is_bytes:
        settings |= {
            "scale": 1.0,
            "mean": [inputs.zero_level] * len(settings["mean"]),
            "std": [1] * len(settings["std"]),
        }
    if inputs.size is not None:
        settings["size"] = list(inputs.size)
    if inputs.values:
        settings["values"] = dict(inputs.values)
    return settings


def _usual_input(decoder: str, *, is_gray: bool) -> dict[str, Any]:
    channels = 1 if is_gray else 3
    plain = {"mean": [0] * channels, "std": [1] * channels}
    unit = 1 / 255
    if decoder == "yolox":
        return {"color": "bgr", "resize": "letterbox", "anchor": "top-left", "pad": 114, "scale": 1.0, **plain}
    if decoder == "topk":
        imagenet = {"mean": [123.675, 116.28, 103.53], "std": [0.229, 0.224, 0.225]}
        return {"color": "rgb", "resize": "crop", "scale": unit, **(plain if is_gray else imagenet)}
    if decoder in ("ssd", "detr"):
        scale = {"mean": [127] * channels, "std": [128] * channels} if decoder == "ssd" else plain
        return {"color": "rgb", "resize": "stretch", "scale": 1.0 if decoder == "ssd" else unit, **scale}
    return {"color": "rgb", "resize": "letterbox", "anchor": "center", "pad": 114, "scale": unit, **plain}


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (
            f"{key if _BARE_KEY.fullmatch(key) else json.dumps(key)} = {_toml(each)}" for key, each in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value)  # TOML and JSON write strings, numbers and lists alike
