"""Draft of a model's `[output]`: what the file says, and what the model gives for known pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from edge.cli.engines.added_files import AddedFiles
from edge.cli.engines.draft import (
    ENCODINGS,
    OutputDraft,
    classifier_draft,
    custom_draft,
    detector_draft,
    input_settings,
)
from edge.cli.engines.draft_input import InputDraft
from edge.core.errors import ModelError
from edge.core.manifest import InputSettings
from edge.core.records import Image
from edge.inference.backends.engine import TensorSpec
from edge.inference.backends.input_tensors import picture_px, served_inputs
from edge.inference.decode.classifier import decided
from edge.inference.decode.families import ALIASES, CLASSIFIER, NAMES
from edge.inference.proof.examination import Bench
from edge.inference.proof.identification import Identification, Named, identify, strongest
from edge.inference.proof.pictures import Sample
from edge.inference.proof.runs import run_pictures

_TASKS = ("detect", "classify")
_PROBABILITY_OPS = frozenset({"Softmax", "Sigmoid", "HardSigmoid"})
_FEW_COLUMNS = (6, 7)  # of rows of one box each, which a classifier of as many classes has too
_FAINT, _CLEAR = 0.1, 0.3  # scores that tell a wrong encoding of the picture from the right one


@dataclass
class ProvenDraft:
    """Drafts of the output, and how they were found, in sentences for people."""

    drafts: list[tuple[str, OutputDraft]] = field(default_factory=list)  # the reading in words, and its draft
    read: list[str] = field(default_factory=list)  # from the file
    measured: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)


def draft_output(
    files: AddedFiles, inputs: InputDraft, label_count: int, shown: Image | None = None, decoder: str | None = None
) -> ProvenDraft:
    """Draft the output of a model; raise ModelError, in a sentence, where no reading of it remains.

    `shown` is a picture to prove it on, in place of the built-in one; `decoder` is the family that the user names.
    """
    found = ProvenDraft()
    if decoder is not None and ":" in decoder:
        found.drafts = [(f"decoder {decoder!r}, one's own", custom_draft(decoder))]
        return found
    for value in files.onnx.outputs if files.onnx else ():
        if value.shape is None:
            raise ModelError(
                f"model {files.name}: found no shape of the output {value.name!r} in the file, wanted one; run ONNX's "
                "shape inference on it (onnx.shape_inference), or export it again"
            )
    task = files.metadata.get("task", "").strip().lower()
    if task and task not in _TASKS:
        wanted = " or ".join(map(repr, _TASKS))
        raise ModelError(
            f"model {files.name}: found task {task!r} in its metadata, wanted {wanted}; export a detector, or add it "
            "with a decoder of one's own: --decoder decoder:decode"
        )
    if task:
        found.read.append(f"task {task}, by the file's metadata")
    runs, outputs, input_px = _run(files, inputs, shown)
    samples = [sample for each in runs.values() for sample in each]
    if task == "classify" or (task != "detect" and is_classifier(outputs, samples)):
        return _classifier(files, inputs, outputs, samples, found, is_plain=task == "classify")
    options = {"input_width": input_px[0], "input_height": input_px[1], "label_count": label_count}
    identified = identify(outputs, samples, options, files.metadata)
    chosen = _chosen(identified, outputs, decoder)
    found.assumed += identified.assumed
    bench = Bench(tuple(outputs), tuple(samples), options)
    for named in chosen:
        drafted = _with_encoding(detector_draft(named), named, inputs, runs, bench, found)
        found.drafts.append((named.text, drafted))
    return found


def is_classifier(outputs: Sequence[TensorSpec], samples: Sequence[Sample]) -> bool:
    """Return whether the only output is one row of values for each picture."""
    if len(outputs) != 1:
        return False
    (spec,) = outputs
    shapes = {sample.outputs[spec.name].shape for sample in samples}
    if len(spec.shape) < 2 or any(size != 1 for size in spec.shape[2:]):  # noqa: PLR2004 -- batch and classes
        return False
    is_row = all(shape[0] == (spec.shape[0] or 1) for shape in shapes)
    return is_row and not (spec.shape[0] is None and spec.shape[1] in _FEW_COLUMNS and len(spec.shape) == 2)  # noqa: PLR2004


def _run(
    files: AddedFiles, inputs: InputDraft, shown: Image | None
) -> tuple[dict[str, Sequence[Sample]], Sequence[TensorSpec], tuple[int, int]]:
    """Run the model on pictures in each encoding that its input can have."""
    encodings = {name: InputSettings.model_validate(input_settings(usual, inputs)) for name, usual in ENCODINGS.items()}
    first = next(iter(encodings))
    if inputs.is_bytes:
        encodings = {first: encodings[first]}
    engine = files.open(encodings[first])  # which sizes and values are the same in all
    runs = {name: run_pictures(engine, settings, shown) for name, settings in encodings.items()}
    return runs, engine.outputs, picture_px(served_inputs(engine.inputs, encodings[first])[0], encodings[first])


def _classifier(
    files: AddedFiles,
    inputs: InputDraft,
    outputs: Sequence[TensorSpec],
    samples: Sequence[Sample],
    found: ProvenDraft,
    *,
    is_plain: bool,
) -> ProvenDraft:
    (spec,) = outputs
    operator = files.onnx.last_operator(spec.name) if files.onnx else None
    values = [np.asarray(sample.outputs[spec.name]).reshape(-1).astype(np.float32) for sample in samples]
    if spec.dtype.kind in "iu" or operator in _PROBABILITY_OPS:
        activation = "none"
        found.read.append(f"the output is probabilities: {operator or spec.dtype.name}")
    else:
        activation = decided(values)
        low, high = min(each.min() for each in values), max(each.max() for each in values)
        found.measured.append(f"values from {low:.3g} to {high:.3g}: activation {activation!r}")
        if activation == "softmax":
            found.assumed.append("one class excludes the others; for labels that hold together, activation = 'sigmoid'")
    draft = classifier_draft(activation, is_plain=is_plain)
    found.drafts = [(f"decoder {CLASSIFIER!r}: one row of scores ({spec.name} {spec.shape_text})", draft)]
    found.assumed.append(f"{_input_text(input_settings(draft.usual_input, inputs))}; check how yours was trained")
    return found


def _chosen(identified: Identification, outputs: Sequence[TensorSpec], decoder: str | None) -> Sequence[Named]:
    """Return the readings that remain, of the family that the user names if there is one."""
    if decoder is None:
        if not identified.remaining:
            raise ModelError(identified.refusal(outputs))
        doubtful = next((each for each in identified.remaining if each.doubt is not None), None)
        if doubtful is not None and len(identified.remaining) == 1:
            raise ModelError(
                f"one reading remains, and is doubtful: {doubtful.text}; but {doubtful.doubt}. If it is right all the "
                f"same, choose it with --decoder {doubtful.family}"
            )
        return identified.remaining
    family = ALIASES.get(decoder.casefold(), decoder)
    if family not in NAMES:
        raise ModelError(f"--decoder: found {decoder!r}, wanted {', '.join(NAMES)}, or 'package.module:function'")
    chosen = [each for each in identified.remaining if each.family == family]
    if not chosen:
        others = "; ".join(each.text for each in identified.remaining) or identified.refusal(outputs)
        raise ModelError(f"--decoder {decoder}: the model's values do not fit it; what fits: {others}")
    # Of several readings of the family, that which is nearest to its own.
    chosen.sort(key=lambda each: each.differences)
    is_clear = len(chosen) == 1 or chosen[0].differences < chosen[1].differences
    return chosen[:1] if is_clear else chosen


def _with_encoding(
    drafted: OutputDraft,
    named: Named,
    inputs: InputDraft,
    runs: Mapping[str, Sequence[Sample]],
    bench: Bench,
    found: ProvenDraft,
) -> OutputDraft:
    """Set colour and scale to those in which the model finds something, if it finds nothing in the usual ones."""
    usual = drafted.usual_input
    scores = {name: strongest(samples[1:], named.candidate, bench) for name, samples in runs.items()}
    own = next((name for name, each in ENCODINGS.items() if each["scale"] == usual["scale"]), None)
    best = max(scores, key=lambda name: scores[name])
    if own in scores and best != own and scores[own] < _FAINT and scores[best] > _CLEAR:
        found.measured.append(f"highest score {scores[best]:.2f} with input {best}, {scores[own]:.2f} with {own}")
        return replace(drafted, usual_input={**usual, **{key: ENCODINGS[best][key] for key in ("color", "scale")}})
    found.measured.append(f"highest score of the test pictures: {max(scores.values()):.2f}")
    settings = _input_text(input_settings(usual, inputs))
    found.assumed.append(f"{settings}: usual for models with this output; check how yours was trained")
    return drafted


def _input_text(settings: Mapping[str, Any]) -> str:
    return f"input: {settings['color']}, {settings['resize']}, scale {settings['scale']:.6g}, mean {settings['mean']}"
