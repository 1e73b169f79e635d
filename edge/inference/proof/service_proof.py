"""Proofs of a manifest's reading: at warm-up on known pictures, and in service on all rows of a frame."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace

import numpy as np

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.classifier import ClassReader
from edge.inference.decode.contract import Options, Outputs
from edge.inference.decode.guard import MOST_SCORE
from edge.inference.decode.reader import Reader
from edge.inference.proof import box_rules, score_rules
from edge.inference.proof.arrangements import Arrangement
from edge.inference.proof.examination import Bench, Candidate, examine, readings
from edge.inference.proof.pictures import Sample
from edge.inference.proof.views import stripped, view_of_outputs

_FEW_ROWS = 20  # of which no fraction is taken


def prove(
    reader: Reader | ClassReader, name: str, specs: Sequence[TensorSpec], samples: Sequence[Sample], options: Options
) -> None:
    """Raise ModelError, in a sentence, where the outputs for known pictures refute the reading of decoder `name`."""
    reason = (
        _classifier_refutation(reader, samples)
        if isinstance(reader, ClassReader)
        else _refutation(reader, specs, samples, options)
    )
    if reason is not None:
        raise ModelError(
            f"decoder {name!r} does not fit what the model gives for known pictures: {reason}; correct [output] in "
            "model.toml, or draft it again with `edge engines add`"
        )


def decide(reader: ClassReader, samples: Sequence[Sample]) -> Sequence[Outputs]:
    """Decide a classifier's activation by its outputs for known pictures; return those, each as a reader takes it."""
    outputs = [stripped(sample, reader) for sample in samples]
    reader.decide(outputs)
    return outputs


def _classifier_refutation(reader: ClassReader, samples: Sequence[Sample]) -> str | None:
    outputs = decide(reader, samples)
    for each in outputs if reader.activation == "none" else ():
        (output,) = each.values()
        values = reader.values(output)
        if values.size and not (values.min() >= 1 - MOST_SCORE and values.max() <= MOST_SCORE):
            return f"values from {values.min():.3g} to {values.max():.3g} are no probabilities: activation = 'softmax'"
    return None


def _refutation(reader: Reader, specs: Sequence[TensorSpec], samples: Sequence[Sample], options: Options) -> str | None:
    outputs = tuple(parts for parts in reader.reading.outputs if parts != ("unused",))
    names = tuple(reader.places[parts[0]].output for parts in outputs)
    reading = replace(
        reader.reading, outputs=outputs, activation=reader.activation, background=reader.background, nms=True
    )
    own = Candidate(reading, names)
    bench = Bench(tuple(specs), tuple(samples), options, is_draft=False)
    others = [each for each in readings(Arrangement(names, outputs, reading.layout), bench) if each != own]
    found = examine([(Arrangement(names, outputs, reading.layout), [own, *others])], bench)
    reason = next((reason for each, reason in found.refuted if each == own), None)
    if reason is None:
        return None
    fitting = [each.reading for each in found.remaining]
    hints = [
        f"{field.name} = {getattr(fitting[0], field.name)!r}"
        for field in fields(reading)
        if fitting and getattr(fitting[0], field.name) != getattr(reading, field.name)
    ]
    return f"{reason} (what fits: {', '.join(hints)})" if hints else reason


def implausibility(reader: Reader, outputs: Outputs) -> str | None:
    """Return why all rows of a picture's outputs cannot be what the reading says; None where they can."""
    view = view_of_outputs("picture", outputs, reader)
    part = next((each for each in ("scores", "score") if each in view.columns), None)
    if part is not None and reader.activation == "none":
        values = view.columns[part]
        if values.size and (reason := score_rules.range_refutation(values, "none", view.rows)) is not None:
            return reason
    if reader.reading.units == "source" or np.count_nonzero(view.live) < _FEW_ROWS:
        return None
    reading = reader.reading
    return box_rules.refutation([view], reading.boxes, reading.units, reading.coding, reader.input_px)
