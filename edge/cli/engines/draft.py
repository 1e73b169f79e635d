"""Draft of a model.toml: a reading that was proven, and the preprocessing that is usual with it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge.cli.engines.draft_input import InputDraft
from edge.inference.decode.reading import written_out
from edge.inference.proof.identification import Named

_COLORS = {1: {"bgr": "gray", "rgb": "gray"}, 4: {"bgr": "bgra", "rgb": "rgba"}}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_PLAIN = ([0, 0, 0], [1, 1, 1])
_IMAGENET = ([123.675, 116.28, 103.53], [0.229, 0.224, 0.225])
_SSD = ([127, 127, 127], [128, 128, 128])
_THRESHOLDS = {"score_threshold": 0.35, "iou_threshold": 0.45}
# Families whose models take the whole picture, stretched.
_STRETCHED = ("detr", "rf-detr", "d-fine", "rtdetr-ultralytics", "rtdetr-top", "torchvision", "tensorflow", "ssd")


@dataclass(frozen=True)
class OutputDraft:
    """Draft of `[output]`, with the task and the preprocessing that is usual with it."""

    task: str
    keys: Mapping[str, Any]
    usual_input: Mapping[str, Any] = field(default_factory=dict)


def detector_draft(named: Named) -> OutputDraft:
    """Draft the output of a detector: its reading written out."""
    reading = named.candidate.reading
    keys: dict[str, Any] = {"decoder": named.family, **written_out(reading), "nms": reading.nms}
    if named.is_named:
        pairs = zip(named.candidate.names, reading.outputs, strict=True)
        keys["outputs"] = {name: list(parts) for name, parts in pairs}
    return OutputDraft("detect", {**keys, **_THRESHOLDS}, _usual_input(named))


def classifier_draft(activation: str, *, is_plain: bool) -> OutputDraft:
    """Draft the output of a classifier; `is_plain`: it takes 0…1 without mean and standard deviation."""
    mean, std = _PLAIN if is_plain else _IMAGENET
    usual = {"color": "rgb", "resize": "crop", "scale": 1 / 255, "mean": mean, "std": std}
    return OutputDraft("classify", {"decoder": "topk", "activation": activation}, usual)


def custom_draft(decoder: str) -> OutputDraft:
    """Draft the output of a model with a decoder of one's own."""
    return OutputDraft("detect", {"decoder": decoder, **_THRESHOLDS}, _letterbox("rgb", 1 / 255))


def draft(inputs: InputDraft, output: OutputDraft, files: Mapping[str, str], labels: str | None) -> str:
    """Return the text of a model.toml; `files` are the keys that name its files."""
    lines = [
        f'task = "{output.task}"',
        *(f"{key} = {toml_value(name)}" for key, name in files.items()),
        f"labels = {toml_value(labels)}"
        if labels
        else '# labels = "labels.txt"   # one per line; without it classes are numbers',
        "",
        "[input]",
        *(f"{key} = {toml_value(value)}" for key, value in input_settings(output.usual_input, inputs).items()),
        "",
        "[output]",
        *(f"{key} = {toml_value(value)}" for key, value in output.keys.items()),
    ]
    return "\n".join(lines) + "\n"


def input_settings(usual: Mapping[str, Any], inputs: InputDraft) -> dict[str, Any]:
    """Return the usual preprocessing as far as the model's own input allows it."""
    settings = dict(usual)
    color = settings["color"]
    settings["color"] = _COLORS.get(inputs.channels, {}).get(color, color)
    if inputs.is_bytes:
        settings |= {"scale": 1.0, "mean": [inputs.zero_level] * 3, "std": _PLAIN[1]}
    if inputs.channels == 1:
        settings |= {"mean": settings["mean"][:1] if inputs.is_bytes else [0], "std": [1]}
    if inputs.size is not None:
        settings["size"] = list(inputs.size)
    if inputs.values:
        settings["values"] = dict(inputs.values)
    return settings


def _usual_input(named: Named) -> dict[str, Any]:
    """Return the usual preprocessing of models with this reading."""
    family, reading = named.family, named.candidate.reading
    if named.is_yolox:
        return {**_letterbox("bgr", 1.0), "anchor": "top-left"}
    if family not in _STRETCHED:
        return _letterbox("rgb", 1 / 255)
    is_normalised = family == "rf-detr" or (family == "detr" and reading.activation == "softmax")
    mean, std = _IMAGENET if is_normalised else _PLAIN
    scale = 1 / 255
    if family == "ssd" and reading.units == "unit":
        (mean, std), scale = _SSD, 1.0
    return {"color": "rgb", "resize": "stretch", "scale": scale, "mean": mean, "std": std}


def _letterbox(color: str, scale: float) -> dict[str, Any]:
    mean, std = _PLAIN
    place = {"resize": "letterbox", "anchor": "center", "pad": 114}
    return {"color": color, **place, "scale": scale, "mean": mean, "std": std}


def toml_value(value: Any) -> str:
    """Write a value as TOML."""
    if isinstance(value, Mapping):
        pairs = (
            f"{key if _BARE_KEY.fullmatch(key) else json.dumps(key)} = {toml_value(each)}"
            for key, each in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value)  # TOML and JSON write strings, numbers and lists alike


# Encodings of the picture in which detectors are tried, as people would name them.
ENCODINGS = {"RGB 0…1": _letterbox("rgb", 1 / 255), "BGR 0…255": _letterbox("bgr", 1.0)}
