"""Identification of a detector's reading: all that its outputs could be, less what its values refute."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from edge.core.errors import ModelError
from edge.inference.backends.engine import TensorSpec
from edge.inference.decode.contract import Options
from edge.inference.decode.families import FAMILIES
from edge.inference.decode.placement import place_parts
from edge.inference.decode.reading import Reading
from edge.inference.proof import score_rules
from edge.inference.proof.box_rules import cell_anchors
from edge.inference.proof.examination import Bench, Candidate, candidates, examine
from edge.inference.proof.mirroring import duplicates
from edge.inference.proof.pictures import Sample
from edge.inference.proof.views import view_of

_MOST_QUERIES = 1000  # rows of a model that marks each object once
_REASONS_SHOWN = 4
# How much a reading that differs from a family's in one part is another one.
_WEIGHTS = {"coding": 16, "layout": 8, "boxes": 8, "units": 8, "activation": 4, "background": 4}
_USUAL_FORMS = ("cxcywh", "xyxy")
_FORM_WORDS = {
    "cxcywh": "centre x, centre y, width, height",
    "xyxy": "corners x1, y1, x2, y2",
    "xywh": "corner x, y, width, height",
    "yxyx": "corners y1, x1, y2, x2",
}
_UNIT_WORDS = {"input": "pixels of the input", "unit": "fractions of the picture", "source": "pixels of the source"}


@dataclass(frozen=True)
class Named:
    """A reading that remains, with the family whose name it goes by."""

    candidate: Candidate
    family: str
    doubt: str | None  # why it may be wrong all the same
    is_yolox: bool  # whether the outputs are those of YOLOX, whose boxes are decoded
    is_named: bool  # whether the outputs have to be named, as the family would not find them

    @property
    def differences(self) -> int:
        """The measure of how far the reading is from its family's own."""
        return _differences(self.candidate.reading, FAMILIES[self.family].reading)

    @property
    def text(self) -> str:
        """Describe the reading for people."""
        reading = self.candidate.reading
        parts = "; ".join(
            f"{name}: {', '.join(parts)}"
            for name, parts in zip(self.candidate.names, reading.outputs, strict=True)
            if parts != ("unused",)
        )
        boxes = "offsets to cells" if reading.coding != "none" else _FORM_WORDS[reading.boxes]
        scores = {"none": "scores are probabilities", "sigmoid": "scores by sigmoid", "softmax": "scores by softmax"}
        background = "" if reading.background == "none" else f", {reading.background} class is no class"
        return (
            f"decoder {self.family!r} ({parts}): {boxes} in {_UNIT_WORDS[reading.units]}, "
            f"{scores[reading.activation or 'none']}{background}, {'with' if reading.nms else 'without'} suppression"
        )


@dataclass(frozen=True)
class Identification:
    """Readings that remain, and what was assumed to tell them."""

    remaining: tuple[Named, ...]
    assumed: tuple[str, ...]
    refuted: tuple[tuple[Candidate, str], ...]

    def refusal(self, outputs: Sequence[TensorSpec]) -> str:
        """Say why no reading remains."""
        found = ", ".join(f"{spec.name!r} {spec.shape_text or 'of no shape'}" for spec in outputs)
        step = "export it with its post-processing, or write a decoder of one's own and add it with --decoder"
        if not self.refuted:
            return f"no built-in decoder reads the outputs {found}; {step} decoder:decode"
        reasons = [
            f"as {family!r}, {reason}"
            for candidate, reason in self.refuted
            for family in [_exact_family(candidate.reading)]
            if family is not None
        ] or [reason for reason, _ in Counter(reason for _, reason in self.refuted).most_common(_REASONS_SHOWN)]
        return f"no reading fits the outputs {found}: {'; '.join(reasons[:_REASONS_SHOWN])}; {step} decoder:decode"


def identify(
    specs: Sequence[TensorSpec], samples: Sequence[Sample], options: Options, metadata: Mapping[str, str]
) -> Identification:
    """Return the readings of a detector that its outputs for known pictures leave over."""
    bench = Bench(tuple(_filled(specs, samples)), tuple(samples), options)
    found = examine(candidates(bench), bench)
    remaining = list(found.remaining)
    assumed: list[str] = []
    if not found.is_order_seen and any(each.reading.boxes in _USUAL_FORMS for each in remaining):
        unusual = [each for each in remaining if each.reading.boxes not in _USUAL_FORMS]
        remaining = [each for each in remaining if each not in unusual]
        if unusual:
            assumed.append(
                "boxes are given by x before y, and by centre or corners: nothing was found in the picture that shows "
                "it; try one with --try PICTURE"
            )
    remaining = _by_metadata(remaining, metadata)
    remaining = [each for each in remaining if not _repeats(each, remaining)]
    return Identification(tuple(_named(each, bench) for each in remaining), tuple(assumed), found.refuted)


def _filled(specs: Sequence[TensorSpec], samples: Sequence[Sample]) -> list[TensorSpec]:
    """Return the outputs with the sizes that every run gave, but for the first axis."""
    filled = []
    for spec in specs:
        shapes = {sample.outputs[spec.name].shape for sample in samples}
        sizes = [next(iter(axis)) if len(axis) == 1 else None for axis in map(set, zip(*shapes, strict=False))]
        shape = tuple(size if size or not axis else sizes[axis] for axis, size in enumerate(spec.shape))
        filled.append(replace(spec, shape=shape))
    return filled


def _by_metadata(remaining: list[Candidate], metadata: Mapping[str, str]) -> list[Candidate]:
    """Prefer what the file's metadata say, where values leave several readings."""
    if len(remaining) < 2 or "end2end" not in metadata:  # noqa: PLR2004 -- nothing is left to decide
        return remaining
    is_final = metadata["end2end"].strip().lower() == "true"
    preferred = [each for each in remaining if is_final == any("class" in parts for parts in each.reading.outputs)]
    return preferred or remaining


def _repeats(candidate: Candidate, remaining: Sequence[Candidate]) -> bool:
    """Return whether a candidate ignores a number of rows that another one, else alike, takes into account."""
    if ("unused",) not in candidate.reading.outputs:
        return False
    outputs = tuple(("count",) if parts == ("unused",) else parts for parts in candidate.reading.outputs)
    return replace(candidate, reading=replace(candidate.reading, outputs=outputs)) in remaining


def _named(candidate: Candidate, bench: Bench) -> Named:
    """Give a reading a family's name, and decide whether it needs suppression."""
    reader = bench.reader(candidate)
    views = [view_of(sample, reader) for sample in bench.samples]
    rows = max(each.rows for each in views)
    is_dense = rows > _MOST_QUERIES or bool(cell_anchors(rows, bench.input_px))
    has_nms = is_dense or any(duplicates(each, reader) for each in views)
    candidate = replace(candidate, reading=replace(candidate.reading, nms=has_nms))
    family = _nearest_family(candidate.reading)
    # YOLOv6 has objectness 1 in all rows, and YOLOv5 and v7 have three rows a cell.
    seen = [each.columns["objectness"] for each in views if "objectness" in each.columns]
    is_yolox = cell_anchors(rows, bench.input_px) == 1 and any((each != 1).any() for each in seen)
    doubt = score_rules.doubt(views, candidate.reading.activation) if views[0].columns else None
    return Named(candidate, family, doubt, is_yolox, _needs_names(candidate, family, bench))


def _exact_family(reading: Reading) -> str | None:
    return next((name for name in FAMILIES if _differences(reading, FAMILIES[name].reading) == 0), None)


def _nearest_family(reading: Reading) -> str:
    return min(FAMILIES, key=lambda name: _differences(reading, FAMILIES[name].reading))


def _differences(reading: Reading, family: Reading) -> int:
    """Count in how far a reading differs from a family's; suppression counts least."""
    outputs = sorted(parts for parts in reading.outputs if parts != ("unused",))
    differences = 100 * (outputs != sorted(family.outputs))
    for key, weight in _WEIGHTS.items():
        wanted = getattr(family, key)
        differences += 1 if wanted is None else weight * (wanted != getattr(reading, key))
    return differences * 2 + (reading.nms != family.nms)


def _needs_names(candidate: Candidate, family: str, bench: Bench) -> bool:
    """Return whether the family by itself would find the parts elsewhere."""
    reading = replace(candidate.reading, outputs=FAMILIES[family].reading.outputs)
    options = {"decoder": family, **bench.options}
    try:
        found = place_parts(reading, None, bench.specs, options)
        wanted = place_parts(candidate.reading, candidate.names, bench.specs, options)
    except ModelError:
        return True
    return found != wanted


def strongest(samples: Sequence[Sample], candidate: Candidate, bench: Bench) -> float:
    """Return the highest score that a reading gives for any of the samples."""
    reader = bench.reader(candidate)
    best = 0.0
    for sample in samples:
        _, scores, _ = reader.read(view_of(sample, reader).outputs, 0.01)
        best = max(best, float(np.max(scores, initial=0.0)))
    return best
